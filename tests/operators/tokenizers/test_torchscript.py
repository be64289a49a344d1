"""Weights out of TorchScript files: equal to torch's own, and nothing in a file runs."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokenmill.tokenizers.torchscript import is_torchscript, read_torchscript
from tokenmill_schemas.errors import CheckpointError


class Inner(nn.Module):
    """Parameters, buffers of several types, and attributes that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.register_buffer("steps", torch.arange(5))
        self.register_buffer("halves", torch.ones(2, dtype=torch.bfloat16), persistent=False)
        self.register_buffer("turned", torch.randn(4, 3).t())
        self.count = 3
        self.sizes = [1, 2]
        self.rates = [0.5]
        self.flags = [True]
        self.parts = [torch.ones(1)]
        self.names = {"a": 1.0}
        self.place = torch.device("cpu")

    def forward(self, x: Tensor) -> Tensor:
        """Use the attributes, so that they are kept."""
        return x + self.weight.sum() * self.count + len(self.sizes) + self.parts[0]


class Outer(nn.Module):
    """Modules in modules, one of them under two names."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.inner = Inner()
        self.layers = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
        if tied:
            self.again = self.inner
            self.inner.tied = self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., 2]``."""
        out: Tensor = self.layers(self.inner(x))
        return out


def scripted(path: Path) -> None:
    """Save a scripted module with tied tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and still what files are
        module: Any = torch.jit.script(Outer(tied=True))
        module.save(str(path))


def traced(path: Path) -> None:
    """Save a traced module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace: Any = torch.jit.trace
        trace(Outer(tied=False), torch.ones(3, 4)).save(str(path))


def by_torch(path: Path) -> dict[str, Tensor]:
    """What torch's own loader says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load: Any = torch.jit.load
        state: dict[str, Tensor] = load(str(path)).state_dict()
    return state


@pytest.mark.parametrize("save", [scripted, traced])
def test_the_tensors_are_those_that_torch_reads(
    save: Callable[[Path], None], tmp_path: Path
) -> None:
    """Names, order, types, values and what shares memory are as torch's loader has them."""
    path = tmp_path / "model.jit"
    save(path)
    assert is_torchscript(path)
    ours, theirs = read_torchscript(path, "model.jit"), by_torch(path)
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype
        assert torch.equal(ours[key], value)
    if "inner.tied" in ours:
        assert ours["inner.tied"].data_ptr() == ours["inner.weight"].data_ptr()


def test_bytes_of_the_other_order_are_turned(tmp_path: Path) -> None:
    """A file of a big-endian machine has the same values."""
    path, other = tmp_path / "little.jit", tmp_path / "big.jit"
    traced(path)
    sizes = {"FloatStorage": 4, "LongStorage": 8, "BFloat16Storage": 2}
    kinds = _storages(path)

    def turn(name: str, content: bytes) -> bytes:
        if name.endswith("byteorder"):
            return b"big"
        if "/data/" not in name:
            return content
        size = sizes[kinds[name.rpartition("/")[2]]]
        return b"".join(content[i : i + size][::-1] for i in range(0, len(content), size))

    _rewrite(path, other, turn)
    expected = read_torchscript(path, "little")
    for key, value in read_torchscript(other, "big").items():
        assert torch.equal(value, expected[key])


def test_other_files_are_not_torchscript(tmp_path: Path) -> None:
    """Plain torch files, safetensors-like bytes and missing files are told apart."""
    torch.save({"a": torch.ones(2)}, tmp_path / "plain.pt")
    (tmp_path / "noise").write_bytes(b"\x00" * 100)
    assert not is_torchscript(tmp_path / "plain.pt")
    assert not is_torchscript(tmp_path / "noise")
    assert not is_torchscript(tmp_path / "missing")


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(Path(os.environ["EVIL_TARGET"])),)


