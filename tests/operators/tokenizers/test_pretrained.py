from pathlib import Path

import pytest

from tokenmill.tokenizers import pretrained
from tokenmill.tokenizers.pretrained import folder_config, folder_weights, is_folder
from tokenmill_schemas.errors import CheckpointError


@pytest.mark.parametrize(
    ("checkpoint", "folder"),
    [
        ("", False),
        ("random:3", False),
        ("hf://owner/repo", True),
        ("hf://owner/FLUX.1-dev@v2/vae", True),
        ("hf://owner/repo@v2/model.safetensors", False),
        ("hf://owner/repo/model.safetensors.index.json", False),
        ("s3://bucket/vae/", True),
        ("weights/last.ckpt", False),
        ("weights", True),
    ],
)
def test_a_name_says_whether_it_is_a_folder(checkpoint: str, folder: bool) -> None:
    """By its form alone: nothing is asked of a remote place."""
    assert is_folder(checkpoint) == folder


def test_what_is_on_the_disk_decides_before_the_name_does(tmp_path: Path) -> None:
    """A local folder may be called ``x.bin``, a file may have no suffix."""
    (tmp_path / "x.bin").mkdir()
    (tmp_path / "weights").write_bytes(b"")
    assert is_folder(str(tmp_path / "x.bin"))
    assert not is_folder(str(tmp_path / "weights"))


def test_a_hub_folder_keeps_its_revision_and_subfolder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are asked for below the very place that was named, the first that is there is taken."""
    (tmp_path / "config.json").write_text('{"latent_channels": 16}')
    there = {"hf://o/r@v2/vae/config.json", "hf://o/r@v2/vae/b.bin", "hf://o/r@v2/vae/c.bin"}

    def fake(name: str) -> Path:
        if name not in there:
            raise CheckpointError(f"no {name}")
        return tmp_path / "config.json"

    monkeypatch.setattr(pretrained, "local_file", fake)
    assert folder_config("hf://o/r@v2/vae") == {"latent_channels": 16}
    assert folder_weights("hf://o/r@v2/vae/", ["a.bin", "b.bin", "c.bin"]).endswith("/vae/b.bin")
    with pytest.raises(CheckpointError, match=r"hf://o/r@v2/vae has none of a\.bin"):
        folder_weights("hf://o/r@v2/vae", ["a.bin"])


@pytest.mark.parametrize(("text", "said"), [("{", "is not JSON"), ("[]", "got list")])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """With the name of the file at fault."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"config.json.*{said}"):
        folder_config(str(tmp_path))
