import hashlib
import json
import pickle
import sys
import time
import types
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tokenmill.tokenizers.checkpoints import (
    assign,
    checkpoint_digest,
    fill_random,
    load_into,
    load_weights,
)
from tokenmill.tokenizers.filling import picture, weight
from tokenmill.tokenizers.locate import UnreachableError, local_file
from tokenmill.tokenizers.pretrained import folder_weights
from tokenmill_infra.storage.retry import Retry
from tokenmill_schemas.errors import CheckpointError, TransientError


class Net(nn.Module):
    """Two parts, one of which a checkpoint may lack, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.decoder = nn.Linear(2, 3)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


def state(seed: int = 0) -> dict[str, Tensor]:
    """Weights of `Net`."""
    net = Net()
    fill_random(net, f"random:{seed}")
    return dict(net.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_filling_rule_gives_the_recorded_bytes() -> None:
    """Rule fill-v1 is frozen: the bytes were made by the program that made the golden cases."""
    parts = [
        weight("encoder.conv_in.weight", (4, 3, 3, 3), gain={"^encoder": 0.5}),
        weight("norm.weight", (5,)),
        weight("norm.bias", (5,)),
        weight("bn.running_var", (5,)),
        picture("name", (3, 17, 20), low=0.0, high=1.0),
    ]
    sha = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    assert sha == "f9c84482cc372338b8c96b2f407f0b444b272da921ab6a2ca127af4f38f06c44"


def test_random_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    """``random:SEED`` gives the same bytes on every machine and torch version."""
    sha = hashlib.sha256(b"".join(v.numpy().tobytes() for v in state(7).values())).hexdigest()
    assert sha == "b31edb93a2424689910e43923cd20e5c3981619015d0a0ff71589a19947abd89"
    assert same(state(7), state(7))
    assert not same(state(7), state(8))


@pytest.mark.parametrize("text", ["random:", "random:-1", "random:x"])
def test_a_seed_must_be_a_whole_number(text: str) -> None:
    """Anything else is an error that shows the form."""
    with pytest.raises(CheckpointError, match="random:0"):
        fill_random(Net(), text)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.ckpt", "w.bin"])
def test_flat_files_load_as_they_are(name: str, tmp_path: Path) -> None:
    """Safetensors and torch files give the tensors that were saved."""
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(state(), path)
    else:
        torch.save(state(), path)
    assert same(load_weights(str(path)), state())
    assert same(load_weights(f"file://{path}"), state())


def test_old_torch_files_load_too(tmp_path: Path) -> None:
    """Torch's format before 1.6, which is no zip file."""
    path = tmp_path / "old.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    assert same(load_weights(str(path)), state())


def test_the_first_wrapper_that_the_file_has_is_unwrapped(tmp_path: Path) -> None:
    """Preference is the caller's; dots go deeper."""
    path = str(tmp_path / "w.pt")
    torch.save({"model": state(1), "ema": state(2), "trainer": {"net": state(3)}}, path)
    assert same(load_weights(path, unwrap=("ema", "model")), state(2))
    assert same(load_weights(path, unwrap=("nothing", "model")), state(1))
    assert same(load_weights(path, unwrap=("trainer.net",)), state(3))
    with pytest.raises(CheckpointError, match="model, ema, trainer"):
        load_weights(path, unwrap=("vae",))


def test_prefixes_of_parallel_and_compiled_training_are_stripped(tmp_path: Path) -> None:
    """In any depth, when every key has them."""
    path = str(tmp_path / "w.pt")
    torch.save({f"module._orig_mod.{k}": v for k, v in state().items()}, path)
    assert same(load_weights(path), state())


def test_a_model_inside_a_larger_one_is_selected(tmp_path: Path) -> None:
    """Its prefix goes, and so do the other model's keys; without the prefix nothing changes."""
    path = str(tmp_path / "w.safetensors")
    inside = {f"gen_vision_model.{k}": v for k, v in state().items()}
    save_file(inside | {"language_model.x": torch.ones(1)}, path)
    assert same(load_weights(path, select=("gen_vision_model.",)), state())
    assert len(load_weights(path, select=("other.",))) == len(inside) + 1


