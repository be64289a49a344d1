"""From a job to its operators: built, checked against each other, and fingerprinted."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import pyarrow as pa

from tokenmill.decoders import open_decoder
from tokenmill.decoders.base import DecodeLimits, Decoder
from tokenmill.decoders.by_modality import ByModality
from tokenmill.plugins import open_operator
from tokenmill.sources.base import Source
from tokenmill.store import Identity, Store
from tokenmill.tokenizers.base import Tokenizer
from tokenmill.views import open_view
from tokenmill.views.base import View, ViewShape
from tokenmill.worker.roundtrip import METRICS
from tokenmill.worker.spec import WorkerSpec
from tokenmill_infra.storage import storage_options
from tokenmill_pipelines.checks import METRICS as MEASURES
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError, SnapshotNotFoundError
from tokenmill_schemas.job import Job, LimitsConfig, OperatorConfig, resolve_paths
from tokenmill_schemas.tokens import TokenSpec

#: Raised when the meaning of a fingerprint's parts changes.
FINGERPRINT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Assembly:
    """A job's operators and what they add up to."""

    job: Job
    source: Source
    decoder: Decoder
    view: View
    tokenizer: Tokenizer
    store: Store
    identity: Identity

    def worker_spec(self, gpus: float) -> WorkerSpec:
        """Return what the run's actors load."""
        return WorkerSpec(
            source=self.source,
            decoder=self.decoder,
            view=self.view,
            tokenizer=self.tokenizer,
            store=self.store,
            layout=self.identity.layout,
            shards=self.job.shards,
            limits=self.job.limits,
            cluster=self.job.cluster,
            gpus=gpus,
            storage=self.job.storage,
            fingerprint=self.identity.fingerprint,
        )


@dataclass(frozen=True, slots=True)
class Operators:
    """What reads a job's assets and makes tokens of them."""

    source: Source
    decoder: Decoder
    view: View
    tokenizer: Tokenizer

    @property
    def spec(self) -> TokenSpec:
        """The tokens of the view's views."""
        return self.tokenizer.spec(_shape(self.view))


def open_operators(job: Job) -> Operators:
    """Build a job's operators, and check that they fit together; nothing is asked of its store.

    Raises:
        JobError: an operator's kind, keys or values are wrong, or two of them do not fit together.
    """
    source = cast("Source", _open("tokenmill.sources", job.source, "source"))
    tokenizer = cast("Tokenizer", _open("tokenmill.tokenizers", job.tokenizer, "tokenizer"))
    view = _open_view(job, tokenizer)
    _check_kinds(view, tokenizer)
    operators = Operators(source, _open_decoder(job, view), view, tokenizer)
    _ = operators.spec  # refuses views of a shape that the tokenizer does not take
    _check_shapes(view, tokenizer)
    _check_options(view, tokenizer)
    _check_bytes(view, job.limits.view_bytes)
    return operators


def assemble(job: Job) -> Assembly:
    """Build a job's operators, and open its store.

    Raises:
        JobError: an operator's kind, keys or values are wrong, or two of them do not fit together.
    """
    job = resolve_paths(job)
    with storage_options(job.storage):
        return _assemble(job)


def _assemble(job: Job) -> Assembly:
    made = open_operators(job)
    spec = made.spec
    _check_limits(job.limits, spec, made.view, made.tokenizer)
    extras = _extras(made.view, made.decoder, made.source)
    layout = ShardLayout(spec, job.shards.packing, extras)
    _check_names(layout)
    parts = _fingerprint_parts(made.decoder, made.view, made.tokenizer) | {"spec": spec.to_json()}
    store = _open_store(job)
    identity = Identity(spec, parts, layout, job.shards.format)
    return Assembly(job, made.source, made.decoder, made.view, made.tokenizer, store, identity)


def _open_store(job: Job) -> Store:
    store = Store.of(job.store.uri, job.store.options)
    try:
        return store if job.store.branch == store.branch else store.on(job.store.branch)
    except SnapshotNotFoundError as error:
        raise JobError(
            f"the store has no branch {job.store.branch!r}: `tokenmill branch` begins one",
            path="store.branch",
        ) from error


def _open(package: str, config: OperatorConfig, path: str) -> Any:
    return open_operator(package, config.kind, config.options, path=path)


def _open_view(job: Job, tokenizer: Tokenizer) -> View:
    if job.view is not None:
        return open_view(job.view.kind, job.view.options)
    options = dict(tokenizer.default_view)
    return open_view(options.pop("kind"), options)


def _shape(view: View) -> ViewShape | None:
    """Return the shape of the view's views; of clips always with its axes, for they may be images.

    A tokenizer that takes both tells clips of any size from images of any size by that.
    """
    return (None, None, None) if view.shape is None and view.gives == "clip" else view.shape


