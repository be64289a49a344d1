"""What reconstructions are measured by while learning; all of it differentiable, in float32.

No network is asked: perceptual losses need weights that would have to be downloaded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from tokenmill_pipelines.fit.config import LossConfig

#: Mean squared errors below that of 48 dB are as good as none.
FLOOR = 4 * 10**-4.8
#: Scales of the structural similarity, each half as fine; the side of half a window.
SCALES, HALF_WINDOW = 3, 4
C1, C2 = 0.01**2, 0.03**2


def picture_loss(made: Tensor, wanted: Tensor, config: LossConfig) -> Tensor:
    """Return the loss of pictures ``[B, 3, H, W]`` in [-1, 1], the mean of the batch."""
    made, wanted = made.float(), wanted.float()
    total = made.new_zeros(())
    if config.psnr:
        total = total + config.psnr * decibels(made, wanted).mean()
    if config.l1:
        total = total + config.l1 * (made - wanted).abs().mean()
    if config.ssim:
        total = total + config.ssim * (1 - similarity(made, wanted))
    return total


def decibels(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the tenth of the negative PSNR ``[B]``, of values in [-1, 1]; see also NAFNet.

    Chen et al., "Simple Baselines for Image Restoration" (arXiv:2204.04676), learn from it: every
    picture counts alike, and not the busiest most.
    """
    errors = (made - wanted).square().flatten(1).mean(1)
    return torch.log10((errors + FLOOR) / 4)


def similarity(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean structural similarity over windows, channels and scales.

    Wang et al., "Multiscale structural similarity for image quality assessment" (2003), with even
    windows of 8x8, half of which overlap, and the scales' mean in place of their product, which is
    smooth where one is zero.
    """
    one, other = (made + 1) / 2, (wanted + 1) / 2
    scores = []
    for scale in range(SCALES):
        if scale:
            one, other = _blocks(one, 2), _blocks(other, 2)
        if min(one.shape[-2:]) < 2 * HALF_WINDOW:
            break
        scores.append(_similarity(one, other).mean())
    return torch.stack(scores).mean()


def _similarity(one: Tensor, other: Tensor) -> Tensor:
    left, right = _windows(one), _windows(other)
    spread_left = _windows(one * one) - left * left
    spread_right = _windows(other * other) - right * right
    common = _windows(one * other) - left * right
    light = (2 * left * right + C1) / (left * left + right * right + C1)
    return light * (2 * common + C2) / (spread_left + spread_right + C2)


def _windows(values: Tensor) -> Tensor:
    """Return the means of windows, from those of their four quarters: pooling is slow on a CPU."""
    quarters = _blocks(values, HALF_WINDOW)
    rows = quarters[..., 1:, :] + quarters[..., :-1, :]
    return (rows[..., 1:] + rows[..., :-1]) / 4


def _blocks(values: Tensor, side: int) -> Tensor:
    """Return the means of blocks of ``side`` x ``side``; what is over at the ends is left out."""
    height, width = (length // side for length in values.shape[-2:])
    whole = values[..., : height * side, : width * side]
    split = whole.reshape(*values.shape[:-2], height, side, width, side)
    return split.mean(-1).mean(-2)


def volume_loss(logits: Tensor, wanted: Tensor, config: LossConfig) -> Tensor:
    """Return the loss of cells: logits and occupancy ``[B, 1, R, R, R]``."""
    logits, wanted = logits.float(), wanted.float()
    total = logits.new_zeros(())
    if config.bce:
        total = total + config.bce * F.binary_cross_entropy_with_logits(logits, wanted)
    if config.overlap:
        chance = torch.sigmoid(logits).flatten(1)
        cells = wanted.flatten(1)
        common = (chance * cells).sum(1)
        union = (chance + cells).sum(1) - common
        total = total + config.overlap * (1 - (common + 1) / (union + 1)).mean()
    return total