def test_a_sharded_checkpoint_reads_only_the_files_that_are_needed(tmp_path: Path) -> None:
    """The index says which; the digest covers just those."""
    save_file({f"vis.{k}": v for k, v in state().items()}, tmp_path / "a.safetensors")
    placed = {f"vis.{k}": "a.safetensors" for k in state()} | {"text.x": "missing.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    assert same(load_weights(str(index), select=("vis.",)), state())
    only = checkpoint_digest(str(tmp_path / "a.safetensors"))
    assert checkpoint_digest(str(index), select=("vis.",)) == only
    with pytest.raises(CheckpointError, match=r"missing\.safetensors"):
        load_weights(str(index))


def test_assign_fills_a_module_on_the_meta_device() -> None:
    """In the module's types, and with copies: the checkpoint's tensors are not shared."""
    weights = {k: v.to(torch.float64) if v.is_floating_point() else v for k, v in state().items()}
    with torch.device("meta"):
        net = Net()
    done = assign(net, weights | {"loss.d.w": torch.ones(1), "encoder.x": torch.ones(1)})
    assert same(dict(net.state_dict()), state())
    assert done.unused_prefixes == ("encoder.x", "loss")
    weights["encoder.weight"].zero_()
    assert net.encoder.weight.count_nonzero() == 6
    assert not any(p.requires_grad for p in net.parameters())


def test_ignored_prefixes_are_not_listed() -> None:
    """What is known to be of no use needs no mention."""
    done = assign(
        Net(), state() | {"loss.a": torch.ones(1), "b.c": torch.ones(1)}, ignore=("loss.",)
    )
    assert done.unused_prefixes == ("b",)


def test_an_optional_part_may_be_missing_as_a_whole_only() -> None:
    """A checkpoint without a decoder loads; one with half of it does not."""
    weights = {k: v for k, v in state().items() if not k.startswith("decoder.")}
    assert assign(Net(), weights, optional=("decoder.",)).absent == ("decoder.",)
    half = weights | {"decoder.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"decoder\.weight \(3, 2\) is missing"):
        assign(Net(), half, optional=("decoder.",))


def test_missing_keys_and_other_shapes_are_listed_with_what_was_asked() -> None:
    """The message alone must tell a wrong variant from a wrong file."""
    weights = state() | {"encoder.weight": torch.zeros(5, 3)}
    del weights["decoder.bias"]
    with pytest.raises(CheckpointError) as caught:
        assign(Net(), weights)
    assert "decoder.bias (3,) is missing" in str(caught.value)
    assert "encoder.weight must be (2, 3), got (5, 3)" in str(caught.value)


class Bomb:
    """An object whose unpickling would leave a mark."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused(zipped: bool, tmp_path: Path) -> None:
    """Nothing in it runs, whatever else it holds."""
    path, mark = tmp_path / "w.pt", tmp_path / "mark"
    torch.save({"x": Bomb(mark)} | state(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="run code"):
        load_weights(str(path))
    assert not mark.exists()


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    """Pickled dictionaries are not torch files."""
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"x": Bomb(tmp_path / "mark")}, protocol=2))
    with pytest.raises(CheckpointError, match="run code"):
        load_weights(str(path))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_cut_file_is_a_clear_error(name: str, tmp_path: Path) -> None:
    """Such as a download that broke off."""
    path = tmp_path / name
    save_file(state(), path) if name.endswith("safetensors") else torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=name):
        load_weights(str(path))


def test_bookkeeping_of_training_frames_is_skipped_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Official Lightning files hold callback classes as keys; their weights load all the same."""
    module = types.ModuleType("pytorch_lightning.callbacks")
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = callback  # type: ignore[attr-defined]  # a module made for the test
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "w.ckpt"
    torch.save({"callbacks": {callback: callback()}, "state_dict": state()}, path)
    monkeypatch.delitem(sys.modules, module.__name__)
    monkeypatch.delitem(sys.modules, "pytorch_lightning")
    assert same(load_weights(str(path), unwrap=("state_dict",)), state())
    assert "pytorch_lightning" not in sys.modules


def test_digests_are_of_the_bytes_or_of_the_text(tmp_path: Path) -> None:
    """A changed file has another digest, also within one process."""
    path = tmp_path / "w.pt"
    path.write_bytes(b"one")
    assert checkpoint_digest(str(path)) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"other")
    assert checkpoint_digest(str(path)) == hashlib.sha256(b"other").hexdigest()
    assert checkpoint_digest("random:3") == hashlib.sha256(b"random:3").hexdigest()


@pytest.mark.parametrize("name", ["", "/nowhere/w.pt", "memory://nowhere/w.pt", "hf://owner/w.pt"])
def test_what_is_not_there_is_a_checkpoint_error(name: str) -> None:
    """Mend the name: local, remote or on the hub."""
    with pytest.raises(CheckpointError):
        load_weights(name)
    with pytest.raises(CheckpointError):
        checkpoint_digest(name)


def test_a_hub_that_does_not_answer_is_asked_once_and_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a minute of its client's retries tells nobody more; the error says what to do."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(UnreachableError, match=r"^tokenizer\.checkpoint: hf://o/r/w\.pt .*HF_HOME"):
        local_file("hf://o/r/w.pt")
    assert time.monotonic() - start < 10
    assert not [record for record in caplog.records if record.name.startswith("huggingface_hub")]
    # A folder without one of its files is another matter than a hub that is away.
    with pytest.raises(UnreachableError):
        folder_weights("hf://o/r", ["model.safetensors", "model.bin"])


@pytest.mark.parametrize("name", ["/nowhere/w.pt", "random:x", "hf://owner/w.pt"])
def test_errors_of_checkpoints_name_the_key_of_the_job(name: str) -> None:
    """Once, and as it is written in the file."""
    with pytest.raises(CheckpointError, match=r"^tokenizer\.checkpoint: ") as caught:
        load_into(Net(), name)
    assert caught.value.path == "tokenizer.checkpoint"
    assert str(caught.value).count("tokenizer.checkpoint") == 1


def test_an_unknown_protocol_is_a_checkpoint_error() -> None:
    """It is the name that is wrong, not the network."""
    with pytest.raises(CheckpointError, match="nosuch"):
        load_weights("nosuch://a/w.pt")


def test_remote_files_are_cached_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One download per version of the remote file, in a folder of our own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = "memory://checkpoints/w.pt"
    with fsspec.open(url, "wb") as file:
        torch.save(state(1), file)
    assert same(load_weights(url), state(1))
    assert same(load_weights(url), state(1))
    cached = list((tmp_path / "tokenmill" / "checkpoints").rglob("*.pt"))
    assert len(cached) == 1
    with fsspec.open(url, "wb") as file:
        torch.save(state(2), file)
    assert same(load_weights(url), state(2))


def test_a_broken_download_leaves_nothing_and_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file must never be taken for the whole."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = "memory://broken/w.pt"
    with fsspec.open(url, "wb") as file:
        torch.save(state(), file)

    def broken(_self: object, _path: str, local: str, **_: object) -> None:
        Path(local).write_bytes(b"half")
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr("fsspec.implementations.memory.MemoryFileSystem.get_file", broken)
        patch.setattr("tokenmill.tokenizers.locate.RETRY", Retry(deadline_s=0.2))
        with pytest.raises(TransientError):
            load_weights(url)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert same(load_weights(url), state())


def test_hub_names_go_to_the_hub_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Owner, repository, revision and a file in a folder."""
    path = tmp_path / "w.pt"
    torch.save(state(), path)
    asked: list[tuple[object, ...]] = []

    def download(repo: str, file: str, *, revision: str | None) -> str:
        asked.append((repo, file, revision))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(path))
    load_weights("hf://owner/repo@v1/folder/w.pt")
    assert same(load_weights("hf://owner/repo/w.pt"), state())
    assert asked == [("owner/repo", "folder/w.pt", "v1"), ("owner/repo", "w.pt", None)]


def test_an_error_of_loading_names_the_checkpoint_and_pickles(tmp_path: Path) -> None:
    """Errors cross processes."""
    path = str(tmp_path / "w.pt")
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"w\.pt") as caught:
        load_into(Net(), path)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
