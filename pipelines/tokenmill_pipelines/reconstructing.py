"""Some samples of a run beside what the tokenizer's decoder makes of their stored tokens."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenmill.shards.columns import decode_stream
from tokenmill.store.plans import read_unit
from tokenmill.tokenizers.base import Encoder
from tokenmill.views.base import Array
from tokenmill.worker.pieces import pieces_of
from tokenmill.worker.roundtrip import as_view
from tokenmill.worker.worker import tune_torch
from tokenmill_pipelines.report.record import Reconstruction
from tokenmill_pipelines.run import Run
from tokenmill_schemas.asset import AssetRef, refs_of
from tokenmill_schemas.errors import AssetError, TokenmillError
from tokenmill_schemas.job import LimitsConfig
from tokenmill_schemas.plan import Unit
from tokenmill_schemas.snapshot import Receipt

#: Views shown beside their reconstructions.
SHOWN = 8
#: Of the many views of a film one of the first is shown: it is read from its start to get there.
NEAR = 12
#: A clip larger than this is not decoded for a picture of three frames: decoders take some thirty
#: times its size, and a local run must stay under 1.5 GB.
CLIP_BYTES = 40 * 2**20
COLUMNS = ("asset_key", "view.index", "view.name", "view.flip", "view.axes")


@dataclass(frozen=True, slots=True)
class Chosen:
    """One sample of a run: row ``row`` of the shard of a unit."""

    unit: Unit
    receipt: Receipt
    row: int


def reconstructions(run: Run) -> Iterator[Reconstruction]:
    """Yield some samples of this run and their reconstructions, always the same for one run."""
    if not run.assembly.tokenizer.can_decode:
        return
    chosen = spread([pair for pair in _made(run) if pair[1].samples])
    if not chosen:
        return
    try:
        encoder = run.assembly.tokenizer.load("cpu")
        tune_torch(run.assembly.job.cluster, "cpu")
        near = (_near(run, one) for one in chosen)
        distinct = {(each.unit.unit_id, each.row): each for each in near}.values()
        samples = [_sample(run, one) for one in distinct]
        for (_, _), same in itertools.groupby(samples, key=lambda s: (s.unit.unit_id, s.key)):
            yield from _of_asset(run, encoder, list(same))
        encoder.close()
    except (TokenmillError, RuntimeError, ValueError, MemoryError) as error:
        run.observer.warn("the report shows no reconstructions", error=str(error))


def refs_by_key(run: Run, unit: Unit) -> dict[str, AssetRef]:
    """Return the assets of a unit by their keys."""
    table = read_unit(run.assembly.store.storage, unit)
    return {ref.key: ref for batch in table.to_batches() for ref in refs_of(batch)}


def _made(run: Run) -> list[tuple[Unit, Receipt]]:
    pairs = zip(run.planned.units, run.encoding.receipts, strict=True)
    return [(unit, receipt) for unit, receipt in pairs if unit.unit_id in run.encoding.made]


def spread(pairs: list[tuple[Unit, Receipt]]) -> list[Chosen]:
    """Choose `SHOWN` samples evenly over all samples of the run."""
    ends = np.cumsum([receipt.samples for _, receipt in pairs], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    picks = sorted({(2 * i + 1) * total // (2 * SHOWN) for i in range(SHOWN)} if total else ())
    chosen = []
    for pick in picks:
        index = int(np.searchsorted(ends, pick, side="right"))
        unit, receipt = pairs[index]
        chosen.append(Chosen(unit, receipt, pick - int(ends[index]) + receipt.samples))
    return chosen


def _near(run: Run, one: Chosen) -> Chosen:
    """Return the sample itself, or one of the first of the same asset: its rows are in order."""
    with run.assembly.store.shard(one.receipt.path) as shard:
        rows = np.array([one.row], dtype=np.int64)
        index = int(shard.columns(["view.index"], rows).column(0)[0].as_py())
    return replace(one, row=one.row - index + index % NEAR)


@dataclass(frozen=True, slots=True)
class Sample:
    """A stored sample: its tokens, with a leading axis of one, and where it comes from."""

    unit: Unit
    tokens: dict[str, Any]
    place: dict[str, Any]

    @property
    def key(self) -> str:
        """Its asset's."""
        return str(self.place["asset_key"])


