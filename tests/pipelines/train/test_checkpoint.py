from pathlib import Path

import pytest
import torch
from torch import Tensor

from tokenmill_infra.storage import Storage, open_storage
from tokenmill_pipelines.train import checkpoint
from tokenmill_pipelines.train.checkpoint import Leg, Progress
from tokenmill_schemas.errors import CheckpointError, JobError

IDENTITY = {"model": {"width": 8}, "optimiser": {"lr": 0.1, "betas": [0.9, 0.95]}}


def progress(step: int) -> Progress:
    """A state as a training leaves it."""
    return Progress(
        step=step,
        identity=IDENTITY,
        snapshot="7",
        fingerprint="ab" * 32,
        classes=("a", "b"),
        feed={"format": 1, "epoch": 0, "position": 12},
        curve=((4, 2.25), (step, 1 / 3)),
        legs=(Leg(0, step, 2, 1.5, 2.75),),
    )


def tensors() -> dict[str, Tensor]:
    """Numbers that no text keeps exactly."""
    noise = torch.Generator().manual_seed(0)
    return {
        "model.a.weight": torch.randn(3, 5, generator=noise),
        "ema.a.weight": torch.randn(3, 5, generator=noise).T,
        "optimiser.a.weight.step": torch.tensor(9.0),
    }


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty output folder."""
    return open_storage(str(tmp_path / "out"))


def test_a_checkpoint_comes_back_as_it_was(storage: Storage) -> None:
    """Every bit of every tensor, and all that is no tensor; nothing is pickled."""
    assert checkpoint.newest(storage) is None
    checkpoint.save(storage, progress(8), tensors(), keep=2)
    found = checkpoint.newest(storage)
    assert found is not None
    assert found.progress == progress(8)
    assert set(found.tensors) == set(tensors())
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors().items())
    assert set(found.part("model")) == {"a.weight"}


def test_the_newest_few_are_kept(storage: Storage) -> None:
    """Older ones are deleted when a newer one is there, never before."""
    for step in (5, 10, 15, 100):
        checkpoint.save(storage, progress(step), tensors(), keep=2)
    assert checkpoint.steps_of(storage) == [15, 100]
    assert checkpoint.read(storage, 15).progress.step == 15


def test_two_trainings_cannot_write_one_checkpoint(storage: Storage) -> None:
    """The second says that the place is taken, and the first's checkpoint stays."""
    checkpoint.save(storage, progress(5), tensors(), keep=2)
    longer = progress(5).after(curve=tuple((i, 0.5) for i in range(50)))
    with pytest.raises(JobError, match="only one may write there"):
        checkpoint.save(storage, longer, tensors(), keep=2)
    assert checkpoint.read(storage, 5).progress == progress(5)


@pytest.mark.parametrize("keep", [0, 4, 200])
def test_a_damaged_checkpoint_is_named(storage: Storage, tmp_path: Path, keep: int) -> None:
    """Cut short anywhere it is no checkpoint; the error names the file and what to do."""
    checkpoint.save(storage, progress(5), tensors(), keep=2)
    file = tmp_path / "out" / checkpoint.path_of(5)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        CheckpointError, match=r"000000005\.safetensors is no checkpoint.*delete it"
    ):
        checkpoint.newest(storage)


def test_a_newer_format_is_refused(storage: Storage) -> None:
    """And says which one it is."""
    checkpoint.save(storage, progress(5).after(format=2), tensors(), keep=2)
    with pytest.raises(CheckpointError, match="its format is 2, this library reads 1"):
        checkpoint.newest(storage)


def test_another_training_is_refused_with_all_that_differs() -> None:
    """Both keys are named, with both values."""
    checkpoint.check_same(progress(5), IDENTITY, uri="out")
    other = {"model": {"width": 16}, "optimiser": {"lr": 0.2, "betas": [0.9, 0.95]}}
    with pytest.raises(JobError, match="another training") as caught:
        checkpoint.check_same(progress(5), other, uri="out")
    assert "model.width is 8 there and 16 here" in str(caught.value)
    assert "optimiser.lr is 0.1 there and 0.2 here" in str(caught.value)
    assert "betas" not in str(caught.value)


def test_an_optimisers_state_is_restored_bit_for_bit() -> None:
    """The next steps are those of the optimiser that was never saved."""
    networks = [torch.nn.Linear(3, 2) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    first, second = (torch.optim.AdamW(network.parameters(), lr=0.1) for network in networks)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))

    def learn(network: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        network(x).square().sum().backward()
        optimiser.step()

    for _ in range(3):
        learn(networks[0], first)
    saved = {k: v.clone() for k, v in checkpoint.optimiser_tensors(networks[0], first).items()}
    networks[1].load_state_dict(networks[0].state_dict())
    checkpoint.restore_optimiser(networks[1], second, saved)
    for _ in range(2):
        learn(networks[0], first)
        learn(networks[1], second)
    assert torch.equal(networks[0].weight, networks[1].weight)
    again = checkpoint.optimiser_tensors(networks[1], second)
    assert all(
        torch.equal(again[name], value)
        for name, value in checkpoint.optimiser_tensors(networks[0], first).items()
    )
