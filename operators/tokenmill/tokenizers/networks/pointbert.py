"""The discrete VAE of Point-BERT: groups of points to ids and back.

Yu et al.: Point-BERT: Pre-training 3D Point Cloud Transformers with Masked Point Modeling
(CVPR 2022), github.com/Julie-tang00/Point-BERT. A small PointNet (Qi et al. 2017) describes each
group, edge convolutions (DGCNN, Wang et al. 2019) over the four nearest centres turn that into
logits; the way back is a second DGCNN and a folding decoder (FoldingNet, Yang et al. 2018).
Parameter names are the official ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenmill.tokenizers.describe import no_decoder
from tokenmill.tokenizers.networks.pointbert_config import PointBertConfig

#: Nearest centres, the centre itself among them, that an edge convolution looks at.
NEIGHBOURS = 4
_SLOPE = 0.2
_NORM_GROUPS = 4
#: Half the side of the 2 x 2 patch that the decoder folds around each coarse point.
_FOLD = 0.05


def nearest_centers(centers: Tensor, count: int = NEIGHBOURS) -> Tensor:
    """Return ``int64[B, G, count]``: the nearest of ``[B, G, 3]`` to each, by float64 distance.

    Of equally near ones the lower index is taken first.
    """
    wide = centers.double()
    distances = (wide[:, :, None] - wide[:, None]).square().sum(dim=-1)
    return distances.argsort(dim=-1, stable=True)[..., :count]


class MiniPointNet(nn.Module):
    """Points of a group to one vector, twice by a shared MLP and a maximum over the points."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(
            nn.Conv1d(3, 128, 1), nn.BatchNorm1d(128), nn.ReLU(), nn.Conv1d(128, 256, 1)
        )
        self.second_conv = nn.Sequential(
            nn.Conv1d(512, 512, 1), nn.BatchNorm1d(512), nn.ReLU(), nn.Conv1d(512, width, 1)
        )

    def forward(self, groups: Tensor) -> Tensor:
        """Return ``[B, G, C]`` of neighbourhoods ``[B, G, n, 3]`` about their centres."""
        each: Tensor = self.first_conv(groups.flatten(0, 1).mT)
        whole = each.amax(dim=2, keepdim=True).expand_as(each)
        features: Tensor = self.second_conv(torch.cat([whole, each], dim=1))
        return features.amax(dim=2).reshape(*groups.shape[:2], -1)


def _edge(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(_NORM_GROUPS, outputs), nn.LeakyReLU(_SLOPE))


class Dgcnn(nn.Module):
    """Four edge convolutions over the graph of nearest centres, and a layer on all of them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.input_trans = nn.Conv1d(inputs, 128, 1)
        self.layer1 = _edge(256, 256)
        self.layer2 = _edge(512, 512)
        self.layer3 = _edge(1024, 512)
        self.layer4 = _edge(1024, 1024)
        self.layer5 = nn.Sequential(
            nn.Conv1d(2304, outputs, 1, bias=False),
            nn.GroupNorm(_NORM_GROUPS, outputs),
            nn.LeakyReLU(_SLOPE),
        )

    def forward(self, features: Tensor, centers: Tensor) -> Tensor:
        """Return ``[B, G, outputs]`` of ``[B, G, inputs]`` at ``[B, G, 3]``."""
        near = nearest_centers(centers)
        h: Tensor = self.input_trans(features.mT)
        found = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            h = layer(_edges(h, near)).amax(dim=-1)
            found.append(h)
        result: Tensor = self.layer5(torch.cat(found, dim=1))
        return result.mT


def _edges(features: Tensor, near: Tensor) -> Tensor:
    """Return ``[B, 2 C, G, k]``: neighbour less self, then self, of ``[B, C, G]``."""
    own = features[..., None].expand(-1, -1, -1, near.shape[-1])
    index = near[:, None].expand(-1, features.shape[1], -1, -1)
    other = features[..., None].expand(-1, -1, -1, near.shape[-1]).gather(2, index)
    return torch.cat([other - own, own], dim=1)


class Folding(nn.Module):
    """One vector to a group of points: coarse ones, and four fine ones about each."""

    def __init__(self, width: int, points: int) -> None:
        super().__init__()
        self.points = points
        self.mlp = nn.Sequential(
            *(nn.Linear(width, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU()),
            nn.Linear(1024, 3 * points // 4),
        )
        self.final_conv = nn.Sequential(
            *(nn.Conv1d(width + 5, 512, 1), nn.BatchNorm1d(512), nn.ReLU()),
            *(nn.Conv1d(512, 512, 1), nn.BatchNorm1d(512), nn.ReLU()),
            nn.Conv1d(512, 3, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return ``[B, G, n, 3]`` about the centres, of ``[B, G, C]``."""
        flat = features.flatten(0, 1)
        coarse: Tensor = self.mlp(flat).unflatten(1, (-1, 3)).mT
        near = coarse.repeat_interleave(4, dim=2)
        whole = flat[..., None].expand(-1, -1, self.points)
        seed = _square(features).repeat(1, self.points // 4).expand(len(flat), -1, -1)
        fine: Tensor = self.final_conv(torch.cat([whole, seed, near], dim=1)) + near
        return fine.mT.reshape(*features.shape[:2], self.points, 3)


def _square(like: Tensor) -> Tensor:
    """Return the corners ``[2, 4]`` of the patch that is folded."""
    corner = [-_FOLD, _FOLD]
    return like.new_tensor([corner * 2, [corner[0]] * 2 + [corner[1]] * 2])


class PointDvae(nn.Module):
    """The tokenizer: neighbourhoods and centres to ids, ids and centres to points."""

    def __init__(self, config: PointBertConfig) -> None:
        super().__init__()
        self.encoder = MiniPointNet(config.encoder_dims)
        self.dgcnn_1 = Dgcnn(config.encoder_dims, config.num_tokens)
        codes = torch.empty(config.num_tokens, config.tokens_dims)
        self.codebook: nn.Parameter | None = nn.Parameter(codes)
        self.dgcnn_2: Dgcnn | None = Dgcnn(config.tokens_dims, config.decoder_dims)
        self.decoder: Folding | None = Folding(config.decoder_dims, config.group_size)

    def drop_decoder(self) -> None:
        """Forget what only decoding needs, whose weights the checkpoint lacks."""
        self.codebook = self.dgcnn_2 = self.decoder = None

    def logits(self, groups: Tensor, centers: Tensor) -> Tensor:
        """Return ``[B, G, K]`` of ``[B, G, n, 3]`` and ``[B, G, 3]``."""
        logits: Tensor = self.dgcnn_1(self.encoder(groups), centers)
        return logits

    def ids(self, groups: Tensor, centers: Tensor) -> Tensor:
        """Return ``int64[B, G]``: the greatest logit, the first of equals."""
        return self.logits(groups, centers).argmax(dim=-1)

    def clouds(self, ids: Tensor, centers: Tensor) -> Tensor:
        """Return ``[B, G * n, 3]`` of ``int64[B, G]`` and ``[B, G, 3]``.

        Raises:
            JobError: the checkpoint has no decoder.
        """
        if self.codebook is None or self.dgcnn_2 is None or self.decoder is None:
            raise no_decoder("pointbert")
        features = self.dgcnn_2(self.codebook[ids], centers)
        points: Tensor = self.decoder(features) + centers[:, :, None]
        return points.flatten(1, 2)
