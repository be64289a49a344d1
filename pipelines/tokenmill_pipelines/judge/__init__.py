"""The quality of tokenizers: what comes back of views, at which rate, and what it is held against.

`measure_views` scores a live encoder on views in memory.
"""

from __future__ import annotations

from tokenmill_pipelines.judge.items import Failure, Item
from tokenmill_pipelines.judge.measuring import MEASURES, Measure, measure
from tokenmill_pipelines.judge.scores import Figure, Scores, StreamUse, ViewScore, measure_views

__all__ = [
    "MEASURES",
    "Failure",
    "Figure",
    "Item",
    "Measure",
    "Scores",
    "StreamUse",
    "ViewScore",
    "measure",
    "measure_views",
]
