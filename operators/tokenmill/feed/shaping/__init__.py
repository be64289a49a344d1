"""Token shaping: what a generator's paper does to tokens between the store and the network.

A transform is a frozen dataclass that is called with a batch and a `feed.sequence.draw.Draw` and
returns a new batch; `Feed(..., transforms=(A(...), B(...)))` calls them in order. Entries it adds
are named after the stream: ``"image.order"``. Beneath them are functions of arrays, in the modules
of the families:

========== =========================================================================================
flatten    `Flatten`, `Piece`: several streams, residual depth, product codes, text, specials, EOL
select     `Take`, `MapIds`: parts of a stream, ids looked up
positions  `Positions`: grid coordinates, starts of windows
orders     `Reorder`, `RandomOrder`, `Restore`: raster, near-to-far, random, reversed, curves
prefix     `KeepPrefix`: nested prefixes
pyramid    `TeacherInput`, `Phi`: levels, and the teacher-forcing input of VAR
correction `SelfCorrection`: bit pyramids, flipped as Infinity does
bits       `Signs`, `SplitIds`, `GroupBits`: binary codes
masking    `MaskTokens`, `Schedule`, `TruncatedNormal`: masked generation
windows    `MergeWindows`: Token-Shuffle, patches
neighbours `Perturb`: ids replaced by near codes
implicit   `fsq_codebook`, `lfq_codebook`: codebooks that follow from a rule
latents    `ToLatent`, `Standardise`, `QuantiseChannels`: continuous latents
views      `OneView`: one of several stored views
dropout    `DropCondition`, `ChooseCaption`: classifier-free guidance, captions
ragged     `Pad`, `Begin`, `SeparateBlocks`, `BlockIndex`: sequences of varying length
sets       `ShuffleSet`, `SortSet`, `ScaleCoords`, `JoinPoints`: sets and sparse voxels
========== =========================================================================================
"""

from tokenmill.feed.shaping.bits import GroupBits, Signs, SplitIds
from tokenmill.feed.shaping.correction import SelfCorrection
from tokenmill.feed.shaping.dropout import ChooseCaption, DropCondition
from tokenmill.feed.shaping.flatten import Flatten, Piece
from tokenmill.feed.shaping.implicit import fsq_codebook, lfq_codebook
from tokenmill.feed.shaping.latents import QuantiseChannels, Standardise, ToLatent
from tokenmill.feed.shaping.masking import MAGE, MAR, MaskTokens, Schedule, TruncatedNormal
from tokenmill.feed.shaping.neighbours import Perturb, nearest_codes
from tokenmill.feed.shaping.orders import RandomOrder, Reorder, Restore, order_of
from tokenmill.feed.shaping.positions import Positions
from tokenmill.feed.shaping.prefix import KeepPrefix
from tokenmill.feed.shaping.pyramid import Phi, TeacherInput
from tokenmill.feed.shaping.ragged import Begin, BlockIndex, Pad, SeparateBlocks
from tokenmill.feed.shaping.select import MapIds, Take
from tokenmill.feed.shaping.sets import JoinPoints, ScaleCoords, ShuffleSet, SortSet
from tokenmill.feed.shaping.views import OneView
from tokenmill.feed.shaping.windows import MergeWindows

__all__ = [
    "MAGE",
    "MAR",
    "Begin",
    "BlockIndex",
    "ChooseCaption",
    "DropCondition",
    "Flatten",
    "GroupBits",
    "JoinPoints",
    "KeepPrefix",
    "MapIds",
    "MaskTokens",
    "MergeWindows",
    "OneView",
    "Pad",
    "Perturb",
    "Phi",
    "Piece",
    "Positions",
    "QuantiseChannels",
    "RandomOrder",
    "Reorder",
    "Restore",
    "ScaleCoords",
    "Schedule",
    "SelfCorrection",
    "SeparateBlocks",
    "ShuffleSet",
    "Signs",
    "SortSet",
    "SplitIds",
    "Standardise",
    "Take",
    "TeacherInput",
    "ToLatent",
    "TruncatedNormal",
    "fsq_codebook",
    "lfq_codebook",
    "nearest_codes",
    "order_of",
]