@pytest.mark.parametrize("trust", [False, True])
def test_a_pickle_that_would_run_code_is_refused(
    trust: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither this reader nor, where it is trusted, torch's own makes foreign objects."""
    monkeypatch.setenv("EVIL_TARGET", str(tmp_path / "made"))
    good, bad = tmp_path / "good.jit", tmp_path / "bad.jit"
    traced(good)
    evil = pickle.dumps({"a": Evil()}, protocol=2)
    _rewrite(good, bad, lambda name, content: evil if name.endswith("/data.pkl") else content)
    with pytest.raises(CheckpointError, match=r"cannot be loaded|posix\.mkdir, which is not read"):
        read_torchscript(bad, "bad.jit", trust=trust)
    assert not (tmp_path / "made").exists()


def _complex(name: str, content: bytes) -> bytes:
    """Make every float tensor one of complex numbers, of which this reader knows nothing."""
    if name.endswith("/data.pkl"):
        return content.replace(b"FloatStorage", b"ComplexFloatStorage")
    return content * 2 if "/data/" in name else content


def test_what_this_reader_does_not_know_may_be_trusted(tmp_path: Path) -> None:
    """A file with tensors of another kind needs ``trust``, and says so."""
    plain, odd = tmp_path / "plain.jit", tmp_path / "odd.jit"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace: Any = torch.jit.trace
        trace(nn.Linear(2, 2), torch.ones(2)).save(str(plain))
    _rewrite(plain, odd, _complex)
    with pytest.raises(CheckpointError, match=r"torch\.ComplexFloatStorage.*trust = true"):
        read_torchscript(odd, "odd.jit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_torchscript(odd, "odd.jit", trust=True)["weight"].dtype == torch.complex64


@pytest.mark.parametrize(
    "share", [0.1, 0.5, 0.9, 0.999], ids=lambda share: f"{int(share * 1000)} of 1000"
)
def test_part_of_a_file_is_refused(share: float, tmp_path: Path) -> None:
    """A download that broke off is an error of the checkpoint."""
    path = tmp_path / "model.jit"
    scripted(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="is not a whole TorchScript file"):
        read_torchscript(path, "model.jit")


def _emptied(name: str, content: bytes) -> bytes:
    return b"" if name.endswith("/data/0") else content


def _longer(name: str, content: bytes) -> bytes:
    # One tensor says that it is a hundred rows long.
    return content.replace(b"K\x03K\x04", b"KdK\x04") if name.endswith("/data.pkl") else content


def _cyclic(name: str, content: bytes) -> bytes:
    if not name.endswith("/data.pkl"):
        return content
    # A module whose attribute "a" is itself.
    return b"\x80\x02c__torch__\nM\nq\x00)\x81q\x01}(X\x01\x00\x00\x00ah\x01ub."


def _no_module(name: str, content: bytes) -> bytes:
    return pickle.dumps({"a": 1}, protocol=2) if name.endswith("/data.pkl") else content


@pytest.mark.parametrize("damage", [_emptied, _longer, _cyclic, _no_module])
def test_a_file_that_contradicts_itself_is_refused(
    damage: Callable[[str, bytes], bytes], tmp_path: Path
) -> None:
    """Records that are too short, views outside them, cycles, and no module at all."""
    good, bad = tmp_path / "good.jit", tmp_path / "bad.jit"
    traced(good)
    _rewrite(good, bad, damage)
    with pytest.raises(CheckpointError, match="is not a whole TorchScript file"):
        read_torchscript(bad, "bad.jit")


def test_a_compressed_record_is_refused(tmp_path: Path) -> None:
    """Torch stores its records; a compressed one could be of any size."""
    good, bad = tmp_path / "good.jit", tmp_path / "bad.jit"
    traced(good)
    _rewrite(good, bad, lambda _name, content: content, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed"):
        read_torchscript(bad, "bad.jit")


def _rewrite(
    source: Path,
    target: Path,
    change: Callable[[str, bytes], bytes],
    *,
    method: int = zipfile.ZIP_STORED,
) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def _storages(path: Path) -> dict[str, str]:
    """Storage types by record, by a reader that only looks."""
    found: dict[str, str] = {}

    class Looking(pickle.Unpickler):
        def find_class(self, module: str, name: str, /) -> Any:
            return type(name, (), {"__new__": lambda cls, *_: object.__new__(cls),
                                   "__setstate__": lambda _self, _state: None})  # fmt: skip

        def persistent_load(self, pid: Any, /) -> None:
            found[pid[2]] = pid[1].__name__

    with zipfile.ZipFile(path) as archive:
        record = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        Looking(io.BytesIO(archive.read(record))).load()
    return found
