"""From a job to its operators: built, checked against each other, and fingerprinted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import pyarrow as pa

from tokenmill.decoders import open_decoder
from tokenmill.decoders.base import DecodeLimits, Decoder
from tokenmill.plugins import open_operator
from tokenmill.sources.base import Source
from tokenmill.store import Identity, Store
from tokenmill.tokenizers.base import Tokenizer
from tokenmill.views import open_view
from tokenmill.views.base import View
from tokenmill.worker.spec import WorkerSpec
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import Job, OperatorConfig, resolve_paths

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
        )


def assemble(job: Job) -> Assembly:
    """Build a job's operators.

    Raises:
        JobError: an operator's kind, keys or values are wrong, or two of them do not fit together.
    """
    job = resolve_paths(job)
    source = cast("Source", _open("tokenmill.sources", job.source, "source"))
    tokenizer = cast("Tokenizer", _open("tokenmill.tokenizers", job.tokenizer, "tokenizer"))
    view = _open_view(job, tokenizer)
    decoder = _open_decoder(job)
    spec = tokenizer.spec(view.shape)
    extras = _extras(view, decoder, source)
    layout = ShardLayout(spec, job.shards.packing, extras)
    _check_names(layout)
    parts = _fingerprint_parts(decoder, view, tokenizer) | {"spec": spec.to_json()}
    store = Store.at(job.store.uri, job.store.options)
    identity = Identity(spec, parts, layout, job.shards.format)
    return Assembly(job, source, decoder, view, tokenizer, store, identity)


def _open(package: str, config: OperatorConfig, path: str) -> Any:
    return open_operator(package, config.kind, config.options, path=path)


def _open_view(job: Job, tokenizer: Tokenizer) -> View:
    if job.view is not None:
        return open_view(job.view.kind, job.view.options)
    options = dict(tokenizer.default_view)
    return open_view(options.pop("kind"), options)


def _open_decoder(job: Job) -> Decoder:
    config = job.decoder or OperatorConfig("image")
    limits = DecodeLimits(job.limits.max_asset_bytes, job.limits.max_pixels)
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
