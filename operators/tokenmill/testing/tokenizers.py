"""The contract of a tokenizer, as checks that any tokenizer can be run through.

    for check in CHECKS:
        check(MyTokenizer(...), (256, 256))

A check raises `AssertionError`. They need no test framework, so that tokenizers kept outside this
project can use them. Give a small or randomly filled model: each check loads it anew.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.shards.columns import encode_streams
from tokenmill.testing.checks import require, require_identity
from tokenmill.tokenizers.base import Encoder, HasCodebook, Pixels, Tokenizer, Tokens
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import JobError

Size = tuple[int, int]
#: Reads a pickled tokenizer and tells its identity, in a process that knows nothing else of it.
TELL = "import pickle, sys, json; t = pickle.load(sys.stdin.buffer); print(json.dumps(t.identity))"


def sample_views(size: Size, count: int = 5, *, seed: int = 0) -> Pixels:
    """Return ``uint8[count, H, W, 3]``: noise, with a flat and a graded view among it."""
    views = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    views[1 % count] = 90
    views[2 % count] = np.linspace(0, 255, size[1], dtype=np.uint8)[None, :, None]
    return views


def check_description(tokenizer: Tokenizer, size: Size) -> None:
    """It pickles to an equal one; identity and spec are JSON; its own view rule suits it."""
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301  (our own bytes)
    require(copy == tokenizer, "a pickled copy is equal")
    require_identity(tokenizer)
    require(copy.identity == tokenizer.identity, "a copy has the same identity")
    require(copy.spec(size) == tokenizer.spec(size), "a copy has the same spec")
    require(json.loads(canonical_json(tokenizer.spec(size).to_json())) is not None, "JSON spec")
    require("kind" in tokenizer.default_view, "the default view names its kind")
    needs = tokenizer.resources
    require(needs.batch_size >= 1 and min(needs.gpus, needs.cpus) >= 0, "resources are possible")


def check_identity_in_another_process(tokenizer: Tokenizer, size: Size) -> None:
    """The identity does not depend on the process, its hash seed or what it loaded before."""
    del size
    told = subprocess.run(
        [sys.executable, "-c", TELL], input=pickle.dumps(tokenizer), capture_output=True, check=True
    )
    require(json.loads(told.stdout) == _plain(tokenizer.identity), "identity of another process")


def check_tokens(tokenizer: Tokenizer, size: Size) -> None:
    """Tokens have the spec's streams, shapes and storage types; ids lie within the vocabulary."""
    spec = tokenizer.spec(size)
    with _loaded(tokenizer) as encoder:
        for count in (1, 5):
            tokens = _encode(encoder, sample_views(size, count))
            require(set(tokens) == {s.name for s in spec.streams}, "the streams of the spec")
            for stream in spec.streams:
                values = tokens[stream.name]
                require(isinstance(values, np.ndarray), f"{stream.name} lies on the host")
                if stream.is_fixed:
                    require(values.shape == (count, *stream.shape), f"{stream.name}: its shape")
                    require(values.dtype == stream.storage_dtype, f"{stream.name}: its type")
            # Raises ValueError if an id is outside its vocabulary or a variable shape is wrong.
            encode_streams(ShardLayout(spec), {name: list(tokens[name]) for name in tokens})


def check_batches_do_not_matter(tokenizer: Tokenizer, size: Size) -> None:
    """A view's ids are the same alone, in another order and in another encoder; floats nearly."""
    views = sample_views(size)
    order = np.array([3, 0, 4, 2, 1])
    with _loaded(tokenizer) as encoder, _loaded(tokenizer) as other:
        whole = _encode(encoder, views)
        _same(tokenizer, size, _encode(encoder, views[order]), _rows(whole, order))
        for index in range(len(views)):
            part = slice(index, index + 1)
            _same(tokenizer, size, _encode(encoder, views[part]), _rows(whole, part))
        _same(tokenizer, size, _encode(other, views), whole)


