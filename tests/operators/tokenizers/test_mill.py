from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenmill.testing.tokenizers import (
    CHECKS,
    Size,
    check_description,
    check_identity_in_another_process,
)
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import StreamingEncoder, Tokenizer
from tokenmill.tokenizers.networks.mill_shape import from_depth, to_depth
from tokenmill.views import open_view
from tokenmill_schemas.errors import CheckpointError, JobError

SMALL: dict[str, dict[str, Any]] = {
    "mill_image": {
        "encoder_widths": (8, 12),
        "encoder_depths": (1, 1),
        "decoder_widths": (12, 8),
        "decoder_depths": (1, 1),
    },
    "mill_video": {"fine_width": 8, "width": 12, "encoder_depth": 1, "decoder_depth": 1},
    "mill_shape": {"fine_width": 8, "coarse_width": 12, "decoder_depth": 1},
    "mill_prefix": {
        "side": 32,
        "count": 12,
        "min_prefix": 3,
        "encoder_widths": (8, 8, 12),
        "decoder_widths": (12, 8, 8),
        "groups": 4,
    },
}


def small(kind: str, **more: Any) -> Any:
    """A tokenizer of few channels, with weights drawn from a seed."""
    return open_tokenizer(kind, checkpoint="random:0", config=SMALL[kind], **more)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(*shape: int, seed: int = 0) -> Any:
    """Pixels, smooth enough that neighbours have something in common."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("kind", "size"), [("mill_image", (32, 48)), ("mill_prefix", (32, 32))])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_pictures_keep_the_contract_of_tokenizers(
    kind: str, size: Size, check: Callable[[Tokenizer, Size], None]
) -> None:
    """Every promise, with a network of few channels."""
    check(small(kind), size)


@pytest.mark.parametrize(
    ("kind", "shape"), [("mill_video", (5, 32, 48)), ("mill_shape", (64, 64, 64))]
)
def test_descriptions_of_clips_and_volumes_keep_the_contract(kind: str, shape: Any) -> None:
    """They pickle, and tell the same identity in another process."""
    check_description(small(kind), shape)
    check_identity_in_another_process(small(kind), shape)


@pytest.mark.parametrize(
    ("kind", "shape", "grid"),
    [
        ("mill_image", (256, 256), (32, 32)),
        ("mill_image", None, (None, None)),
        ("mill_video", (17, 256, 128), (5, 32, 16)),
        ("mill_video", (64, 48), (1, 8, 6)),
        ("mill_video", (None, None, None), (None, None, None)),
        ("mill_shape", (64, 64, 64), (8, 8, 8)),
        ("mill_prefix", (256, 256), (128,)),
    ],
)
def test_the_spec_says_what_there_will_be(kind: str, shape: Any, grid: Any) -> None:
    """Of a vocabulary of 64,000, which sixteen bits hold."""
    (stream,) = open_tokenizer(kind, checkpoint="random:0").spec(shape).streams
    assert (stream.shape, stream.vocab_sizes, stream.storage_dtype) == (grid, (64000,), "uint16")


def test_every_beginning_of_16_ids_and_more_decodes_and_the_spec_says_so() -> None:
    """The order is that of a prefix."""
    (stream,) = open_tokenizer("mill_prefix", checkpoint="random:0").spec((256, 256)).streams
    assert (stream.order, stream.min_prefix) == ("prefix", 16)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("mill_image", (256, 264), "multiples of 16, got 256 x 264"),
        ("mill_video", (16, 256, 256), r"view\.frames: mill_video takes clips of 1 \+ 4k"),
        ("mill_video", (17, 256, 264), r"view\.size: .*got 256 x 264"),
        ("mill_shape", (64, 64, 60), r"view\.resolution: .*multiples of 8, got 64 x 64 x 60"),
        ("mill_prefix", (128, 128), r"view\.size: mill_prefix takes views of 256 x 256"),
        ("mill_prefix", None, "got views of several sizes"),
    ],
)
def test_views_that_do_not_fit_are_an_error_of_the_job(kind: str, shape: Any, message: str) -> None:
    """It says what was got and what is taken."""
    with pytest.raises(JobError, match=message):
        open_tokenizer(kind, checkpoint="random:0").spec(shape)


@pytest.mark.parametrize(
    ("kind", "key"),
    [("mill_image", "width"), ("mill_video", "depth"), ("mill_shape", "x"), ("mill_prefix", "n")],
)
def test_an_unknown_key_of_the_architecture_is_an_error_at_once(kind: str, key: str) -> None:
    """Not when an actor loads."""
    with pytest.raises(JobError, match=rf"tokenizer\.config.*{key}"):
        open_tokenizer(kind, config={key: 1})


def test_a_variant_that_is_not_there_is_an_error_at_once() -> None:
    """It names one that is."""
    with pytest.raises(JobError, match="f16"):
        open_tokenizer("mill_image", variant="f32")


@pytest.mark.parametrize("kind", SMALL)
def test_the_default_view_is_one_that_the_tokenizer_takes(kind: str) -> None:
    """Its kind, and its shape."""
    tokenizer = open_tokenizer(kind, checkpoint="random:0")
    options = dict(tokenizer.default_view)
    view = open_view(options.pop("kind"), options)
    assert view.gives in tokenizer.takes
    assert tokenizer.spec(view.shape).streams[0].is_fixed


def test_a_stream_of_frames_gives_the_ids_of_the_whole_clip() -> None:
    """However many frames come at a time."""
    encoder = small("mill_video").load()
    assert isinstance(encoder, StreamingEncoder)
    clips = noise(2, 13, 32, 48, 3)
    whole = encoder.encode(encoder.preprocess(clips))["video"]
    assert whole.shape == (2, 4, 4, 6)
    for count in (1, 3, 13):
        stream = encoder.open_stream()
        for start in range(0, 13, count):
            stream.push(clips[1, start : start + count])
        assert np.array_equal(stream.finish()["video"], whole[1:])


def test_ids_of_a_group_do_not_depend_on_what_comes_later() -> None:
    """Time is causal: a clip's beginning has the ids of the clip that ends there."""
    encoder = small("mill_video").load()
    clips = noise(1, 13, 32, 32, 3)
    whole = encoder.encode(encoder.preprocess(clips))["video"]
    for frames in (1, 5, 9):
        part = encoder.encode(encoder.preprocess(clips[:, :frames]))["video"]
        assert np.array_equal(part, whole[:, : part.shape[1]])
        back = encoder.decode({"video": part})
        assert np.array_equal(back, encoder.decode({"video": whole})[:, :frames])


