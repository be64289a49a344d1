"""Every example job runs on the sample corpora, with the very losses that they are made for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.job import read_job

JOBS = Path(__file__).parents[2] / "pipelines" / "jobs"


@dataclass(frozen=True, slots=True)
class Example:
    """What a job's run must come to; ``small`` is what keeps it from a hub and from taking long.

    ``bad`` tells the reason of every asset in quarantine, ``filtered`` how many assets a rule
    leaves out; ``hard`` has assets that look broken and give samples; ``page`` has what the report
    must say.
    """

    assets: int
    bad: dict[str, str]
    hard: tuple[str, ...] = ()
    page: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    filtered: int = 0


BAD_IMAGES = {
    "images/bad/bomb.png": "too_many_pixels",
    "images/bad/empty.png": "empty",
    "images/bad/text.jpg": "unknown_format",
    "images/bad/truncated.jpg": "truncated",
}
BAD_VIDEOS = {
    "videos/bad/blocks.ogv": "corrupt",
    "videos/bad/empty.webm": "empty",
    "videos/bad/sound.ogg": "no_video",
    "videos/bad/text.mp4": "unknown_format",
    "videos/bad/truncated.mp4": "truncated",
}
BAD_SHAPES = {
    "shapes/bad/claims.ply": "too_many_points",
    "shapes/bad/empty.obj": "empty",
    "shapes/bad/not_a_number.obj": "corrupt",
    "shapes/bad/nothing.ply": "no_geometry",
    "shapes/bad/text.glb": "unknown_format",
    "shapes/bad/truncated.stl": "truncated",
}
HARD_VIDEOS = (
    "videos/made/logo.ogv",  # a packet of no bytes
    *("videos/made/uneven.mkv", "videos/made/sideways.mp4", "videos/made/deep.mp4"),
)
HARD_SHAPES = ("shapes/hard/degenerate.obj", "shapes/hard/non_manifold.off")

EXAMPLES = {
    "demo": Example(40, BAD_IMAGES),
    "tiny": Example(40, BAD_IMAGES),
    "llamagen_ten_crop": Example(
        40,
        BAD_IMAGES,
        page=(", mirrored)",),  # which of the ten a picture is
        small=(
            "tokenizer.checkpoint=random:0",
            "tokenizer.config={ch = 32}",
            "view.size=64",
        ),
    ),
    "one_d_piece": Example(
        40,
        BAD_IMAGES,
        small=(
            "tokenizer.checkpoint=random:0",
            "tokenizer.config={image_size = 64, num_latent_tokens = 32, "
            "vit_dec_model_size = 'small'}",
            "view={kind = 'center_crop', size = 64}",
        ),
    ),
    "vae_latents": Example(
        40,
        BAD_IMAGES,
        small=(
            "view.area=4096",
            "tokenizer.checkpoint=random:0",
            "tokenizer.config={_class_name = 'AutoencoderKL', block_out_channels = [32, 32], "
            "down_block_types = ['DownEncoderBlock2D', 'DownEncoderBlock2D'], "
            "up_block_types = ['UpDecoderBlock2D', 'UpDecoderBlock2D'], layers_per_block = 1, "
            "norm_num_groups = 32, latent_channels = 4}",
        ),
    ),
    "tiny_videos": Example(17, BAD_VIDEOS, HARD_VIDEOS, page=("first, middle and last frame",)),
    "tiny_shapes": Example(25, BAD_SHAPES, HARD_SHAPES, page=("mean IoU",)),
    "demo_videos": Example(
        17,
        BAD_VIDEOS,
        HARD_VIDEOS,
        page=("first, middle and last frame",),
        small=("view.size=64", "view.fps=6", "view.frames=9"),
    ),
    "demo_shapes": Example(25, BAD_SHAPES, HARD_SHAPES, page=("mean IoU",)),
    "mesh_sequences": Example(25, BAD_SHAPES, HARD_SHAPES, page=("face for face",), filtered=3),
    "cosmos_shots": Example(
        17,
        BAD_VIDEOS,
        HARD_VIDEOS,
        small=(
            "view.size=32",
            "view.max_frames=33",
            "tokenizer.checkpoint=random:0",
            "tokenizer.config={channels = 32, num_res_blocks = 1}",
        ),
    ),
    "pictures_and_clips": Example(57, BAD_IMAGES | BAD_VIDEOS, HARD_VIDEOS),
}


def test_every_example_job_is_tried() -> None:
    """A new example job needs an entry here."""
    assert {path.stem for path in JOBS.glob("*.toml")} == set(EXAMPLES)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_job_runs_and_its_store_is_sound(name: str, tmp_path: Path) -> None:
    """Each job in pipelines/jobs tokenizes a sample corpus into a store that verifies."""
    wanted = EXAMPLES[name]
    fixed = (f"store.uri={tmp_path / 'store'}", "cluster.backend=local", "cluster.actors=1")
    job = read_job(JOBS / f"{name}.toml", overrides=(*wanted.small, *fixed))
    result = run_job(job, observer=SilentObserver())
    store = Store.open(result.store_uri)
    report = verify_store(store, store.snapshot())
    assert report.problems == ()
    assert report.assets == wanted.assets
    assert {below(key): reason for key, reason, _ in result.quarantine} == bad_of(wanted)
    keys = {below(key) for key in asset_keys(store)}
    assert set(map(below, wanted.hard)) <= keys
    assert len(keys) == wanted.assets - len(wanted.bad) - wanted.filtered, "all others give samples"
    page = Path(result.report).read_text(encoding="utf-8")
    assert len(page) > 100_000, "it shows assets"
    assert all(text in page for text in wanted.page)


def below(key: str) -> str:
    """A key as seen from the corpus: listings say ``images/bad/x.png``, folders ``bad/x.png``."""
    return key.split("/", 1)[1] if key.split("/")[0] in {"images", "videos", "shapes"} else key


def bad_of(example: Example) -> dict[str, str]:
    """The expected quarantine by the same names."""
    return {below(key): reason for key, reason in example.bad.items()}


def asset_keys(store: Store) -> set[str]:
    """The assets that have samples."""
    keys: set[str] = set()
    paths = store.segments(store.snapshot(), ["path"]).column("path").to_pylist()
    for path in filter(None, paths):  # a unit without samples has no shard
        with store.shard(path) as shard:
            keys.update(key for b in shard.batches() for key in b.column("asset_key").to_pylist())
    return keys
