"""The network of `tokenmill.tokenizers.mill_video`: a picture tokenizer that goes on in time.

The first frame is a picture. Of every group of frames after it the encoder says two things, as
predictive video codecs do: how blocks of the last drawn frame move on (`mill_motion`), and what is
new. The decoder moves the last drawn frame accordingly, and a network keeps a share of every pixel
of that prediction and adds what is new. Whatever is predicted from was drawn from ids alone, so
that encoder and decoder have the same. Where nothing moves, nothing need be said.

Where at least a fifth of a group's blocks are new, the encoder tries another way: the group's ids
are the picture ids of one of its frames. It takes what comes closer, having drawn both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.clip_grid import Frames
from tokenmill.tokenizers.networks.mill_config import PATCH, MillVideoConfig
from tokenmill.tokenizers.networks.mill_image import MillImageNetwork
from tokenmill.tokenizers.networks.mill_motion import BlockMotion
from tokenmill.tokenizers.networks.mill_parts import FiniteScalar, blocks

#: ``sigmoid(3)`` is 0.95: what is kept of a prediction before anything is learned.
KEPT = 3.0
#: If one block in so many is new, a group is also tried as a new scene.
SCENE_BLOCKS = 5


class Memory:
    """What is known of some clips: None, then the last drawn frame ``float32[B, 3, H, W]``."""

    def __init__(self) -> None:
        self.frame: Tensor | None = None


class NewsEncoder(nn.Module):
    """Groups of frames beside what was predicted of them to latents, one position per 8x8."""

    def __init__(self, config: MillVideoConfig) -> None:
        super().__init__()
        fine, width = config.fine_width, config.width
        self.pairs = nn.Sequential(
            nn.PixelUnshuffle(PATCH),
            nn.Conv2d(7 * PATCH**2, fine, 3, padding=1),
            blocks(fine, config.fine_encoder_depth),
            nn.SiLU(),
        )
        self.layers = nn.Sequential(
            nn.Conv2d(config.group * fine, width, 3, stride=2, padding=1),
            blocks(width, config.encoder_depth),
            nn.SiLU(),
            nn.Conv2d(width, len(config.news_levels), 1),
        )

    def forward(self, group: Tensor, predicted: Tensor) -> Tensor:
        """Return ``[B, D, h, w]`` of ``[B, 3, G, H, W]`` and ``[B, 4, G, H, W]``."""
        both = torch.cat([group, group - predicted[:, :3], predicted[:, 3:]], dim=1).movedim(2, 1)
        pairs = self.pairs(both.flatten(0, 1)).unflatten(0, both.shape[:2])
        latents: Tensor = self.layers(pairs.flatten(1, 2))
        return latents


class NewsDecoder(nn.Module):
    """Codes, one position per 8x8, beside what was predicted to frames."""

    def __init__(self, config: MillVideoConfig) -> None:
        super().__init__()
        self.group, fine, width = config.group, config.fine_width, config.width
        self.seen = nn.Sequential(
            nn.PixelUnshuffle(PATCH), nn.Conv2d(4 * PATCH**2, fine, 3, padding=1)
        )
        self.from_seen = nn.Conv2d(self.group * fine, width, 3, stride=2, padding=1)
        self.from_codes = nn.Conv2d(len(config.news_levels), width, 3, padding=1)
        self.layers = nn.Sequential(blocks(width, config.decoder_depth), nn.SiLU())
        self.to_frames = nn.Sequential(
            nn.Conv2d(width, self.group * fine * 4, 1), nn.PixelShuffle(2)
        )
        self.fine = nn.Sequential(blocks(fine, config.fine_decoder_depth), nn.SiLU())
        self.to_pixels = nn.Conv2d(fine, 4 * PATCH**2, 3, padding=1)
        self.place = nn.PixelShuffle(PATCH)
        if not self.to_pixels.weight.is_meta:  # frames begin as what was predicted
            with torch.no_grad():
                self.to_pixels.weight.mul_(0.1)

    def forward(self, codes: Tensor, predicted: Tensor, *, only_last: bool = False) -> Tensor:
        """Return frames ``[B, 3, G, H, W]``, or the last alone, of codes ``[B, D, h, w]``."""
        shown = predicted.movedim(2, 1)
        count = shown.shape[:2]
        seen = self.seen(shown.flatten(0, 1)).unflatten(0, count)
        features = self.from_seen(F.silu(seen).flatten(1, 2)) + self.from_codes(codes)
        news = self.to_frames(self.layers(features)).unflatten(1, (self.group, -1))
        if only_last:
            seen, news, shown = seen[:, -1:], news[:, -1:], shown[:, -1:]
        pixels = self.place(self.to_pixels(self.fine((seen + news).flatten(0, 1))))
        added, shares = pixels.unflatten(0, shown.shape[:2]).split([3, 1], dim=2)
        frames: Tensor = torch.sigmoid(KEPT + shares) * shown[:, :, :3] + added
        return frames.movedim(1, 2)


class MillVideoNetwork(nn.Module):
    """A clip tokenizer (see `tokenmill.tokenizers.clips.CausalNetwork`)."""

    def __init__(self, config: MillVideoConfig) -> None:
        super().__init__()
        self.config = config
        self.frames = Frames(1, config.group)
        self.parts = self.frames
        self.picture = MillImageNetwork(config.picture)
        self.motion = BlockMotion(config.picture.levels[0], config.group)
        self.quantizer = FiniteScalar(config.news_levels)
        self.encoder = NewsEncoder(config)
        self.decoder = NewsDecoder(config)

    def forward(self, clips: Tensor) -> Tensor:
        """Return the reconstructions of clips ``[B, 3, 1 + G*k, H, W]``, to learn from.

        Every group learns from its own frames alone: what it starts from is given.
        """
        with torch.no_grad():
            made = [self.picture(clips[:, :, 0])[:, :, None]]
        for group in torch.split(clips[:, :, 1:], self.config.group, dim=2):
            frame = _known(made[-1])
            _, predicted = self.searched(frame, group)
            codes = self.quantizer(self.encoder(group, predicted).movedim(1, -1))
            made.append(self.decoder(codes.movedim(-1, 1), predicted))
        return torch.cat([part.float() for part in made], dim=2)

    def searched(self, frame: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Return how a frame goes on in a group, and what it looks like; see `BlockMotion`."""
        with torch.no_grad(), torch.autocast(frame.device.type, enabled=False):
            return self.motion.search(frame, group.float())

    def predicted(self, frame: Tensor, numbers: Tensor) -> Tensor:
        """Return what a group looks like if nothing is new; see `BlockMotion.predicted`."""
        with torch.autocast(frame.device.type, enabled=False):
            return self.motion.predicted(frame, numbers)

    def fsq_levels(self) -> dict[str, tuple[int, ...]]:
        """Return the levels that make an id of each stream, the one that counts least first."""
        return {"video": self.config.picture.levels}

    def begin(self, clips: int) -> Memory:  # noqa: ARG002 - the memory is made of the first frames
        """Return what is known of clips of which nothing was seen."""
        return Memory()

    def part(self, clips: Tensor, past: Memory) -> dict[str, Tensor]:
        """Return ``video``: ids ``int64[B, 1, h, w]`` of the first frames, or of the next group."""
        if past.frame is None:
            ids = self.picture.tokens(clips[:, :, 0])["image"]
            past.frame = _known(self.picture.images({"image": ids})[:, :, None])
            return {"video": ids[:, None]}
        numbers, predicted = self.searched(past.frame, clips)
        news = self.quantizer.ids(self.encoder(clips, predicted).movedim(1, -1))
        ids = self.motion.digits(numbers) + self.motion.base * news
        frame = _known(self._drawn(news, predicted, only_last=True))
        fresh = (self.motion.new_from(numbers) < self.config.group).flatten(1)
        tried = SCENE_BLOCKS * fresh.sum(1) >= fresh.shape[1]
        for clip in tried.nonzero().flatten().tolist():
            at = slice(clip, clip + 1)
            ids[at], frame[at] = self._closer(clips[at], past.frame[at], ids[at])
        past.frame = frame
        return {"video": ids[:, None]}

    def clips(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return ``[B, 3, 1 + G*k, H, W]`` of the ids ``[B, 1 + k, h, w]`` in ``video``."""
        ids = tokens["video"]
        made = [self.picture.images({"image": ids[:, 0]})[:, :, None]]
        for position in range(1, ids.shape[1]):
            made.append(self._group(_known(made[-1]), ids[:, position]))
        return torch.cat(made, dim=2)

    def _group(self, frame: Tensor, ids: Tensor) -> Tensor:
        """Return the frames ``[B, 3, G, H, W]`` of ids ``[B, h, w]`` that come after a frame."""
        numbers = self.motion.numbers(ids % self.motion.base)
        frames = self._drawn(ids // self.motion.base, self.predicted(frame, numbers))
        first = self.motion.scene_from(numbers)
        if bool((first == self.config.group).all()):
            return frames
        digits = self.motion.digits(self.motion.untold(numbers))
        still = self.picture.images({"image": ids - ids % self.motion.base + digits})
        times = torch.arange(self.config.group, device=ids.device)[:, None, None]
        first = first[:, None, None, None, None]
        scene = torch.where(times < first, frame[:, :, None], still[:, :, None])
        return torch.where(first < self.config.group, scene.to(frames.dtype), frames)

    def _drawn(self, news: Tensor, predicted: Tensor, *, only_last: bool = False) -> Tensor:
        codes = self.quantizer.codes(news).movedim(-1, 1)
        frames: Tensor = self.decoder(codes, predicted, only_last=only_last)
        return frames

    def _closer(self, group: Tensor, frame: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids ``[1, h, w]``, given or of a new scene, and the last frame they draw."""
        first, shown = _scene(frame, group)
        picture = self.picture.tokens(group[:, :, shown])["image"]
        numbers = self.motion.numbers(picture % self.motion.base)
        digits = self.motion.digits(self.motion.told(numbers, ids.new_tensor([first])))
        choices = (ids, picture - picture % self.motion.base + digits)
        drawn = [self._group(frame, choice).float().clamp(-1, 1) for choice in choices]
        errors = [float((frames - group).square().mean()) for frames in drawn]
        best = min(range(len(choices)), key=errors.__getitem__)
        return choices[best], _known(drawn[best])


def _scene(frame: Tensor, group: Tensor) -> tuple[int, int]:
    """Return from which frame of a group on to show which of its frames, after ``frame``."""
    size = group.shape[2]
    known = [frame, *group.unbind(2)]
    away = torch.stack([(group - one[:, :, None]).abs().mean((0, 1, 3, 4)) for one in known])
    still, *others = away.tolist()
    prices = {
        (first, shown): sum(still[:first]) + sum(others[shown][first:])
        for shown in range(size)
        for first in range(shown + 1)
    }
    return min(prices, key=prices.__getitem__)


def _known(frames: Tensor) -> Tensor:
    """Return the last frame ``[B, 3, H, W]`` of what was drawn, as others go on from it."""
    return frames[:, :, -1].detach().float().clamp(-1, 1)
