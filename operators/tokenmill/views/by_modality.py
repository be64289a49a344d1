"""A view rule for each modality: one job reads pictures, videos and shapes into one store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tokenmill.decoders.base import Picture, Shape
from tokenmill.plugins import open_operator
from tokenmill.views.base import LongView, View, ViewKind, ViewOf, ViewShape
from tokenmill_schemas.arrow import union
from tokenmill_schemas.asset import Modality
from tokenmill_schemas.errors import JobError


@dataclass(frozen=True, slots=True)
class ByModality:
    """Reads each asset by the rule of its modality.

    The rules must give one kind of view, but for pictures beside clips: a picture is a clip of one
    frame then.

    Attributes:
        images: a ``[view]`` table for pictures; empty: pictures are not read.
        videos: one for videos.
        shapes: one for 3D objects.
    """

    images: dict[str, Any] = field(default_factory=dict)
    videos: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, Any] = field(default_factory=dict)
    _rules: dict[Modality, View] = field(init=False, default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        given: dict[Modality, dict[str, Any]]
        given = {"image": self.images, "video": self.videos, "shape": self.shapes}
        for modality, table in given.items():
            if table:
                self._rules[modality] = _open(modality, table)
        if not self._rules:
            raise ValueError("by_modality needs a table of at least one of images, videos, shapes")
        kinds = {rule.gives for rule in self._rules.values()}
        if len(kinds) > 1 and kinds != {"image", "clip"}:
            raise ValueError(f"rules give views of different kinds: {', '.join(sorted(kinds))}")

    @property
    def gives(self) -> ViewKind:
        """The kind of all its views; ``clip`` for pictures beside clips."""
        kinds: set[ViewKind] = {rule.gives for rule in self._rules.values()}
        return "clip" if "clip" in kinds else next(iter(kinds))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that have a rule."""
        return tuple(self._rules)

    @property
    def identity(self) -> dict[str, Any]:
        """The rules' own."""
        parts = {name: rule.identity for name, rule in self._rules.items()}
        return {"view": "by_modality", "rules": parts}

    @property
    def shape(self) -> ViewShape | None:
        """The sizes on which all rules agree, None for the others."""
        shapes = [self._as_given(rule) for rule in self._rules.values()]
        first = shapes[0]
        if first is None or any(s is None or len(s) != len(first) for s in shapes):
            return None
        columns = zip(*(s for s in shapes if s is not None), strict=True)
        return tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in columns)

    @property
    def some_shapes(self) -> tuple[ViewShape, ...]:
        """Shapes that its views have, for a tokenizer to say whether it takes them."""
        found: list[ViewShape] = []
        for rule in self._rules.values():
            own = getattr(rule, "some_shapes", None) or (self._as_given(rule),)
            found += [shape for shape in own if shape is not None]
        return tuple(found)

    def _as_given(self, rule: View) -> ViewShape | None:
        if rule.gives == "image" and self.gives == "clip" and rule.shape is not None:
            return (1, *rule.shape)
        return rule.shape

    def columns(self) -> pa.Schema:
        """Return the union of the rules' columns; null where a rule has no such column."""
        return union([rule.columns() for rule in self._rules.values()])

    def views(self, media: Any, key: str) -> Iterator[ViewOf | LongView]:
        """Yield the views of the asset's own rule.

        Raises:
            AssetError: what the rule raises.
        """
        modality: Modality = "video"
        if isinstance(media, Picture):
            modality = "image"
        elif isinstance(media, Shape):
            modality = "shape"
        for view in self._rules[modality].views(media, key):
            if modality == "image" and self.gives == "clip" and isinstance(view, ViewOf):
                yield ViewOf(view.data[None], view.coordinates)
            else:
                yield view


def _open(modality: Modality, table: dict[str, Any]) -> View:
    options, path = dict(table), f"view.{modality}s"
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        text = "is required" if kind is None else f"must be str, got {kind!r}"
        raise JobError(text, path=f"{path}.kind")
    rule: View = open_operator("tokenmill.views", kind, options, path=path)
    if modality not in rule.modalities:
        text = f"{kind!r} reads {' and '.join(rule.modalities)}, no {modality}"
        raise JobError(text, path=f"{path}.kind")
    return rule


PLUGIN = ByModality