def test_a_stream_of_another_length_is_refused_at_its_end() -> None:
    """Twelve frames are not 1 + 4k."""
    stream = small("mill_video").load().open_stream()
    stream.push(noise(12, 32, 32, 3))
    with pytest.raises(ValueError, match=r"1 \+ 4k"):
        stream.finish()


def test_the_first_frame_has_the_ids_of_the_picture_tokenizer(tmp_path: Path) -> None:
    """With the same weights: so has an image, and so do their reconstructions."""
    video = open_tokenizer("mill_video", checkpoint="random:0")
    network: Any = video.network()  # type: ignore[attr-defined]  # beside the protocol
    video.weights.load_into(network)  # type: ignore[attr-defined]
    file = tmp_path / "picture.safetensors"
    save_file(network.picture.state_dict(), file)
    encoder, pictures = video.load(), open_tokenizer("mill_image", checkpoint=str(file)).load()
    frames = noise(1, 5, 64, 48, 3)
    ids = encoder.encode(encoder.preprocess(frames))["video"]
    alone = encoder.encode(encoder.preprocess(frames[:, 0]))["video"]
    image = pictures.encode(pictures.preprocess(frames[:, 0]))["image"]
    assert np.array_equal(ids[:, 0], image)
    assert np.array_equal(alone[:, 0], image)
    back = encoder.decode({"video": ids})
    assert back.shape == frames.shape
    assert np.array_equal(back[:, 0], pictures.decode({"image": image}))


def test_every_prefix_decodes_to_a_picture_of_its_own() -> None:
    """Later ids change the picture; earlier ids alone are enough."""
    encoder = small("mill_prefix").load()
    tokens = encoder.encode(encoder.preprocess(noise(2, 32, 32, 3)))["image"]
    made = [encoder.decode({"image": tokens[:, :count]}) for count in (3, 6, 12)]
    assert all(picture.shape == (2, 32, 32, 3) for picture in made)
    assert not np.array_equal(made[0], made[2])


def test_a_prefix_alone_is_the_same_as_one_among_masked_ids() -> None:
    """What learning hides is what decoding leaves out."""
    tokenizer = small("mill_prefix")
    network = tokenizer.network()
    tokenizer.weights.load_into(network)
    codes = network.quantizer.codes(torch.arange(24).reshape(2, 12))
    with torch.inference_mode():
        hidden = network.pictures(codes, torch.tensor([5, 5]))
        left_out = network.pictures(codes[:, :5])
    assert torch.allclose(hidden, left_out, atol=1e-4)


def test_volumes_come_back_as_volumes() -> None:
    """Of booleans, with ids that do not depend on the batch."""
    tokenizer = small("mill_shape")
    encoder = tokenizer.load()
    volumes = np.random.default_rng(0).random((3, 32, 32, 64)) < 0.4
    ids = encoder.encode(encoder.preprocess(volumes))["shape"]
    assert ids.shape == (3, 4, 4, 8)
    alone = encoder.encode(encoder.preprocess(volumes[1:2]))["shape"]
    assert np.array_equal(alone, ids[1:2])
    back = encoder.decode({"shape": ids})
    assert (back.dtype, back.shape) == (np.bool_, volumes.shape)


def test_cells_go_to_channels_and_back() -> None:
    """Nothing is lost, and a block's cells stay together."""
    volumes = torch.arange(2 * 4 * 8 * 12).reshape(2, 1, 4, 8, 12).float()
    deep = to_depth(volumes, 4)
    assert deep.shape == (2, 64, 1, 2, 3)
    assert torch.equal(deep[0, :, 0, 1, 2], volumes[0, 0, :, 4:, 8:].flatten())
    assert torch.equal(from_depth(deep, 4), volumes)


@pytest.mark.parametrize("kind", SMALL)
def test_ids_are_made_of_the_levels_that_the_encoder_names(kind: str) -> None:
    """What a neighbour of an id is follows from that."""
    encoder: Any = small(kind).load()
    (levels,) = encoder.fsq_levels().values()
    assert np.prod(levels) == 64000


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    """With the keys that are missing."""
    file = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    for kind in SMALL:
        with pytest.raises(CheckpointError, match=r"other\.safetensors"):
            open_tokenizer(kind, checkpoint=str(file)).load()
