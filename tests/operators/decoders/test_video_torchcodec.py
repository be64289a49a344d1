from __future__ import annotations

import importlib.util
import io
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tokenmill.decoders import open_decoder
from tokenmill.plugins import kinds
from tokenmill.testing.clips import ClipSpec, clip, number_of, pattern
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, JobError, Reason

_MODULE = "tokenmill.decoders.torchcodec"
_INSTALLED = importlib.util.find_spec("torchcodec") is not None


@pytest.mark.skipif(_INSTALLED, reason="torchcodec is installed")
def test_without_the_library_the_kind_says_what_it_needs() -> None:
    """The kind is listed, and opening it names the library that is missing."""
    assert "torchcodec" in kinds("tokenmill.decoders")
    with pytest.raises(JobError, match="needs 'torchcodec'"):
        open_decoder("torchcodec")


@pytest.mark.skipif(not _INSTALLED, reason="torchcodec is not installed here")
def test_frames_of_the_library() -> None:
    """The real library gives the frames in order."""
    data = clip(ClipSpec())
    video = open_decoder("torchcodec").decode(AssetRef("k", "m"), io.BytesIO(data))
    assert [number_of(frame.rgb()) for frame in video.frames()] == list(range(12))


class Stub:
    """The part of torchcodec's VideoDecoder that is used, giving the test pattern."""

    def __init__(self, source: Any, **options: Any) -> None:
        assert options == {"dimension_order": "NHWC", "num_ffmpeg_threads": 1}
        if b"bad" in source.read():
            raise RuntimeError("no frame")
        self.metadata = SimpleNamespace(
            height=48, width=64, average_fps=25.0, codec="h264",
            duration_seconds_from_header=0.12, num_frames_from_header=3,
        )  # fmt: skip

    def __len__(self) -> int:
        return 3

    def get_frame_at(self, index: int) -> SimpleNamespace:
        """Frame ``index``; two of one time."""
        data = SimpleNamespace(numpy=lambda: pattern(index, (48, 64)))
        return SimpleNamespace(pts_seconds=min(index, 1) * 0.04, data=data)


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The decoder over the stub."""
    library, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = Stub  # type: ignore[attr-defined]  # a module made for the test
    library.ffmpeg_major_version = 8  # type: ignore[attr-defined]  # likewise
    monkeypatch.setitem(sys.modules, "torchcodec", library)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    monkeypatch.delitem(sys.modules, _MODULE, raising=False)
    yield open_decoder("torchcodec")
    sys.modules.pop(_MODULE, None)


def test_what_is_ours_around_the_library(stubbed: Any) -> None:
    """Facts fit their columns, times rise, small frames are small, damage is an asset's error."""
    data = clip(ClipSpec())
    video = stubbed.decode(AssetRef("k", "m"), io.BytesIO(data))
    pa.Table.from_pylist([video.facts], schema=stubbed.facts()).validate(full=True)
    got = list(video.frames())
    assert [frame.pts for frame in got] == [0, 40_000, 40_001]
    assert [number_of(frame.rgb((36, 40))) for frame in got] == [0, 1, 2]
    assert np.array_equal(got[2].rgb(), pattern(2, (48, 64)))
    with pytest.raises(AssetError) as caught:
        stubbed.decode(AssetRef("k", "m"), io.BytesIO(data + b"bad"))
    assert (caught.value.reason, caught.value.uri) == (Reason.CORRUPT, "m")
    with pytest.raises(AssetError) as caught:
        stubbed.decode(AssetRef("k", "m"), io.BytesIO(data[:500]))
    assert caught.value.reason == Reason.TRUNCATED
