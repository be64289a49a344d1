import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tokenmill.decoders.base import Picture
from tokenmill.testing.tokenizers import CHECKS
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import StreamingEncoder
from tokenmill.tokenizers.emu3 import Emu3
from tokenmill.tokenizers.filling import weight
from tokenmill.views import open_view
from tokenmill.views.smart_resize import smart_size
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import AssetError, CheckpointError, JobError, Reason

SMALL: dict[str, Any] = {"ch": 32, "ch_mult": [1, 1, 2, 2], "codebook_size": 500}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Emu3:
    """A small tokenizer whose weights are such that noise gets many different ids."""
    gain = {"time_res_stack.*conv|time_conv.*conv|^quant_conv": 3.0, "^quantize": 2.0}
    fresh: Any = Emu3("random:0", SMALL).load()
    state = fresh.network.vqvae.state_dict()
    filled = {
        key: torch.from_numpy(weight(key, tuple(entry.shape), gain=gain))
        for key, entry in state.items()
        if entry.is_floating_point()
    }
    path = tmp_path_factory.mktemp("emu3") / "model.safetensors"
    save_file(state | filled, path)
    return Emu3(str(path), SMALL)


@pytest.fixture(scope="module")
def encoder(small: Emu3) -> Any:
    """Its live encoder."""
    return small.load()


