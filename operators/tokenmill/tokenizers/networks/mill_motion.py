"""Motion of blocks of pixels between frames: found by search, said in whole numbers.

Block matching, as in the video coding standards since H.261: for every block of 16x16 pixels the
search looks for the displacement at which the frame before looks most like the frames to come. A
group of frames moves evenly, so that one vector says it all. Vectors lie on a grid that is fine
about zero and coarse far from it. Blocks overlap: a pixel is the mean of what the four nearest
blocks' vectors bring, the nearer ones more (Orchard and Sullivan, "Overlapped block motion
compensation", IEEE Trans. Image Processing 3(5), 1994), so that no seams are seen.

Not everything was there before. A quarter of the pairs say that a block is new from one of the
frames on, and its colour; a few (in the first block) that a group is a new scene.

Only the encoder searches; the pairs are said in ids, from which both ends predict alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

#: Pixels of a block down, and across.
BLOCK = 16
#: The farthest displacement up or left, in pixels over a group (down and right the grid ends a step
#: earlier), and the slope of the grid at zero.
REACH, FINEST = 48.0, 0.375
#: The first search is at a quarter of the size, of all whole pixels there.
COARSE = 4
#: Steps of the grid by which the search is refined, one after the other.
STEPS = (4, 2, 1)
#: What a pixel of displacement costs, in values of [-1, 1]: of equals, the shorter one is taken.
COST = 1e-3
#: What a new block costs beside its errors: texture that has moved is better than none.
NEW_COST = 0.02
#: The four blocks whose middles are about a pixel: above and left of it, and so on.
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
#: Red is grey plus one of these, blue is grey plus another, green is grey less both; in [-1, 1].
TINTS = (-0.25, 0.0, 0.25)


class BlockMotion(nn.Module):
    """How blocks go on, as pairs of numbers of which each is less than ``base`` ** 2.

    Where the first is less than three quarters of that, they are displacements down and across, in
    pixels over a whole group of frames; else they count the colours of new blocks and the frames
    from which they are new, and behind them the frames from which a new scene is.

    Args:
        base: of the digits that a pair is written in, at least 4.
        group: frames that one vector is of.

    Attributes:
        down: ``float32[rows]`` and ``across``: ``float32[base ** 2]``, the displacements.
        colours: ``float32[N, 3]`` in [-1, 1].
    """

    down: Tensor
    across: Tensor
    colours: Tensor

    def __init__(self, base: int, group: int) -> None:
        super().__init__()
        self.base, self.group = base, group
        self.rows = base**2 - base**2 // 4
        tones = ((base**2 // 4) * base**2 // group - 1) // len(TINTS) ** 2
        self.register_buffer("down", _displacements(self.rows), persistent=False)
        self.register_buffer("across", _displacements(base**2), persistent=False)
        self.register_buffer("colours", _palette(tones), persistent=False)

    def digits(self, numbers: Tensor) -> Tensor:
        """Return ``int64[B, h, w]``, one digit per 8x8 pixels, of pairs ``int64[B, 2, y, x]``.

        The four cells of a block hold its pair: the upper two down, the lower two across.
        """
        rows = torch.stack([numbers % self.base, numbers // self.base], dim=-1)
        return rows.permute(0, 2, 1, 3, 4).flatten(3, 4).flatten(1, 2)

    def numbers(self, digits: Tensor) -> Tensor:
        """Return the pairs ``int64[B, 2, y, x]`` of digits ``int64[B, h, w]``; see `digits`."""
        count, height, width = digits.shape
        rows = digits.reshape(count, height // 2, 2, width // 2, 2).permute(0, 2, 1, 3, 4)
        return rows[..., 0] + self.base * rows[..., 1]

    def new_from(self, numbers: Tensor) -> Tensor:
        """Return ``int64[B, y, x]``: the frame from which a block is new, or the group's size."""
        first = self._counted(numbers) % self.group
        return torch.where(numbers[:, 0] >= self.rows, first, self.group)

    def scene_from(self, numbers: Tensor) -> Tensor:
        """Return ``int64[B]``: the frame from which there is a new scene, or the group's size.

        Only the first pair of a group is looked at.
        """
        count = self._counted(numbers[..., :1, :1])[:, 0, 0]
        return torch.where(count >= len(self.colours) * self.group, count % self.group, self.group)

    def _counted(self, numbers: Tensor) -> Tensor:
        """Return ``int64[B, y, x]``: what pairs say that are no displacements; else less than 0."""
        return (numbers[:, 0] - self.rows) * self.base**2 + numbers[:, 1]

    def _pairs(self, counts: Tensor) -> Tensor:
        """Return the pairs ``int64[B, 2, ...]`` of counts ``int64[B, ...]``; see `_counted`."""
        return torch.stack([self.rows + counts // self.base**2, counts % self.base**2], dim=1)

    def _vectors(self, numbers: Tensor) -> Tensor:
        """Return ``float32[B, 2, y, x]``, of no use where pairs are no displacements."""
        down = self.down[numbers[:, 0].clamp(max=self.rows - 1)]
        return torch.stack([down, self.across[numbers[:, 1]]], dim=1)

    def told(self, numbers: Tensor, first: Tensor) -> Tensor:
        """Return pairs whose first one says from which frame ``int64[B]`` on a new scene is."""
        marked = numbers.clone()
        marked[:, :, 0, 0] = self._pairs(len(self.colours) * self.group + first)
        return marked

    def untold(self, numbers: Tensor) -> Tensor:
        """Return the pairs of a scene whose first one, which is not known, has middle digits."""
        guessed = numbers.clone()
        guessed[:, :, 0, 0] = (self.base + 1) * (self.base // 2)
        return guessed

    def predicted(self, frame: Tensor, numbers: Tensor) -> Tensor:
        """Return a frame ``[B, 3, H, W]`` that goes on moving: ``[B, 4, G, H, W]``.

        The fourth channel is one where pixels are the frame's, zero where they are a colour.
        """
        return self._blended(frame, numbers, self._brought(frame, numbers))

    def search(self, frame: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Return how a frame goes on in a group, and what `predicted` makes of that.

        Args:
            frame: ``float32[B, 3, H, W]``, what both ends know.
            group: ``float32[B, 3, G, H, W]``, what comes after it.

        Returns:
            Pairs ``int64[B, 2, H/16, W/16]`` and ``float32[B, 4, G, H, W]``.
        """
        before, after = frame.mean(1, keepdim=True), group.mean(1)
        vectors = _coarse(before, after[:, -1:])
        places = _place(vectors[:, 0], self.down), _place(vectors[:, 1], self.across)
        numbers = torch.stack(places, dim=1)
        for step in STEPS:
            numbers = self._refined(before, after, numbers, step)
        brought = self._brought(frame, numbers)
        everywhere = torch.ones_like(numbers[:, :1], dtype=torch.bool)
        numbers = self._marked(frame, group, _mean(brought, everywhere), numbers)
        return numbers, self._blended(frame, numbers, brought)

    def _brought(self, frame: Tensor, numbers: Tensor) -> list[Tensor]:
        """Return ``[B, 3, G, H, W]`` for each of the four blocks that are nearest to a pixel."""
        vectors = self._vectors(numbers)
        shares = [(number + 1) / self.group for number in range(self.group)]
        brought = []
        for corner in CORNERS:
            field = _nearest(vectors, corner)
            brought.append(torch.stack([shifted(frame, field * share) for share in shares], dim=2))
        return brought

    def _blended(self, frame: Tensor, numbers: Tensor, brought: list[Tensor]) -> Tensor:
        """Return what blocks bring that move, the frame until others are new, then their colour."""
        first = self.new_from(numbers)
        moving = (first == self.group)[:, None]
        counts = (self._counted(numbers) // self.group).clamp(0, len(self.colours) - 1)
        colours = self.colours[counts].movedim(-1, 1)
        fresh = [_nearest(colours, corner)[:, :, None] for corner in CORNERS]
        times = torch.arange(self.group, device=frame.device)[:, None, None]
        known = _spread((times < first[:, None]).float())[:, None]
        until = torch.where(_spread(moving)[:, :, None], _mean(brought, moving), frame[:, :, None])
        pixels = torch.where(known > 0, until, _mean(fresh, ~moving))
        return torch.cat([pixels, known], dim=1)

    def _refined(self, before: Tensor, after: Tensor, numbers: Tensor, step: int) -> Tensor:
        """Return the best of nine neighbours ``step`` apart; the middle one if all are as good."""
        # A frame in the middle and the last one: the others say little more and cost as much.
        checked = sorted({(self.group - 1) // 2, self.group - 1})
        best, chosen = None, numbers
        for offset in numbers.new_tensor(_neighbours(step)):
            moved = numbers + offset[:, None, None]
            moved[:, 0].clamp_(0, self.rows - 1)
            moved[:, 1].clamp_(0, self.base**2 - 1)
            vectors = self._vectors(moved)
            field = _spread(vectors)
            error = torch.zeros_like(after[:, :1])
            for number in checked:
                seen = shifted(before, field * ((number + 1) / self.group))
                error = error + (seen - after[:, number : number + 1]).abs()
            price = _wide_means(error, BLOCK)[:, 0] / len(checked) + COST * vectors.norm(dim=1)
            if best is None:
                best, chosen = price, moved
            else:
                better = price < best
                best = torch.where(better, price, best)
                chosen = torch.where(better[:, None], moved, chosen)
        return chosen

    def _marked(self, frame: Tensor, group: Tensor, moved: Tensor, numbers: Tensor) -> Tensor:
        """Return the pairs, of new blocks where one colour is closer than what has moved there."""
        still = F.avg_pool2d((frame[:, :, None] - group).abs().mean(1), BLOCK)
        shift = F.avg_pool2d((moved - group).abs().mean(1), BLOCK)
        means = F.avg_pool2d(group.flatten(1, 2), BLOCK).reshape(
            *group.shape[:3], *still.shape[-2:]
        )
        prices, counts = [shift.sum(1)], [torch.zeros_like(numbers[:, 0])]
        for first in range(self.group):
            colour = self._colour(means[:, :, first:].mean(2))
            flat = _spread(self.colours[colour].movedim(-1, 1))[:, :, None]
            fresh = F.avg_pool2d((flat - group[:, :, first:]).abs().mean(1), BLOCK) + NEW_COST
            prices.append(still[:, :first].sum(1) + fresh.sum(1))
            counts.append(colour * self.group + first)
        best = torch.stack(prices).argmin(0)
        count = torch.stack(counts).gather(0, best[None])[0]
        return torch.where(best[:, None] > 0, self._pairs(count), numbers)

    def _colour(self, means: Tensor) -> Tensor:
        """Return the numbers ``int64[B, y, x]`` of the colours next to ``[B, 3, y, x]``."""
        away = (means[:, None] - self.colours[:, :, None, None]).square().sum(2)
        return away.argmin(1)


def _displacements(count: int) -> Tensor:
    """Return so many, fine about zero and coarse far from it, from -`REACH` on."""
    half = count // 2
    places = torch.arange(count, device="cpu").float() - half
    bend = (REACH - FINEST * half) / half**2
    return FINEST * places + bend * places * places.abs()


def _palette(tones: int) -> Tensor:
    """Return the colours ``float32[tones * 9, 3]``: greys, and greys with tints."""
    greys = (2 * torch.arange(tones, device="cpu").float() + 1) / tones - 1
    tints = torch.tensor(TINTS, device="cpu")
    grey, red, blue = (
        axis.flatten() for axis in torch.meshgrid(greys, tints, tints, indexing="ij")
    )
    return torch.stack([grey + red, grey - red - blue, grey + blue], dim=1).clamp(-1, 1)


def _place(values: Tensor, grid: Tensor) -> Tensor:
    """Return where in an ascending grid the values' nearest are."""
    return torch.bucketize(values.contiguous(), (grid[1:] + grid[:-1]) / 2)


def shifted(frame: Tensor, field: Tensor) -> Tensor:
    """Return pixels ``[B, C, H, W]`` of a frame at places moved by ``[B, 2, H, W]`` (down, across).

    Between pixels it is linear; beyond the edge is what lies at the edge.
    """
    height, width = frame.shape[-2:]
    down = torch.arange(height, device=frame.device)[:, None] + field[:, 0]
    across = torch.arange(width, device=frame.device)[None] + field[:, 1]
    places = torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], dim=-1)
    return F.grid_sample(frame, places, padding_mode="border", align_corners=False)


def _neighbours(step: int) -> list[tuple[int, int]]:
    around = [(down, across) for down in (-step, 0, step) for across in (-step, 0, step)]
    return sorted(around, key=lambda pair: pair != (0, 0))


def _coarse(before: Tensor, after: Tensor) -> Tensor:
    """Return the vectors ``float32[B, 2, H/16, W/16]`` of all whole pixels of small pictures."""
    before, after = F.avg_pool2d(before, COARSE), F.avg_pool2d(after, COARSE)
    height, width = after.shape[-2:]
    reach = int(REACH / COARSE)
    wide = F.pad(before, (reach,) * 4, mode="replicate")[:, 0]
    shifts = wide.unfold(1, height, 1).unfold(2, width, 1)  # [B, rows, columns, h, w], all views
    # A row of shifts at a time: all of them at once would be 625 times the small picture.
    errors = [_wide_means((row - after).abs(), BLOCK // COARSE) for row in shifts.unbind(1)]
    steps = COARSE * torch.arange(-reach, reach + 1, device=after.device).float()
    vectors = torch.cartesian_prod(steps, steps)
    price = torch.cat(errors, dim=1) + COST * vectors.norm(dim=1)[:, None, None]
    return vectors[price.argmin(1)].movedim(-1, 1)


def _spread(blocks: Tensor) -> Tensor:
    """Return ``[B, C, H, W]`` of blocks' values ``[B, C, y, x]``, each the same all over."""
    return blocks.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)


def _nearest(blocks: Tensor, corner: tuple[int, int]) -> Tensor:
    """Return ``[B, C, H, W]``: one of the four blocks whose middles are about a pixel."""
    wide = _spread(F.pad(blocks, (1, 1, 1, 1), mode="replicate"))
    height, width = (BLOCK * length for length in blocks.shape[-2:])
    top, left = (BLOCK // 2 + BLOCK * place for place in corner)
    return wide[..., top : top + height, left : left + width]


def _mean(brought: list[Tensor], chosen: Tensor) -> Tensor:
    """Return the mean of what the nearest blocks bring that are ``chosen[B, 1, y, x]``.

    The nearer ones count more; where none is, it is zero.
    """
    ramp = (torch.arange(BLOCK, device=chosen.device) + 0.5) / BLOCK
    total, weights = torch.zeros_like(brought[0]), torch.zeros((), device=chosen.device)
    for pixels, corner in zip(brought, CORNERS, strict=True):
        down, across = (ramp if place else 1 - ramp for place in corner)
        tile = (down[:, None] * across).roll((BLOCK // 2, BLOCK // 2), (0, 1))
        weight = _nearest(chosen.float(), corner) * tile.tile(chosen.shape[-2:])
        total += weight[:, :, None] * pixels
        weights = weights + weight
    return total / weights.clamp(min=1e-6)[:, :, None]


def _wide_means(errors: Tensor, side: int) -> Tensor:
    """Return the means ``[B, C, y, x]`` of blocks and half of what is around them."""
    margin = side // 2
    wide = F.pad(errors, (margin,) * 4, mode="replicate")
    return F.avg_pool2d(wide, 2 * side, side)
