"""Jobs of videos, shapes and mixtures: what fits together, and what their fingerprints are of."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest

from tokenmill.decoders.base import DecodeLimits
from tokenmill.decoders.by_modality import ByModality
from tokenmill_pipelines.assemble import Assembly, assemble
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, JobError
from tokenmill_schemas.job import parse_job

CROP = {"kind": "center_crop", "size": 64, "rule": "bicubic"}
CLIPS = {"kind": "clips", "size": 64, "rule": "bicubic", "fps": 5, "frames": 4}
MIXED = {"kind": "by_modality", "images": CROP, "videos": CLIPS}
VIDEO_VQ = {"kind": "patch_vq", "variant": "video"}
#: A view and a tokenizer of each modality.
ALONE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "image": (CROP, {"kind": "patch_vq"}),
    "video": (CLIPS, VIDEO_VQ),
    "shape": ({"kind": "voxels"}, {"kind": "voxel_vq"}),
}


def assembled(**sections: Any) -> Assembly:
    """A job's operators; it lists nothing and its store is not there."""
    table: dict[str, Any] = {
        "name": "media",
        "source": {"kind": "files", "urls": ["nowhere"]},
        "store": {"uri": "memory://store"},
    }
    return assemble(parse_job({**table, **sections}))


@pytest.mark.parametrize(
    ("view", "tokenizer", "text"),
    [
        (CLIPS, {"kind": "patch_vq"}, "'clip'; the tokenizer takes image"),
        (MIXED, {"kind": "patch_vq"}, "'clip'; the tokenizer takes image"),
        (CROP, {"kind": "voxel_vq"}, "'image'; the tokenizer takes voxels"),
        ({"kind": "points"}, {"kind": "voxel_vq"}, "'points'; the tokenizer takes voxels"),
        ({"kind": "voxels"}, {"kind": "gaussian_ply"}, "'voxels'; the tokenizer takes gaussians"),
        ({"kind": "mesh"}, VIDEO_VQ, "'mesh'; the tokenizer takes clip"),
    ],
)
def test_a_view_that_the_tokenizer_does_not_take_is_refused(
    view: dict[str, Any], tokenizer: dict[str, Any], text: str
) -> None:
    """Before anything is listed, with the key and both kinds."""
    with pytest.raises(JobError, match=f"gives views of kind {text}") as caught:
        assembled(view=view, tokenizer=tokenizer)
    assert caught.value.path == "view.kind"


@pytest.mark.parametrize(
    ("tokenizer", "view", "decoder"),
    [
        ({"kind": "patch_vq"}, "center_crop", "image"),
        (VIDEO_VQ, "clips", "video"),
        ({"kind": "voxel_vq"}, "voxels", "shape"),
        ({"kind": "gaussian_ply"}, "gaussians", "shape"),
        ({"kind": "mesh_sequence"}, "mesh", "shape"),
        ({"kind": "pointbert", "checkpoint": "random:0"}, "points", "shape"),
    ],
)
def test_a_job_without_view_and_decoder_gets_those_of_its_tokenizer(
    tokenizer: dict[str, Any], view: str, decoder: str
) -> None:
    """The tokenizer's own view, and what decodes the modality that it reads."""
    made = assembled(tokenizer=tokenizer)
    assert made.view.identity["view"] == view
    assert made.decoder.identity["decoder"] == decoder
    assert made.decoder.modalities == made.view.modalities == (decoder,)


def test_a_mixed_view_gets_one_decoder_a_modality_and_no_more() -> None:
    """Columns that only one of them has may be null."""
    made = assembled(view=MIXED, tokenizer=VIDEO_VQ)
    assert isinstance(made.decoder, ByModality)
    assert list(made.decoder.identity["decoders"]) == ["image", "video"]
    extras = made.identity.layout.extras
    for name in ("asset.codec", "asset.mode", "view.pts"):
        assert extras.field(name).nullable
    for name in ("asset.uri", "asset.width", "view.box"):
        assert not extras.field(name).nullable
    (stream,) = made.identity.spec.streams
    assert [axis.size for axis in stream.axes] == [None, 8, 8]


def test_a_view_of_one_modality_in_a_table_has_its_decoder_alone() -> None:
    """No wrapper, so that the columns stay required."""
    made = assembled(view={"kind": "by_modality", "videos": CLIPS}, tokenizer=VIDEO_VQ)
    assert made.decoder.identity["decoder"] == "video"


@pytest.mark.parametrize(
    ("decoder", "unread"), [("image", r"\['video'\]"), ("shape", r"\['image', 'video'\]")]
)
def test_a_decoder_that_does_not_read_what_the_view_does_is_refused(
    decoder: str, unread: str
) -> None:
    """It names what would all go to quarantine."""
    with pytest.raises(JobError, match=f"does not decode {unread}, which the view") as caught:
        assembled(view=MIXED, tokenizer=VIDEO_VQ, decoder={"kind": decoder})
    assert caught.value.path == "decoder.kind"