def check_pixels_are_left_alone(tokenizer: Tokenizer, size: Size) -> None:
    """Encoding does not write into the views that it is given."""
    views = sample_views(size)
    before = views.copy()
    with _loaded(tokenizer) as encoder:
        _encode(encoder, views)
    require(np.array_equal(views, before), "the views are not written to")


def check_decode(tokenizer: Tokenizer, size: Size) -> None:
    """`decode` gives pictures of the views' size, or a JobError where there is no decoder."""
    views = sample_views(size, 2)
    with _loaded(tokenizer) as encoder:
        tokens = _encode(encoder, views)
        try:
            pictures = encoder.decode(tokens)
        except JobError:
            require(not tokenizer.can_decode, "a tokenizer that can decode decodes")
            return
    require(tokenizer.can_decode, "a tokenizer that decodes says so")
    require(pictures.shape == views.shape, "reconstructions have the views' shape")
    require(pictures.dtype == np.uint8, "reconstructions are uint8")


def check_codebook(tokenizer: Tokenizer, size: Size) -> None:
    """Codes are finite float32[vocabulary, D] of streams of ids, the same from every encoder."""
    streams = {stream.name: stream for stream in tokenizer.spec(size).streams}
    with _loaded(tokenizer) as encoder, _loaded(tokenizer) as other:
        if not isinstance(encoder, HasCodebook):
            return
        book = encoder.codebook()
        again = other.codebook() if isinstance(other, HasCodebook) else {}
    require(book.keys() == again.keys(), "two encoders name the same arrays")
    ids = {name for name, stream in streams.items() if stream.kind == "index"}
    require(not book or ids <= book.keys(), "every stream of ids has its codes, or none has")
    for name, codes in book.items():
        require(codes.tobytes() == again[name].tobytes(), f"{name}: two encoders, the same codes")
        require(bool(np.isfinite(codes).all()), f"{name}: codes are finite")
        if name in streams:
            rows = max(streams[name].vocab_sizes, default=0)
            require(codes.dtype == np.float32, f"{name}: codes are float32")
            require(codes.ndim == 2 and len(codes) == rows, f"{name}: a code for each id")


CHECKS: tuple[Callable[[Tokenizer, Size], None], ...] = (
    check_description,
    check_identity_in_another_process,
    check_tokens,
    check_batches_do_not_matter,
    check_pixels_are_left_alone,
    check_decode,
    check_codebook,
)


@contextmanager
def _loaded(tokenizer: Tokenizer) -> Iterator[Encoder]:
    encoder = tokenizer.load("cpu")
    try:
        yield encoder
    finally:
        encoder.close()


def _encode(encoder: Encoder, views: Pixels) -> Tokens:
    return encoder.encode(encoder.preprocess(views))


def _plain(value: Any) -> Any:
    return json.loads(canonical_json(value))


def _rows(tokens: Tokens, rows: Any) -> Tokens:
    return {name: values[rows] for name, values in tokens.items()}


def _same(tokenizer: Tokenizer, size: Size, got: Tokens, want: Tokens) -> None:
    for stream in tokenizer.spec(size).streams:
        pairs = zip(got[stream.name], want[stream.name], strict=True)
        require(
            all(_equal(a, b, exact=stream.kind != "float") for a, b in pairs),
            f"{stream.name}: a view's tokens do not depend on its batch",
        )


def _equal(a: npt.NDArray[Any], b: npt.NDArray[Any], *, exact: bool) -> bool:
    if exact or a.shape != b.shape or a.dtype == np.uint16:
        return np.array_equal(a, b)
    # Sums in another order: a few units in the last place of the largest value.
    scale = float(np.abs(b.astype(np.float64)).max(initial=1.0))
    return bool(np.allclose(a, b, rtol=0, atol=64 * float(np.finfo(a.dtype).eps) * scale))
