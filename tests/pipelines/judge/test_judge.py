"""Judgements of whole sources: every kind of tokenizer, what was left out, what cannot be."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.operators.tokenizers.test_llamagen import NARROW as NARROW_LLAMAGEN
from tests.operators.tokenizers.test_pointbert import narrow as narrow_pointbert
from tests.operators.tokenizers.test_titok import tiny as tiny_titok
from tests.operators.tokenizers.test_trellis_ss import narrow as narrow_trellis
from tests.operators.tokenizers.test_vidtok import tiny as tiny_vidtok
from tests.pipelines.judge.memory import Means, Memory, operators, picture

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import Array
from tokenmill_pipelines.judge import judge
from tokenmill_pipelines.judge.page import page
from tokenmill_pipelines.judge.reading import chosen
from tokenmill_pipelines.judge.settings import Settings
from tokenmill_pipelines.judge.verdict import FORMAT, VERSION
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, JobError, Reason

PLAIN = Settings(skip=("text", "faces"), rates=(0.0, 0.2), pictures=1)
QUICK = Settings(skip=("text", "faces", "codecs"), rates=(0.0, 0.2), pictures=1)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def clip(seed: int) -> Array:
    """Sixteen frames of 16 x 16."""
    return np.stack([picture(seed + frame, 16) for frame in range(16)])


def volume(seed: int, side: int = 16) -> Array:
    """A box of cells."""
    cells = np.zeros((side,) * 3, bool)
    cells[2 : 8 + seed, 3:9, 4:12] = True
    return cells


def splats(seed: int) -> Array:
    """Rows of the 3DGS layout without harmonics."""
    return np.random.default_rng(seed).normal(size=(20, 14)).astype(np.float32)


def cloud(seed: int) -> Array:
    """Noise in a ball."""
    return (np.random.default_rng(seed).normal(size=(100, 3)) / 4).astype(np.float32)


FACES = np.array([[[0, 0, 0], [4, 0, 0], [0, 4, 0]], [[4, 0, 0], [4, 4, 0], [0, 4, 0]]], np.int32)
#: Tokenizers with shipped or small random weights: how to make one, a view, its kind.
TOKENIZERS: dict[str, tuple[Callable[[], Any], Callable[[int], Array], Any]] = {
    "patch_vq": (lambda: open_tokenizer("patch_vq"), picture, "image"),
    "patch_vq video": (lambda: open_tokenizer("patch_vq", variant="video"), clip, "clip"),
    "voxel_vq": (lambda: open_tokenizer("voxel_vq"), volume, "voxels"),
    "llamagen": (
        lambda: open_tokenizer("llamagen", checkpoint="random:0", config=NARROW_LLAMAGEN),
        picture,
        "image",
    ),
    "one-d-piece": (lambda: tiny_titok("One-D-Piece-S-256"), picture, "image"),
    "titok vae": (lambda: tiny_titok("BL-64-vae"), picture, "image"),
    "vidtok": (lambda: tiny_vidtok("488-4096"), lambda seed: clip(seed)[:5], "clip"),
    "trellis_ss": (narrow_trellis, lambda seed: volume(0, 8), "voxels"),
    "pointbert": (narrow_pointbert, cloud, "points"),
    "mesh_sequence": (lambda: open_tokenizer("mesh_sequence"), lambda seed: FACES, "mesh"),
    "gaussian_ply": (lambda: open_tokenizer("gaussian_ply"), splats, "gaussians"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_tokenizer_with_a_decoder_can_be_judged(name: str) -> None:
    """Every view has the figures of its kind, and what is missing says why."""
    make, view, kind = TOKENIZERS[name]
    shape = view(0).shape[:2] if kind == "image" else None
    memory = Memory({str(n): view(n) for n in range(2)}, gives=kind, shape=shape)
    made = judge(make(), operators(memory, make()), QUICK)
    scores = made.judged[0].scores
    assert len(scores.views) == 2, made.judged[0].scores.failures
    assert set(scores.views[0].values) >= {one.key for one in scores.measures}
    assert scores.bits_per_unit["packed"] > 0
    assert made.judged[0].shown
    document = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert (document["format"], document["version"]) == (FORMAT, VERSION)
    left_out = document["tokenizers"][0]["not_measured"]
    assert bool(made.judged[0].perturbed) == ("perturbed" not in left_out)
    assert bool(made.judged[0].prefixes) == ("prefixes" not in left_out)


def test_clips_have_codecs_and_shapes_none() -> None:
    """What pictures alone have is told apart from what clips have too."""
    settings = replace(PLAIN, skip=("perturbed",))
    memory = Memory({"a": clip(0)}, gives="clip")
    patches = open_tokenizer("patch_vq", variant="video")
    made = judge(patches, operators(memory, patches), settings)
    assert {one.codec for one in made.judged[0].equal_bytes} == set(made.codecs) >= {"jpeg"}
    left_out = made.judged[0].not_measured
    assert (left_out["text"], left_out["faces"]) == ("only pictures have it",) * 2
    assert "codecs" not in left_out
    assert "predicted from others; speed 6" in page(made).decode()
    boxes = open_tokenizer("voxel_vq")
    shapes = judge(boxes, operators(Memory({"a": volume(0)}, gives="voxels"), boxes), settings)
    assert shapes.codecs == {}
    assert shapes.judged[0].not_measured["codecs"] == "only pictures and clips have it"


def test_ids_of_levels_move_by_one_level() -> None:
    """VidTok has no codebook but levels, and so near ids."""
    make, view, kind = TOKENIZERS["vidtok"]
    memory = Memory({"a": view(0)}, gives=kind)
    made = judge(make(), operators(memory, make()), QUICK).judged[0]
    assert [curve.how for curve in made.perturbed] == [
        "one level up or down in one dimension",
        "any other id",
    ]


def test_prefixes_have_a_curve_that_rises() -> None:
    """Lengths that the tokens have, and the whole; bits grow with them."""
    memory = Memory({str(n): picture(n) for n in range(3)})
    made = judge(Means(prefix=True), operators(memory, Means()), PLAIN).judged[0]
    assert [point.setting for point in made.prefixes] == [16, 32, 48]
    psnr = [point.values["psnr_db"] for point in made.prefixes]
    assert psnr == sorted(psnr)
    assert psnr[-1] == pytest.approx(made.scores.mean("psnr_db"))
    assert [point.bits_per_unit for point in made.prefixes] == [n * 8 / 1024 for n in (16, 32, 48)]


@dataclass(frozen=True, slots=True)
class Whole(Means):
    """Says that prefixes decode, and takes whole sequences of its own ids alone."""

    def decode(self, tokens: Mapping[str, Any]) -> Array:
        """Refuse what `encode` did not give."""
        if tokens["image"].shape[1] < 48 or tokens["image"].max() > 127:
            raise RuntimeError("what is this?")
        return super(Whole, self).decode(tokens)


def test_a_decoder_that_refuses_costs_its_curve_alone() -> None:
    """The figures are there, and why the curves are not."""
    memory = Memory({str(n): picture(n) // 2 for n in range(2)})
    settings = replace(QUICK, rates=(0.0, 1.0))
    made = judge(Whole(prefix=True), operators(memory, Means()), settings).judged[0]
    assert made.scores.mean("psnr_db") > 10
    assert (made.prefixes, made.perturbed) == ((), ())
    assert made.not_measured["prefixes"] == "its decoder refuses a prefix of 16: what is this?"
    assert made.not_measured["perturbed"] == "its decoder refuses changed ids: what is this?"


def test_the_same_inputs_give_the_same_document() -> None:
    """But for times; a seed changes the ids that are replaced and nothing else."""

    def document(**more: Any) -> dict[str, Any]:
        memory = Memory({str(n): picture(n) for n in range(4)}, contents={"1": "photo"})
        settings = Settings(skip=("text", "faces"), rates=(0.0, 0.2), pictures=1, **more)
        found = judge({"means": Means()}, operators(memory, Means()), settings).to_json()
        found.pop("environment")
        found["tokenizers"][0].pop("seconds")
        return found

    one, other = document(), document(seed=1)
    assert one == document()
    assert one["tokenizers"][0].pop("perturbed") != other["tokenizers"][0].pop("perturbed")
    assert one.pop("settings") != other.pop("settings")
    assert one == other
    assert list(one["tokenizers"][0]["by_content"]) == ["photo", "unnamed"]


def test_bad_assets_are_counted_and_their_neighbours_go_on() -> None:
    """What cannot be read, what has no view, what cannot be encoded."""
    broken = AssetError(Reason.CORRUPT, "no picture at all")
    refused = picture(1)
    refused[0, 0, 0] = 3
    fine = picture(2)
    fine[0, 0, 0] = 4
    assets: dict[str, Any] = {"a": broken, "b": refused, "c": fine, "d": OverflowError("odd")}
    made = judge(Means(refuses=3), operators(Memory(assets), Means()), QUICK)
    assert [(f.key, f.reason) for f in made.failures] == [
        ("a", "corrupt"),
        ("d", "decode_failed"),
    ]
    assert [f.key for f in made.judged[0].scores.failures] == ["b"]
    assert [view.key for view in made.judged[0].scores.views] == ["c"]
    assert made.failed
    assert (made.listed, made.chosen) == (4, 4)


def test_what_cannot_be_judged_says_so() -> None:
    """No decoder, other views, or not one view."""
    memory = Memory({"a": AssetError(Reason.EMPTY, "0 bytes")})
    with pytest.raises(JobError, match="no decoder"):
        judge(Means(decodes=False), operators(memory, Means()), QUICK)
    with pytest.raises(JobError, match="takes voxels, the view gives image"):
        judge({"v": open_tokenizer("voxel_vq")}, operators(memory, Means()), QUICK)
    with pytest.raises(JobError, match="on no view of the data: 0 bytes"):
        judge(Means(), operators(memory, Means()), QUICK)


def test_several_tokenizers_share_views_and_codecs() -> None:
    """Each has its own budget; the curves of the codecs are measured once."""
    memory = Memory({str(n): picture(n, 64) for n in range(2)})
    named = {"means": Means(), "patches": open_tokenizer("patch_vq")}
    made = judge(named, operators(memory, Means()), PLAIN)
    assert [one.name for one in made.judged] == ["means", "patches"]
    assert all(made.codecs.values())
    budgets = [{one.budget_bytes for one in judged.equal_bytes} for judged in made.judged]
    assert budgets == [{192.0}, {96.0}]


def test_views_of_an_asset_are_limited() -> None:
    """The first ones count, and are told apart."""
    memory = Memory({"a": picture(0)}, copies=9)
    settings = Settings(skip=("text", "faces", "codecs", "perturbed"), views_per_asset=3)
    made = judge(Means(), operators(memory, Means()), settings)
    assert [view.view for view in made.judged[0].scores.views] == ["0 whole", "1 whole", "2 whole"]


def test_the_choice_of_assets_follows_from_their_keys() -> None:
    """In any order, and those that stay chosen as others come; in the order of the listing."""
    refs = [AssetRef(str(n), str(n)) for n in range(50)]
    count, some = chosen(iter(refs), 10)
    again = chosen(iter(refs[::-1]), 10)[1]
    assert (count, len(some)) == (50, 10)
    assert [ref.key for ref in some] == [ref.key for ref in again][::-1]
    assert some == sorted(some, key=lambda ref: int(ref.key))
    fewer = {ref.key for ref in chosen(iter(refs[:40]), 10)[1]}
    assert {ref.key for ref in some if int(ref.key) < 40} <= fewer
    assert chosen(iter(refs), 0) == (50, refs)


def test_settings_are_checked() -> None:
    """Each wrong value names itself."""
    with pytest.raises(ValueError, match="parts are codecs"):
        Settings(skip=("colours",))  # type: ignore[arg-type]  # what a person might write
    for wrong in ({"limit": -1}, {"rates": (2.0,)}, {"prefixes": (0,)}, {"views_per_asset": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
            Settings(**wrong)
