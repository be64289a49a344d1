"""The network of `tokenmill.tokenizers.mill_video`: a picture tokenizer that remembers.

The first frame is a picture. What is known after it, and after every group of frames, is a map of
features, the state, which is computed from ids alone, so that encoder and decoder have the same
one, as the two ends of a predictive video codec do. The encoder sees the frames of a group beside
the state and says in one id per 8x8 pixels what is new; the decoder draws the group's frames from
the states before and after it, with the picture decoder's own layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.clip_grid import Frames
from tokenmill.tokenizers.networks.mill_config import MillVideoConfig
from tokenmill.tokenizers.networks.mill_image import MillImageNetwork
from tokenmill.tokenizers.networks.mill_parts import blocks


class Memory:
    """What is known of some clips: None before their first frame, then ``[B, C, y, x]``."""

    def __init__(self) -> None:
        self.state: Tensor | None = None


class MillVideoNetwork(nn.Module):
    """A clip tokenizer (see `tokenmill.tokenizers.clips.CausalNetwork`)."""

    def __init__(self, config: MillVideoConfig) -> None:
        super().__init__()
        self.config = config
        self.frames = Frames(1, config.group)
        self.parts = self.frames
        self.picture = MillImageNetwork(config.picture)
        seen, drawn = config.picture.encoder_widths[-1], config.picture.decoder_widths[0]
        width, dims = config.width, len(config.picture.levels)
        self.from_frames = nn.Conv2d(config.group * seen, width, 1)
        self.from_state = nn.Conv2d(width, width, 3, padding=1)
        self.encoder = blocks(width, config.encoder_depth)
        fold = config.picture.fold
        self.to_latents = nn.Sequential(nn.Conv2d(width, dims * fold**2, 1), nn.PixelShuffle(fold))
        self.unfold = nn.PixelUnshuffle(fold)
        self.first = nn.Conv2d(dims * fold**2, width, 3, padding=1)
        self.news = nn.Conv2d(dims * fold**2, width, 3, padding=1)
        self.kept = nn.Conv2d(width, width, 1)
        self.update = blocks(width, config.state_depth)
        self.between = nn.Conv2d(2 * width, width, 1)
        self.drawer = blocks(width, config.frames_depth)
        self.to_frames = nn.Conv2d(width, config.group * drawn, 1)

    def forward(self, clips: Tensor) -> Tensor:
        """Return the reconstructions of clips ``[B, 3, 1 + 4k, H, W]``, to learn from."""
        with torch.no_grad():
            codes = self.picture.quantizer(self.picture.latents(clips[:, :, 0]))
            made = [self.picture.pictures(codes)[:, :, None]]
        state = self.begun(codes)
        for group in torch.split(clips[:, :, 1:], self.config.group, dim=2):
            codes = self.picture.quantizer(self.latents(group, state))
            before, state = state, self.moved(state, codes)
            made.append(self.drawn(before, state))
        return torch.cat(made, dim=2)

    def begun(self, codes: Tensor) -> Tensor:
        """Return the state ``[B, C, y, x]`` after the first frame of codes ``[B, h, w, D]``."""
        return _normal(self.update(self.first(self.unfold(codes.movedim(-1, 1)))))

    def moved(self, state: Tensor, codes: Tensor) -> Tensor:
        """Return the state after a group of codes ``[B, h, w, D]``."""
        return _normal(self.update(self.kept(state) + self.news(self.unfold(codes.movedim(-1, 1)))))

    def latents(self, group: Tensor, state: Tensor) -> Tensor:
        """Return ``[B, h, w, D]`` of frames ``[B, 3, 4, H, W]``, before they are rounded."""
        count = len(group)
        seen = self.picture.encoder(group.movedim(2, 1).flatten(0, 1))
        seen = seen.unflatten(0, (count, -1)).flatten(1, 2)
        features = self.encoder(self.from_frames(seen) + self.from_state(state))
        latents: Tensor = self.to_latents(F.silu(features))
        return latents.movedim(1, -1)

    def drawn(self, before: Tensor, after: Tensor) -> Tensor:
        """Return frames ``[B, 3, 4, H, W]`` between two states."""
        features = self.drawer(self.between(torch.cat((before, after), dim=1)))
        maps = self.to_frames(F.silu(features)).unflatten(1, (self.config.group, -1))
        frames: Tensor = self.picture.decoder(maps.flatten(0, 1))
        return frames.reshape(len(before), -1, *frames.shape[1:]).movedim(1, 2)

    def fsq_levels(self) -> dict[str, tuple[int, ...]]:
        """Return the levels that make an id of each stream, the one that counts least first."""
        return {"video": self.config.picture.levels}

    def begin(self, clips: int) -> Memory:  # noqa: ARG002 - the state is made of the first frames
        """Return what is known of clips of which nothing was seen."""
        return Memory()

    def part(self, clips: Tensor, past: Memory) -> dict[str, Tensor]:
        """Return ``video``: ids ``int64[B, 1, h, w]`` of the first frames, or of the next four."""
        quantizer = self.picture.quantizer
        if past.state is None:
            ids = quantizer.ids(self.picture.latents(clips[:, :, 0]))
            past.state = self.begun(quantizer.codes(ids))
        else:
            ids = quantizer.ids(self.latents(clips, past.state))
            past.state = self.moved(past.state, quantizer.codes(ids))
        return {"video": ids[:, None]}

    def clips(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return ``[B, 3, 1 + 4k, H, W]`` of the ids ``[B, 1 + k, h, w]`` in ``video``."""
        codes = self.picture.quantizer.codes(tokens["video"])
        made = [self.picture.pictures(codes[:, 0])[:, :, None]]
        state = self.begun(codes[:, 0])
        for position in range(1, codes.shape[1]):
            before, state = state, self.moved(state, codes[:, position])
            made.append(self.drawn(before, state))
        return torch.cat(made, dim=2)


def _normal(state: Tensor) -> Tensor:
    """Return a state of length one per channel: it is handed on without end and must not grow."""
    return state * torch.rsqrt(state.square().mean(1, keepdim=True) + 1e-6)