def test_limits_reach_every_decoder_and_no_fingerprint() -> None:
    """They say what is refused, and not what is made."""
    told = {field.name: 7 + number for number, field in enumerate(fields(DecodeLimits))}
    usual = assembled(view=MIXED, tokenizer=VIDEO_VQ)
    made = assembled(view=MIXED, tokenizer=VIDEO_VQ, limits=told)
    assert isinstance(made.decoder, ByModality)
    for decoder in made.decoder.decoders.values():
        assert decoder.limits == DecodeLimits(**told)  # type: ignore[attr-defined]  # all have them
    assert made.identity.fingerprint == usual.identity.fingerprint
    for kind, (view, tokenizer) in ALONE.items():
        for chosen in ({}, {"decoder": {"kind": kind}}):
            made = assembled(view=view, tokenizer=tokenizer, limits=told, **chosen)
            assert made.decoder.limits == DecodeLimits(**told)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("modality", "limit"),
    [("image", "max_asset_bytes"), ("shape", "max_asset_bytes"), ("video", "max_video_bytes")],
)
def test_bytes_beyond_the_limit_of_the_job_are_refused(modality: str, limit: str) -> None:
    """Each modality's own limit, before a byte is understood."""
    view, tokenizer = ALONE[modality]
    made = assembled(view=view, tokenizer=tokenizer, limits={limit: 100})
    with pytest.raises(AssetError) as caught:
        made.decoder.decode(
            AssetRef("key", "memory://key", modality=modality, size_bytes=101),
            io.BytesIO(bytes(101)),
        )
    assert caught.value.reason == "too_many_bytes"


FINGERPRINT = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
from tokenmill_pipelines.assemble import assemble
from tokenmill_schemas.job import parse_job
import json
print(assemble(parse_job(json.loads({job!r}))).identity.fingerprint)
print(*sorted(set(sys.modules) & {watched!r}))
"""
OTHERS = ("av", "trimesh", "laspy", "cascadio", "scenedetect", "cv2", "torchcodec")


def test_a_fingerprint_of_pictures_is_not_of_the_libraries_of_videos_and_shapes() -> None:
    """The same where they are not installed; and where they are, they are not even imported."""
    job = {
        "name": "pictures",
        "source": {"kind": "files", "urls": ["nowhere"]},
        "tokenizer": {"kind": "patch_vq"},
        "store": {"uri": "memory://store"},
    }
    told: list[list[str]] = []
    for blocked in ((), OTHERS):
        code = FINGERPRINT.format(blocked=blocked, job=json.dumps(job), watched=set(OTHERS))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
        )
        told.append(done.stdout.split("\n"))
    assert told[0][0] == told[1][0]
    assert len(told[0][0]) == 64
    assert told[0][1] == ""


WHOLE = {"kind": "clips", "size": 64, "frames": 0}


@pytest.mark.parametrize(
    ("view", "tokenizer", "path"),
    [
        (WHOLE, VIDEO_VQ, "view.frames_rule"),
        ({**WHOLE, "frames_rule": "1+4k"}, VIDEO_VQ, "view.frames_rule"),
        ({**WHOLE, "frames_rule": "6k"}, VIDEO_VQ, "view.frames_rule"),
        ({**MIXED, "videos": {**CLIPS, "frames": 6}}, VIDEO_VQ, "view"),
        ({**MIXED, "videos": WHOLE}, VIDEO_VQ, "view"),
    ],
)
def test_lengths_that_vary_are_held_against_the_tokenizers(
    view: dict[str, Any], tokenizer: dict[str, Any], path: str
) -> None:
    """A rule that allows a length which the tokenizer refuses is an error of the job."""
    with pytest.raises(JobError, match=r"patch_vq takes clips of 4 \+ 4k frames") as caught:
        assembled(view=view, tokenizer=tokenizer)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "view",
    [
        {**WHOLE, "frames_rule": "4k"},
        {**WHOLE, "frames_rule": "8k", "max_frames": 16},
        {**WHOLE, "max_frames": 1},
        {**MIXED, "videos": {**WHOLE, "frames_rule": "16k"}},
    ],
)
def test_lengths_that_the_tokenizer_takes_are_no_error(view: dict[str, Any]) -> None:
    """Multiples of its own, and single frames, which it takes too."""
    assert assembled(view=view, tokenizer=VIDEO_VQ).view.gives == "clip"


@pytest.mark.parametrize(
    ("view", "tokenizer", "name"),
    [
        ({"kind": "mesh", "bins": 512}, {"kind": "mesh_sequence"}, "bins"),
        ({"kind": "mesh"}, {"kind": "mesh_sequence", "bins": 512}, "bins"),
        ({"kind": "gaussians", "extent": 2.0}, {"kind": "gaussian_ply"}, "extent"),
        ({"kind": "gaussians", "degree": 3}, {"kind": "gaussian_ply"}, "degree"),
    ],
)
def test_options_of_a_view_that_its_tokenizer_shares_are_equal(
    view: dict[str, Any], tokenizer: dict[str, Any], name: str
) -> None:
    """Else a mesh would end the run, or a splat lose its outside without a word."""
    with pytest.raises(JobError, match="make them equal") as caught:
        assembled(view=view, tokenizer=tokenizer)
    assert caught.value.path == f"view.{name}"
    own = getattr(assembled(tokenizer=tokenizer).tokenizer, name)
    assert assembled(view={**view, name: own}, tokenizer=tokenizer).view.gives == view["kind"]


def test_a_window_that_no_memory_holds_is_refused_before_it_is_read() -> None:
    """``limits.view_bytes`` bounds views of a known size in the plan, others as they are read."""
    view = {**CLIPS, "frames": 8}
    assert assembled(view=view, tokenizer=VIDEO_VQ, limits={"view_bytes": 8 * 64 * 64 * 3})
    with pytest.raises(JobError, match=r"8 x 64 x 64 pixels take 98304 bytes each, limits\.view_b"):
        assembled(view=view, tokenizer=VIDEO_VQ, limits={"view_bytes": 8 * 64 * 64 * 3 - 1})
