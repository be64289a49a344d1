"""The quality of tokenizers: what comes back of views, at which rate, and what it is held against.

`measure_views` scores a live encoder on views in memory; `judge` makes a `Verdict` of a source.
"""

from __future__ import annotations

from tokenmill_pipelines.judge.items import Failure, Item
from tokenmill_pipelines.judge.measuring import MEASURES, Measure, measure
from tokenmill_pipelines.judge.run import judge
from tokenmill_pipelines.judge.scores import Figure, Scores, StreamUse, ViewScore, measure_views
from tokenmill_pipelines.judge.settings import Settings
from tokenmill_pipelines.judge.verdict import Verdict

__all__ = [
    "MEASURES",
    "Failure",
    "Figure",
    "Item",
    "Measure",
    "Scores",
    "Settings",
    "StreamUse",
    "Verdict",
    "ViewScore",
    "judge",
    "measure",
    "measure_views",
]
