"""Gather: the views that a fitting job learns from, decoded once and kept in a file.

Views lie in one uncompressed Arrow file per part of the data, which is mapped into memory, so that
a picture is there without being read and several fits share one copy. The file is named after what
made it: corpora and their digests, decoder, view and choice of assets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.decoders import open_decoder
from tokenmill.decoders.base import Decoder
from tokenmill.plugins import open_operator
from tokenmill.sources.base import Source
from tokenmill.views import open_view
from tokenmill.views.base import View, ViewOf
from tokenmill_infra.observe import Observer
from tokenmill_pipelines.fit.config import DataConfig, FitJob, located
from tokenmill_pipelines.samples.catalogue import find_sample
from tokenmill_pipelines.samples.fetch import RECEIPT, fetch
from tokenmill_schemas.asset import AssetRef, refs_of
from tokenmill_schemas.canonical import digest as content_digest
from tokenmill_schemas.errors import AssetError, JobError
from tokenmill_schemas.job import OperatorConfig

#: Raised when the same job would gather other views.
VERSION = 1
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shape", pa.list_(pa.int32()), nullable=False),
        pa.field("data", pa.large_binary(), nullable=False),
    ]
)
FOLDER = ".views"
#: What corpora, and assets of corpora, are marked with that nothing may be learned from.
JUDGING = "judging"
#: Columns that are asked of listings besides those that the job asks for.
ALSO = ("licence", "use")


@dataclass(frozen=True, slots=True)
class Gathered:
    """One part's views, in order of their listing.

    ``views`` are ``uint8[H, W, 3]``, ``uint8[T, H, W, 3]`` or ``bool[R, R, R]``, not to be written
    to; ``keys`` name their assets.
    """

    name: str
    digest: str
    keys: tuple[str, ...]
    views: tuple[npt.NDArray[Any], ...]

    def only(self, keys: frozenset[str]) -> Gathered:
        """Return the views of some assets."""
        kept = [number for number, key in enumerate(self.keys) if key in keys]
        return replace(
            self,
            keys=tuple(self.keys[n] for n in kept),
            views=tuple(self.views[n] for n in kept),
        )


def gather(job: FitJob, observer: Observer) -> list[Gathered]:
    """Return what a job learns from, part by part; fetches and decodes what is not there yet.

    Raises:
        JobError: a corpus is for judging only, a section is wrong, or a part has no views.
        TransientError: a registry could not be reached.
    """
    check_use(job)
    return [_gathered(job, part, observer) for part in job.data]


def check_use(job: FitJob) -> None:
    """Check, before anything is fetched, that a job may learn from all corpora that it names.

    Raises:
        JobError: one is for judging only, or there is none of that name.
    """
    for part in job.data:
        for name in part.corpora:
            if find_sample(name).use == JUDGING:
                text = f"{name} is kept for judging: nothing may be learned from it"
                raise JobError(text, path="data.corpora")


def _gathered(job: FitJob, part: DataConfig, observer: Observer) -> Gathered:
    sources = list(sources_of(job, part))
    view = open_view(part.view.kind, dict(located(part.view, job.base).options))
    decoder = _decoder(part, view)
    stamp = {
        "version": VERSION,
        "sources": [stamp for _, _, stamp in sources],
        "view": view.identity,
        "decoder": decoder.identity,
        "where": {name: list(values) for name, values in part.where.items()},
        "exclude": list(part.exclude),
        **({"only": list(part.only)} if part.only else {}),
        "limit": part.limit,
    }
    digest = content_digest(stamp)
    path = Path(job.corpora) / FOLDER / f"{digest}.arrow"
    if not path.is_file():
        _write(path, _views(sources, (decoder, view), part, observer))
    found = _read(path, part.name, digest, boolean=view.gives == "voxels")
    observer.event("gather", part=part.name, assets=len(set(found.keys)), views=len(found.keys))
    if not found.keys:
        raise JobError(f"part {part.name!r} has no views", path="data")
    return found


def _decoder(part: DataConfig, view: View) -> Decoder:
    if part.decoder is not None:
        return open_decoder(part.decoder.kind, **part.decoder.options)
    return open_decoder(view.modalities[0])


def sources_of(job: FitJob, part: DataConfig) -> Iterator[tuple[str, Source, Any]]:
    """Yield each source's name ("" if it is no corpus), itself, and what tells it from others.

    Their listings have the columns that ``where`` asks for and, if they are JSON lines, those of
    `ALSO`: null where a line says nothing.
    """
    if part.source is not None:
        section = located(part.source, job.base)
        source = _opened(section, part)
        yield "", source, [ref.uri + ref.version for b in source.list() for ref in refs_of(b)]
        return
    for name in part.corpora:
        sample = find_sample(name)
        folder = fetch(name, job.corpora)
        kind = "jsonl" if sample.listing.endswith(".jsonl") else "parquet"
        section = OperatorConfig(kind, {"urls": (str(folder / sample.listing),)})
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        yield name, _opened(section, part), [name, receipt["packages"]]


def _opened(section: OperatorConfig, part: DataConfig) -> Source:
    options = dict(section.options)
    if section.kind in ("jsonl", "parquet"):
        asked = (*part.where, *ALSO) if section.kind == "jsonl" else tuple(part.where)
        options["columns"] = tuple(dict.fromkeys((*options.get("columns", ()), *asked)))
    source = open_operator("tokenmill.sources", section.kind, options, path="data.source")
    return cast("Source", source)


def _views(
    sources: list[tuple[str, Source, Any]],
    operators: tuple[Decoder, View],
    part: DataConfig,
    observer: Observer,
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield (key, view) of all chosen assets; those that cannot be read are told and left out."""
    decoder, view = operators
    chosen = [
        (name, source, ref)
        for name, source, _ in sources
        for batch in source.list()
        for ref in refs_of(batch)
        if ref.modality in view.modalities and _wanted(ref, part)
    ]
    if part.limit and len(chosen) > part.limit:
        picks = np.linspace(0, len(chosen) - 1, part.limit).round().astype(int)
        chosen = [chosen[pick] for pick in picks]
    for number, (name, source, ref) in enumerate(chosen):
        observer.progress(number, len(chosen))
        key = f"{name}/{ref.key}" if name else ref.key
        try:
            with source.open(ref) as stream:
                media = decoder.decode(ref, stream)
                for found in view.views(media, key):
                    yield key, whole(found)
                media.close()
        except AssetError as error:
            observer.event("asset_skipped", key=key, reason=error.reason, error=str(error))


