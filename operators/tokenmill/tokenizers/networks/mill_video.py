"""The network of `tokenmill.tokenizers.mill_video`: a picture tokenizer that goes on in time.

The first frame is a picture. What is known after it, and after every group of frames, is a canvas:
the features from which the picture decoder has drawn the last frame. It is computed from ids alone,
so that encoder and decoder have the same one, as the two ends of a predictive video codec do. The
encoder sees the frames of a group beside the canvas and says in one id per 8x8 pixels what is new;
the decoder keeps a share of the canvas for each frame of the group, adds what is new, and draws it
with the picture decoder's own layers. Where nothing moves, nothing need be said.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.clip_grid import Frames
from tokenmill.tokenizers.networks.mill_config import MillVideoConfig
from tokenmill.tokenizers.networks.mill_image import MillImageNetwork
from tokenmill.tokenizers.networks.mill_parts import blocks

#: ``sigmoid(3)`` is 0.95: what is kept of a canvas before anything is learned.
KEPT = 3.0


class Memory:
    """What is known of some clips: None before their first frame, then ``[B, C, y, x]``."""

    def __init__(self) -> None:
        self.canvas: Tensor | None = None


class MillVideoNetwork(nn.Module):
    """A clip tokenizer (see `tokenmill.tokenizers.clips.CausalNetwork`)."""

    def __init__(self, config: MillVideoConfig) -> None:
        super().__init__()
        self.config = config
        self.frames = Frames(1, config.group)
        self.parts = self.frames
        self.picture = MillImageNetwork(config.picture)
        seen, drawn = config.picture.encoder_widths[-1], config.picture.decoder_widths[0]
        width, dims, fold = config.width, len(config.picture.levels), config.picture.fold
        self.from_frames = nn.Conv2d(config.group * seen, width, 1)
        self.encoder_canvas = nn.Conv2d(drawn, width, 3, padding=1)
        self.encoder = blocks(width, config.encoder_depth)
        self.to_latents = nn.Sequential(nn.Conv2d(width, dims * fold**2, 1), nn.PixelShuffle(fold))
        self.from_codes = nn.Sequential(
            nn.PixelUnshuffle(fold), nn.Conv2d(dims * fold**2, width, 3, padding=1)
        )
        self.decoder_canvas = nn.Conv2d(drawn, width, 3, padding=1)
        self.decoder = blocks(width, config.decoder_depth)
        self.to_frames = nn.Conv2d(width, config.group * drawn, 1)
        self.to_shares = nn.Conv2d(width, config.group * drawn, 1)
        if not self.to_frames.weight.is_meta:  # frames begin as copies of the one before them
            with torch.no_grad():
                self.to_frames.weight.mul_(0.1)
                self.to_shares.weight.mul_(0.1)

    def forward(self, clips: Tensor) -> Tensor:
        """Return the reconstructions of clips ``[B, 3, 1 + 4k, H, W]``, to learn from."""
        with torch.no_grad():
            canvas = self.begun(self.picture.quantizer(self.picture.latents(clips[:, :, 0])))
            made = [self.picture.decoder(canvas)[:, :, None]]
        for group in torch.split(clips[:, :, 1:], self.config.group, dim=2):
            canvases = self.moved(canvas, self.picture.quantizer(self.latents(group, canvas)))
            made.append(self.drawn(canvases))
            canvas = canvases[:, -1]
        return torch.cat(made, dim=2)

    def begun(self, codes: Tensor) -> Tensor:
        """Return the canvas ``[B, C, y, x]`` of the first frame of codes ``[B, h, w, D]``."""
        canvas: Tensor = self.picture.from_codes(codes.movedim(-1, 1))
        return canvas

    def latents(self, group: Tensor, canvas: Tensor) -> Tensor:
        """Return ``[B, h, w, D]`` of frames ``[B, 3, 4, H, W]``, before they are rounded."""
        count = len(group)
        seen = self.picture.encoder(group.movedim(2, 1).flatten(0, 1))
        seen = seen.unflatten(0, (count, -1)).flatten(1, 2)
        features = self.encoder(self.from_frames(seen) + self.encoder_canvas(canvas))
        latents: Tensor = self.to_latents(F.silu(features))
        return latents.movedim(1, -1)

    def moved(self, canvas: Tensor, codes: Tensor) -> Tensor:
        """Return the canvases ``[B, 4, C, y, x]`` of a group of codes ``[B, h, w, D]``."""
        features = F.silu(
            self.decoder(self.decoder_canvas(canvas) + self.from_codes(codes.movedim(-1, 1)))
        )
        shape = (len(canvas), self.config.group, *canvas.shape[1:])
        shares = torch.sigmoid(KEPT + self.to_shares(features)).reshape(shape)
        news: Tensor = self.to_frames(features).reshape(shape)
        return shares * canvas[:, None] + news

    def drawn(self, canvases: Tensor) -> Tensor:
        """Return frames ``[B, 3, 4, H, W]`` of canvases ``[B, 4, C, y, x]``."""
        frames: Tensor = self.picture.decoder(canvases.flatten(0, 1))
        return frames.reshape(*canvases.shape[:2], *frames.shape[1:]).movedim(1, 2)

    def fsq_levels(self) -> dict[str, tuple[int, ...]]:
        """Return the levels that make an id of each stream, the one that counts least first."""
        return {"video": self.config.picture.levels}

    def begin(self, clips: int) -> Memory:  # noqa: ARG002 - the canvas is made of the first frames
        """Return what is known of clips of which nothing was seen."""
        return Memory()

    def part(self, clips: Tensor, past: Memory) -> dict[str, Tensor]:
        """Return ``video``: ids ``int64[B, 1, h, w]`` of the first frames, or of the next four."""
        quantizer = self.picture.quantizer
        if past.canvas is None:
            ids = quantizer.ids(self.picture.latents(clips[:, :, 0]))
            past.canvas = self.begun(quantizer.codes(ids))
        else:
            ids = quantizer.ids(self.latents(clips, past.canvas))
            past.canvas = self.moved(past.canvas, quantizer.codes(ids))[:, -1]
        return {"video": ids[:, None]}

    def clips(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return ``[B, 3, 1 + 4k, H, W]`` of the ids ``[B, 1 + k, h, w]`` in ``video``."""
        codes = self.picture.quantizer.codes(tokens["video"])
        canvas = self.begun(codes[:, 0])
        made = [self.picture.decoder(canvas)[:, :, None]]
        for position in range(1, codes.shape[1]):
            canvases = self.moved(canvas, codes[:, position])
            made.append(self.drawn(canvases))
            canvas = canvases[:, -1]
        return torch.cat(made, dim=2)