def _check_shapes(view: View, tokenizer: Tokenizer) -> None:
    """Try shapes that `View.shape` leaves open: else clip by clip would be refused by the encoder.

    Raises:
        JobError: the tokenizer takes no views of one of them.
    """
    for shape in getattr(view, "some_shapes", ()):
        try:
            tokenizer.spec(shape)
        except JobError as error:
            path = "view.frames_rule" if hasattr(view, "frames_rule") else "view"
            text = str(error).removeprefix(f"{error.path}: ")
            raise JobError(f"allows views that do not fit: {text}", path=path) from error


def _check_options(view: View, tokenizer: Tokenizer) -> None:
    """Hold the options that a tokenizer shares with its view (``of_view``) against each other.

    Raises:
        JobError: they differ: the ids would not mean what the spec says.
    """
    for name in getattr(tokenizer, "of_view", ()):
        own, given = getattr(tokenizer, name), getattr(view, name, None)
        if given is not None and given != own:
            text = f"is {given}, tokenizer.{name} is {own}; make them equal"
            raise JobError(text, path=f"view.{name}")


def _check_bytes(view: View, limit: int) -> None:
    """Hold views of a known size, which are made whole, against ``limits.view_bytes``.

    Raises:
        JobError: they are larger.
    """
    sizes = view.shape or (None,)
    if view.gives not in ("image", "clip") or None in sizes:
        return
    size = 3 * math.prod(side for side in sizes if side is not None)
    if size > limit:
        text = f"views of {' x '.join(map(str, sizes))} pixels take {size} bytes each"
        raise JobError(f"{text}, limits.view_bytes is {limit}", path="view")


def _check_limits(limits: LimitsConfig, spec: TokenSpec, view: View, tokenizer: Tokenizer) -> None:
    """Hold limits on quality against what can be measured.

    Raises:
        JobError: one of them could never be checked.
    """
    measured = METRICS.get(view.gives, "")
    for metric, (key, name, _) in MEASURES.items():
        if not getattr(limits, key):
            continue
        if metric != measured:
            other = f"; limits.{MEASURES[measured][0]} is for these" if measured else ""
            text = f"the view gives {view.gives}, which have no {name}{other}"
            raise JobError(text, path=f"limits.{key}")
        if not tokenizer.can_decode:
            text = "the tokenizer has no decoder, so that nothing can be measured; leave it out"
            raise JobError(text, path=f"limits.{key}")
    if limits.max_entropy_drift and all(stream.kind == "float" for stream in spec.streams):
        text = "the tokenizer gives latents and no ids, which alone have an entropy; leave it out"
        raise JobError(text, path="limits.max_entropy_drift")


def _check_kinds(view: View, tokenizer: Tokenizer) -> None:
    if view.gives not in tokenizer.takes:
        wanted = " or ".join(tokenizer.takes)
        single = view.gives == "clip" and "image" in tokenizer.takes
        hint = "; kind = 'frames' reads single frames of videos" if single else ""
        raise JobError(
            f"gives views of kind {view.gives!r}; the tokenizer takes {wanted}{hint}",
            path="view.kind",
        )


def _open_decoder(job: Job, view: View) -> Decoder:
    """Open the decoder of what the view reads; one for each modality where it reads several.

    Only what is read counts: a new version of a video library is no news to a store of pictures.
    """
    if job.decoder is not None:
        decoder = _limited(job, job.decoder)
        unread = sorted(set(view.modalities) - set(decoder.modalities))
        if unread:
            raise JobError(f"does not decode {unread}, which the view reads", path="decoder.kind")
        return decoder
    decoders: dict[str, Decoder]
    decoders = {name: _limited(job, OperatorConfig(name)) for name in view.modalities}
    return ByModality(decoders) if len(decoders) > 1 else next(iter(decoders.values()))


def _limited(job: Job, config: OperatorConfig) -> Decoder:
    limits = DecodeLimits(
        **{field.name: getattr(job.limits, field.name) for field in fields(DecodeLimits)}
    )
    decoder = open_decoder(config.kind, **config.options)
    # Limits are the job's, whichever decoder it is; they decide what is refused, not what is made.
    return replace(decoder, limits=limits)  # type: ignore[type-var]  # a dataclass, as all are


def _extras(view: View, decoder: Decoder, source: Source) -> pa.Schema:
    return pa.schema([*view.columns(), *decoder.facts(), *source.companions()])


def _check_names(layout: ShardLayout) -> None:
    names = layout.schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise JobError(
            f"companion columns {twice} have names that the store needs; rename them",
            path="source.columns",
        )


def _fingerprint_parts(decoder: Decoder, view: View, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "version": FINGERPRINT_VERSION,
        "decoder": decoder.identity,
        "view": view.identity,
        "tokenizer": tokenizer.identity,
    }