def clips(frames: int, count: int = 2) -> Any:
    """Noise, 16 x 24 pixels."""
    return np.random.default_rng(0).integers(0, 256, (count, frames, 16, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_of_pictures_it_keeps_the_contract(check: Any, small: Emu3) -> None:
    """Pictures are encoded as any image tokenizer encodes them."""
    check(small, (16, 24))


def test_a_clip_is_its_groups_of_four_each_alone(encoder: Any) -> None:
    """Ids of a clip are those of its groups, and its shape that of the spec."""
    views = clips(12)
    ids = encoder.encode(encoder.preprocess(views))["video"]
    stream = Emu3("random:0", SMALL).spec((12, 16, 24))["video"]
    assert ids.shape[1:] == stream.shape == (3, 2, 3)
    assert ids.dtype == stream.storage_dtype == "uint16"
    assert int(ids.max()) < 500
    assert len(np.unique(ids)) > 10
    for group in range(3):
        alone = encoder.encode(encoder.preprocess(views[:, 4 * group : 4 * group + 4]))["video"]
        np.testing.assert_array_equal(alone[:, 0], ids[:, group])
    back = encoder.decode({"video": ids})
    assert back.shape == views.shape
    assert back.dtype == np.uint8


def test_a_picture_is_its_frame_four_times_over(encoder: Any) -> None:
    """As a picture, as a clip of one frame and as four equal frames it has the same ids."""
    views = clips(1)
    image = encoder.encode(encoder.preprocess(views[:, 0]))["image"]
    one = encoder.encode(encoder.preprocess(views))["video"]
    four = encoder.encode(encoder.preprocess(views.repeat(4, axis=1)))["video"]
    np.testing.assert_array_equal(image, one[:, 0])
    np.testing.assert_array_equal(image, four[:, 0])
    assert encoder.decode({"image": image}).shape == (2, 16, 24, 3)


def test_a_long_clip_streams_to_the_same_ids(encoder: Any) -> None:
    """Frames may come in pieces of any length, of two clips in turns."""
    views = clips(16)
    whole = encoder.encode(encoder.preprocess(views))["video"]
    assert isinstance(encoder, StreamingEncoder)
    streams = [encoder.open_stream() for _ in views]
    for start, stop in ((0, 3), (3, 4), (4, 14), (14, 16)):
        for stream, clip in zip(streams, views, strict=True):
            stream.push(clip[start:stop])
    for stream, ids in zip(streams, whole, strict=True):
        np.testing.assert_array_equal(stream.finish()["video"][0], ids)


@pytest.mark.parametrize("frames", [2, 3, 5, 6])
def test_other_lengths_are_refused(encoder: Any, frames: int) -> None:
    """Before any work by the spec, and by encoder and stream."""
    with pytest.raises(JobError, match="4 \\+ 4k frames"):
        Emu3("random:0", SMALL).spec((frames, 16, 24))
    with pytest.raises(ValueError, match="4 \\+ 4k frames"):
        encoder.encode(encoder.preprocess(clips(frames)))
    stream = encoder.open_stream()
    stream.push(clips(frames)[0])
    with pytest.raises(ValueError, match="4 \\+ 4k frames"):
        stream.finish()


def test_the_spec_follows_the_view() -> None:
    """Two axes are a picture, three a clip; what varies stays open."""
    tokenizer = Emu3("random:0")
    assert tokenizer.spec((256, 512))["image"].shape == (32, 64)
    assert tokenizer.spec(None)["image"].shape == (None, None)
    assert tokenizer.spec((None, 64, 64))["video"].shape == (None, 8, 8)
    assert tokenizer.spec((1, 64, 64))["video"].shape == (1, 8, 8)
    assert tokenizer.spec((16, None, None))["video"].vocab_sizes == (32768,)
    with pytest.raises(JobError, match="multiple of 8"):
        tokenizer.spec((250, 256))


def _official_name(key: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
    """Undo transformers' names, by the table of the golden cases."""
    key = key.replace("down_block.down", "down").replace("up_block.up", "up")
    key = key.replace("middle_block", "mid").replace(".attn_norm.", ".attn_1.norm.")
    key = re.sub(r"attn_norms\.(\d+)", r"attn.\1.norm", key)
    linear = re.search(r"\.([qkv])_proj\.weight|out_proj\.weight", key)
    key = re.sub(r"\.([qkv])_proj\.", r".\1.", key).replace("out_proj", "proj_out")
    return key, value[..., None, None] if linear else value


def test_both_names_of_the_keys_load(encoder: Any, tmp_path: Path) -> None:
    """A file of the authors' keys, one of transformers', and a whole Emu3 model give equal ids."""
    state = {k: v.clone().contiguous() for k, v in encoder.network.vqvae.state_dict().items()}
    official = dict(_official_name(key, value) for key, value in state.items())
    assert "encoder.mid.attn_1.norm.weight" in official
    assert "encoder.down.3.attn.1.q.weight" in official
    assert "decoder.up.3.attn.0.norm.norm_layer.weight" in official
    nested = {f"model.vqmodel.{key}": value for key, value in state.items()}
    views = clips(4)
    expected = encoder.encode(encoder.preprocess(views))["video"]
    for number, weights in enumerate((official, state, nested | {"lm_head.weight": other_part(2)})):
        path = tmp_path / f"{number}.safetensors"
        save_file({key: value.contiguous() for key, value in weights.items()}, path)
        other: Any = Emu3(str(path), SMALL).load()
        ids = other.encode(other.preprocess(views))["video"]
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_array_equal(
            other.decode({"video": ids}), encoder.decode({"video": expected})
        )


def other_part(size: int) -> torch.Tensor:
    """Weights of another part of a model."""
    return torch.zeros(size, size)


def test_a_folder_says_its_own_architecture(encoder: Any, tmp_path: Path) -> None:
    """config.json of the authors, with what else it holds, is enough beside the weights."""
    config = {"model_type": "Emu3VisionVQ", "z_channels": 4, "double_z": False, "dropout": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config | SMALL))
    state = {k: v.contiguous() for k, v in encoder.network.vqvae.state_dict().items()}
    kept = {k: v for k, v in state.items() if not k.startswith(("decoder.", "post_quant_conv."))}
    save_file(kept, tmp_path / "model.safetensors")
    tokenizer = Emu3(str(tmp_path))
    assert tokenizer.architecture == Emu3("random:0", SMALL).architecture
    loaded: Any = tokenizer.load()
    ids = loaded.encode(loaded.preprocess(clips(4)))
    np.testing.assert_array_equal(
        ids["video"], encoder.encode(encoder.preprocess(clips(4)))["video"]
    )
    with pytest.raises(JobError, match="no decoder"):
        loaded.decode(ids)


def test_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Unknown keys, other layouts and files of something else."""
    with pytest.raises(JobError, match="base_channels"):
        open_tokenizer("emu3", config={"base_chanels": 32})
    with pytest.raises(JobError, match="four frames"):
        open_tokenizer("emu3", config={"temporal_downsample_factor": 8})
    with pytest.raises(JobError, match="32"):
        open_tokenizer("emu3", config={"ch": 33})
    save_file({"encoder.conv_in.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="missing"):
        Emu3(str(tmp_path / "x.safetensors"), SMALL).load()


def test_describing_it_does_not_import_transformers() -> None:
    """Importing transformers takes seconds; identity and spec do without."""
    code = (
        "import sys; from tokenmill.tokenizers.emu3 import Emu3; t = Emu3('random:0');"
        "t.identity; t.spec((64, 64)); t.resources;"
        "print([m for m in ('transformers', 'torch') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert told.stdout.strip() == "[]"


def test_the_identity_tells_what_changes_ids() -> None:
    """Architecture, weights and dtype count; the two namings of one configuration do not."""
    base = Emu3("random:0", SMALL)
    hf = {"base_channels": 32, "channel_multiplier": [1, 1, 2, 2], "codebook_size": 500}
    assert digest(Emu3("random:0", hf).identity) == digest(base.identity)
    others = [
        Emu3("random:1", SMALL),
        Emu3("random:0", SMALL | {"embed_dim": 8}),
        Emu3("random:0", SMALL, "bfloat16"),
    ]
    assert len({digest(t.identity) for t in (base, *others)}) == 4
    assert pickle.loads(pickle.dumps(base)) == base


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((512, 512), (512, 512)),
        ((640, 480), (640, 480)),
        ((1920, 1080), (1360, 768)),
        ((130, 100), (584, 456)),
        ((40, 8), (1152, 232)),
        ((400, 2000), (400, 2000)),
        ((1020, 1028), (1024, 1024)),
        ((500, 700), (496, 704)),
        ((508, 516), (512, 512)),
        ((2000, 3000), (832, 1248)),
    ],
)
def test_the_authors_sizes(source: tuple[int, int], size: tuple[int, int]) -> None:
    """Sizes that smart_resize of Emu3's image processor gave for these pictures (w, h)."""
    assert smart_size(source, 8, pixels=(512 * 512, 1024 * 1024)) == size


def test_the_default_view_resizes_and_refuses() -> None:
    """The whole picture, bicubic, and a box that says so; what has no place is told why."""
    options = dict(Emu3("random:0").default_view)
    view = open_view(options.pop("kind"), options | {"min_pixels": 64 * 64, "max_pixels": 10_000})
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    [seen] = view.views(Picture(image, {}), "key")
    assert seen.data.shape == (64, 88, 3)
    np.testing.assert_array_equal(seen.data, np.asarray(image.resize((88, 64), 3)))
    assert seen.coordinates["view.box"] == [0.0, 0.0, 90.0, 60.0]
    for size, reason in (((7, 100), Reason.TOO_SMALL), ((20, 120), Reason.NO_BUCKET)):
        with pytest.raises(AssetError) as caught:
            list(view.views(Picture(Image.new("RGB", size), {}), "key"))
        assert caught.value.reason == reason
    with pytest.raises(JobError, match="max_pixels"):
        open_view("smart_resize", {"min_pixels": 100, "max_pixels": 99})
