from pathlib import Path

import pytest

from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.job import read_job

JOBS = Path(__file__).parents[2] / "pipelines" / "jobs"

#: What keeps an example from a hub and from taking long: random weights, narrow networks.
SMALL = {
    "demo": (),
    "llamagen_ten_crop": (
        "tokenizer.checkpoint=random:0",
        "tokenizer.config={ch = 32}",
        "view.size=64",
    ),
    "one_d_piece": (
        "tokenizer.checkpoint=random:0",
        "tokenizer.config={image_size = 64}",
        "view={kind = 'center_crop', size = 64}",
    ),
    "vae_latents": (
        "view.area=4096",
        "tokenizer.checkpoint=random:0",
        "tokenizer.config={_class_name = 'AutoencoderKL', block_out_channels = [32, 32], "
        "down_block_types = ['DownEncoderBlock2D', 'DownEncoderBlock2D'], "
        "up_block_types = ['UpDecoderBlock2D', 'UpDecoderBlock2D'], layers_per_block = 1, "
        "norm_num_groups = 32, latent_channels = 4}",
    ),
}


def test_every_example_job_is_tried() -> None:
    """A new example job needs an entry here."""
    assert {path.stem for path in JOBS.glob("*.toml")} == set(SMALL)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_an_example_job_runs_and_its_store_is_sound(name: str, tmp_path: Path) -> None:
    """Each job in pipelines/jobs tokenizes the sample corpus into a store that verifies."""
    overrides = (*SMALL[name], f"store.uri={tmp_path / 'store'}", "cluster.backend=local")
    job = read_job(JOBS / f"{name}.toml", overrides=overrides)
    result = run_job(job, observer=SilentObserver())
    store = Store.open(result.store_uri)
    report = verify_store(store, store.snapshot())
    assert report.problems == ()
    assert report.assets == 40
    reasons = {reason for _, reason, _ in result.quarantine}
    assert reasons == {"too_many_pixels", "empty", "unknown_format", "truncated"}
    page = Path(result.report).read_text(encoding="utf-8")
    assert len(page) > 10_000
    if name == "llamagen_ten_crop":
        assert ", mirrored)" in page  # which of the ten a picture is