def _of_asset(run: Run, encoder: Encoder, samples: list[Sample]) -> Iterator[Reconstruction]:
    """Yield the samples of one asset beside its views, which are read in one pass."""
    ref = refs_by_key(run, samples[0].unit)[samples[0].key]
    wanted = {sample.place["view.index"]: sample for sample in samples}
    try:
        for index, original, up in _originals(run, ref, wanted):
            yield from _compared(run, encoder, wanted[index], original=original, up=up)
    except AssetError as error:
        run.observer.warn("samples are not shown in the report", key=ref.key, error=str(error))


def _compared(
    run: Run, encoder: Encoder, sample: Sample, *, original: Array, up: Literal["y", "z"]
) -> Iterator[Reconstruction]:
    """Yield the reconstruction, or nothing where it has another shape than its original."""
    place, kind = sample.place, run.assembly.view.gives
    decoded = as_view(encoder.decode(sample.tokens)[0], original)
    if kind in {"image", "clip", "voxels"} and decoded.shape != original.shape:
        text = f"decodes to {list(decoded.shape)}, not {list(original.shape)}"
        run.observer.warn("a sample is not shown in the report", key=sample.key, error=text)
        return
    name = place["view.name"] + (", mirrored" if place.get("view.flip") else "")
    yield Reconstruction(sample.key, original, decoded, view=name, kind=kind, up=up)


def _sample(run: Run, one: Chosen) -> Sample:
    """Read a sample back from its shard."""
    rows = np.array([one.row], dtype=np.int64)
    with run.assembly.store.shard(one.receipt.path) as shard:
        layout = shard.layout
        sample = shard.columns(layout.schema.names, rows)
    tokens = {
        s.name: _stacked(decode_stream(sample, s, layout.packing)) for s in layout.spec.streams
    }
    present = [name for name in COLUMNS if name in sample.schema.names]
    return Sample(one.unit, tokens, sample.select(present).to_pylist()[0])


def _stacked(values: Any) -> npt.NDArray[Any]:
    """One sample's tokens with a leading axis of one, whether its shape varies or not."""
    return values[0][None] if isinstance(values, list) else np.asarray(values)


def _originals(
    run: Run, ref: AssetRef, wanted: dict[int, Sample]
) -> Iterator[tuple[int, Array, Literal["y", "z"]]]:
    """Read views again, up to the last that is wanted; yields number, data, and what points up.

    Raises:
        AssetError: one of them is too long to be looked at.
    """
    assembly, last = run.assembly, max(wanted)
    limits: LimitsConfig = replace(assembly.job.limits, view_bytes=CLIP_BYTES)
    with assembly.source.open(ref) as stream:
        media = assembly.decoder.decode(ref, stream)
        try:
            for index, view in enumerate(assembly.view.views(media, ref.key)):
                whole = index in wanted
                for piece in pieces_of(view, index, whole=whole, limits=limits):
                    if whole and piece.data is not None:
                        axes = wanted[index].place.get("view.axes") or "xyz"
                        yield index, piece.data, _up(media, axes)
                if index == last:
                    return
        finally:
            media.close()
    raise TokenmillError(f"{ref.key} has no view {last} any more")


def _up(media: Any, axes: str) -> Literal["y", "z"]:
    """Return the axis of a view that points up, by the shape's own and how the view turned it."""
    source = getattr(media, "up_axis", "") or axes.replace("-", "")[2]
    return "y" if axes.replace("-", "")[1] == source else "z"
