"""The authors' preprocessing, bit for bit; rules and origins are listed in the two JSON files."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tokenmill.decoders.base import Picture
from tokenmill.views import open_view
from tokenmill.views.resize import Rule, apply, fit, owned

HERE = Path(__file__).parent
ONE_D = json.loads((HERE / "preprocess_1d.json").read_text())["cases"]
TWO_D = json.loads((HERE / "preprocess_2d.json").read_text())["cases"]

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def _normals(key: str, shape: tuple[int, ...]) -> Floats:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)


@functools.cache
def _picture(name: str, height: int, width: int) -> Picture:
    """Make the test picture that fill-v1 gives to ``name``."""
    coarse = _normals(f"{name}:coarse", (3, max(2, -(-height // 8)), max(2, -(-width // 8))))
    big = np.repeat(np.repeat(coarse, 8, axis=-2), 8, axis=-1)[..., :height, :width]
    x = np.tanh(0.7 * big + 0.15 * _normals(f"{name}:fine", (3, height, width)))
    values = (255 * (x + 1) / 2).astype(np.float32)
    pixels = np.clip(np.round(values), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return Picture(Image.fromarray(np.ascontiguousarray(pixels)), {})


def _unit(pixels: Pixels) -> Floats:
    """ToTensor: uint8[..., H, W, 3] to float32[..., 3, H, W] in [0, 1]."""
    return np.moveaxis(pixels.astype(np.float32) / np.float32(255), -1, -3)


def _centred(pixels: Pixels) -> Floats:
    """ToTensor and Normalize with mean and standard deviation 0.5."""
    return (_unit(pixels) - np.float32(0.5)) / np.float32(0.5)


def _doubled(pixels: Pixels) -> Floats:
    """VAR's x.add(x).add(-1)."""
    unit = _unit(pixels)
    return unit + unit - np.float32(1)


def _taming(pixels: Pixels) -> Floats:
    """X / 127.5 - 1 in float64, then cast."""
    return np.moveaxis((pixels / 127.5 - 1.0).astype(np.float32), -1, -3)


def _clip(pixels: Pixels) -> Floats:
    return (_unit(pixels) - CLIP_MEAN[:, None, None]) / CLIP_STD[:, None, None]


def _views(picture: Picture, kind: str, **options: Any) -> Pixels:
    views = [view.data for view in open_view(kind, options).views(picture, "key")]
    return np.stack(views) if len(views) > 1 else views[0]


Case = tuple[str, dict[str, Any], Callable[[Pixels], Floats]]
RULES_1D: dict[str, Case] = {
    "titok_bicubic256": ("center_crop", {"size": 256, "rule": "bicubic"}, _unit),
    "one_d_piece_bicubic256": ("center_crop", {"size": 256, "rule": "bicubic"}, _unit),
    "one_d_piece_bilinear256": ("center_crop", {"size": 256, "rule": "bilinear"}, _unit),
    "adm256": ("center_crop", {"size": 256, "rule": "adm"}, _unit),
    "adm256_centered": ("center_crop", {"size": 256, "rule": "adm"}, _centred),
    "adm336_centered": ("center_crop", {"size": 336, "rule": "adm"}, _centred),
    "gigatok_tencrop_1.1": ("ten_crop", {"size": 256}, _centred),
    "gigatok_tencrop_1.05": ("ten_crop", {"size": 256, "ranges": [1.05]}, _centred),
    "restok_tencrop_1.1": ("ten_crop", {"size": 256, "ranges": [1.1]}, _unit),
    "pretokenize_two_views": ("center_flip", {"size": 256}, _unit),
    "seed_squash224_bicubic": ("center_crop", {"size": 224, "rule": "squash_bicubic"}, _clip),
    "seed_squash224_bilinear": ("center_crop", {"size": 224, "rule": "squash_bilinear"}, _clip),
    "flextok_bilinear256": ("center_crop", {"size": 256, "rule": "bilinear"}, _centred),
}
RULES_2D: dict[str, tuple[Rule, Callable[[Pixels], Floats]]] = {
    "P1": ("adm", _centred),
    "P2": ("taming", _taming),
    "P3": ("bilinear", _taming),
    "P4_var_lanczos": ("var", _doubled),
    "P4_unitok_bilinear": ("unitok", _centred),
    "P5": ("cover", _doubled),
}


def _sha256(values: Floats) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()


@pytest.mark.parametrize("case", ONE_D, ids=lambda c: f"{c['rule']}-{c['width']}x{c['height']}")
def test_rules_of_the_1d_tokenizers(case: dict[str, Any]) -> None:
    """Every case but the masks of HiMTok, which are not pictures, has the published hash."""
    picture = _picture(case["name"], case["height"], case["width"])
    if case["rule"] == "input":
        pixels = owned(picture.image)
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == case["sha256_uint8_hwc"]
    elif not case["rule"].startswith("himtok"):
        kind, options, normalize = RULES_1D[case["rule"]]
        values = normalize(_views(picture, kind, **options))
        assert list(values.shape) == case["shape"]
        assert _sha256(values) == case["sha256"]


CASES_2D = [(case, name) for case in TWO_D for name in case["results"]]


@pytest.mark.parametrize(
    ("case", "name"), CASES_2D, ids=[f"{n}-{c['picture']['name'][24:]}" for c, n in CASES_2D]
)
def test_rules_of_the_2d_tokenizers(case: dict[str, Any], name: str) -> None:
    """P1 to P5 at 256, 336 and in Infinity's buckets have the published hashes."""
    _, height, width = case["picture"]["shape_chw"]
    picture = _picture(case["picture"]["name"], height, width)
    want = case["results"][name]
    if name.startswith("P5_bucket_"):
        area = {"0.06M": 256 * 256, "0.25M": 512 * 512}[name.removeprefix("P5_bucket_")]
        values = _doubled(_views(picture, "aspect_buckets", area=area))
        assert list(values.shape[1:]) == want["target_hw"]
    else:
        family, _, size = name.partition("@")
        side = int(size.partition("x")[0])
        rule, normalize = RULES_2D[family]
        values = normalize(owned(apply(picture.image, fit(rule, (side, side), (width, height)))))
    assert list(values.shape) == want["shape"]
    assert _sha256(values) == want["sha256_float32_le_chw"]