def _wanted(ref: AssetRef, part: DataConfig) -> bool:
    if ref.columns.get("use") == JUDGING or any(text in ref.key for text in part.exclude):
        return False
    if part.only and not any(text in ref.key for text in part.only):
        return False
    return all(str(ref.columns.get(name)) in values for name, values in part.where.items())


def whole(found: Any) -> npt.NDArray[Any]:
    """Return a view's data, of one that comes in parts all of them."""
    if isinstance(found, ViewOf):
        return found.data
    return np.concatenate([np.array(part) for part in found.parts])


def _write(path: Path, views: Iterator[tuple[str, npt.NDArray[Any]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{np.random.default_rng().integers(2**32):08x}.part")
    try:
        with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for key, data in views:
                row = {"key": [key], "shape": [list(data.shape)], "data": [data.tobytes()]}
                writer.write_batch(pa.record_batch(row, schema=SCHEMA))
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _read(path: Path, name: str, digest: str, *, boolean: bool) -> Gathered:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    keys: list[str] = []
    views: list[npt.NDArray[Any]] = []
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        (shape,) = batch.column("shape").to_pylist()
        # The array's own buffer: that of a scalar would be a copy, and not mapped.
        data = np.frombuffer(batch.column("data").buffers()[2], np.uint8, math.prod(shape))
        keys.append(batch.column("key")[0].as_py())
        views.append((data.view(np.bool_) if boolean else data).reshape(shape))
    return Gathered(name, digest, tuple(keys), tuple(views))
