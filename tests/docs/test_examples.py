import runpy
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tokenmill.feed import Feed
from tokenmill.store import Store
from tokenmill.testing.feed import build_store
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

EXAMPLES = Path(__file__).parents[2] / "pipelines" / "examples"
STEPS = 13


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store whose epoch is shorter than a run."""
    layout = ShardLayout(TokenSpec((Stream("image", "index", (Axis("h", 2), Axis("w", 3)), (9,)),)))
    return build_store(tmp_path_factory.mktemp("examples") / "store", [40, 31], layout=layout)


def example(name: str) -> dict[str, Any]:
    """Return what an example defines, as its own module."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


@pytest.mark.slow  # `tokenmill train` goes the same way in the quick suite
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_train_resumes_on_another_number_of_workers(store: Store, tmp_path: Path) -> None:
    """Two workers, then one: the same model as one loop over one feed gives."""
    pytest.importorskip("pandas", reason="Ray Train wants pandas")
    parts = example("ray_train")
    config: dict[str, Any] = {"store": store.uri, "streams": ["image"], "batch_size": 8}
    config |= {"save_every": 100, "resume": None, "steps": 6}
    first = parts["fit"](config, workers=2, keep=tmp_path)
    assert first.metrics["step"] == 6
    assert saved(first.checkpoint)["feed"] == plain_feed(store).state_at(6)
    config |= {"resume": first.checkpoint, "steps": STEPS}
    last = parts["fit"](config, workers=1, keep=tmp_path)
    state = saved(last.checkpoint)
    assert state["feed"] == plain_feed(store).state_at(STEPS)
    wanted = trained(plain_feed(store), parts)
    assert torch.allclose(state["model"]["weight"], wanted, atol=1e-5)
    assert not torch.allclose(saved(first.checkpoint)["model"]["weight"], wanted, atol=1e-5)


def plain_feed(store: Store) -> Feed:
    """Return the feed of the example on one worker."""
    return Feed(store, batch_size=8, streams=["image"])


def saved(checkpoint: Any) -> Mapping[str, Any]:
    """Return what a checkpoint holds."""
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(Path(folder, "state.pt"), weights_only=True)
    return state


def trained(feed: Feed, parts: Mapping[str, Any]) -> torch.Tensor:
    """Return the table that one process learns, without Ray."""
    model = parts["make_model"](feed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in islice(feed.as_torch(), STEPS):
        optimizer.zero_grad()
        parts["loss_of"](model, batch, "image").backward()
        optimizer.step()
    weight: torch.Tensor = model.weight.detach()
    return weight


@pytest.mark.filterwarnings("ignore")  # Lightning warns of what it would do on other machines
def test_lightning_resumes_in_the_middle_of_an_epoch(store: Store, tmp_path: Path) -> None:
    """A stopped run that is resumed sees what one that never stopped sees, over several epochs."""
    lightning = pytest.importorskip("lightning", reason="needs lightning")
    parts = example("lightning_data")
    seen: list[str] = []

    base: Any = parts["Successor"]

    class Noting(base):  # type: ignore[misc]  # it is made at run time
        def training_step(self, batch: Mapping[str, Any]) -> torch.Tensor:
            seen.extend(batch["sample_id"])
            loss: torch.Tensor = super().training_step(batch)
            return loss

    def fit(steps: int, resume: Path | None) -> Any:
        options: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
        options |= {"enable_model_summary": False, "enable_checkpointing": False, "logger": False}
        trainer = lightning.Trainer(max_steps=steps, max_epochs=-1, **options)
        data = parts["TokenData"](store.uri, batch_size=8, streams=["image"])
        trainer.fit(Noting("image", 9), data, ckpt_path=resume)
        return trainer

    for steps, path in ((5, "a.ckpt"), (9, "b.ckpt"), (20, "c.ckpt")):
        before = tmp_path / {5: "", 9: "a.ckpt", 20: "b.ckpt"}[steps]
        fit(steps, before if steps > 5 else None).save_checkpoint(tmp_path / path)
    shown = islice(plain_feed(store), 20)
    assert seen == [name for batch in shown for name in batch["sample_id"]]
