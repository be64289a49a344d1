import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenmill.testing.golden import case_weights, check_samples, load_case, picture
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.images import ImageEncoder

Load = Callable[[dict[str, Any], list[Any]], ImageEncoder]

GOLDEN = Path(__file__).parent
#: The published size takes seconds per frame, and so does its decoder.
CASES = [
    pytest.param("emu3/image-96x64", False, id="image"),
    pytest.param("emu3_hf/small_72x96", False, id="small"),
    pytest.param("emu3/image-96x64", True, id="image-decoded", marks=pytest.mark.slow),
    pytest.param("emu3/video-8x64x96", True, id="video-decoded", marks=pytest.mark.slow),
    pytest.param("emu3/hf-image-64x64", False, id="hf-image", marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_case_file_is_tested() -> None:
    """A golden file of this family that is added must be listed here."""
    found = {f"{f}/{p.stem}" for f in ("emu3", "emu3_hf") for p in (GOLDEN / f).glob("*.json")}
    assert found == {case.values[0] for case in CASES}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Return what loads a case's checkpoint; cases of the same keys and gains share an encoder."""
    path = tmp_path_factory.mktemp("emu3") / "model.safetensors"
    known: dict[str, ImageEncoder] = {}

    def load(case: dict[str, Any], more: list[Any]) -> ImageEncoder:
        made_of = json.dumps([*(case[key] for key in ("keys", "gain", "official")), more])
        if made_of not in known:
            known.clear()
            save_file(case_weights(case, more), path)
            config = case["official"]["kwargs"]
            tokenizer = open_tokenizer("emu3", checkpoint=str(path), config=config)
            known[made_of] = cast("ImageEncoder", tokenizer.load())
            path.unlink()
        return known[made_of]

    return load


@pytest.mark.parametrize(("name", "decoded"), CASES)
def test_a_file_of_official_keys_gives_the_official_ids(
    name: str, decoded: bool, encoders: Load
) -> None:
    """The authors' keys and those of transformers load, and ids and pictures are as recorded."""
    case = load_case(GOLDEN / f"{name}.json")
    encoder = encoders(case, case["keys_decode"] if decoded else [])
    given = case["input"]
    x = picture(given["name"], tuple(given["shape"]), low=given["low"], high=given["high"])
    stream = "video" if x.ndim == 5 else "image"
    ids = encoder.encode(torch.from_numpy(_as_input(x)))[stream]
    expected = np.asarray(case["ids"]).reshape(ids.shape)
    assert int((ids != expected).sum()) == 0
    if decoded:
        _check_pictures(encoder, ids, case["decode"])


def _as_input(x: Any) -> Any:
    """One clip ``[1, 3, T, H, W]`` of groups ``[G, 4, 3, H, W]``; pictures with a batch."""
    if x.ndim == 5:
        return np.ascontiguousarray(x.reshape(1, -1, *x.shape[2:]).swapaxes(1, 2))
    return x[None] if x.ndim == 3 else x


def _check_pictures(encoder: ImageEncoder, ids: Any, decode: Mapping[str, Any]) -> None:
    stream = "video" if ids.ndim == 4 else "image"
    with torch.inference_mode():
        given = {stream: torch.from_numpy(ids.astype(np.int64))}
        pictures = encoder.network.clips(given).numpy()
    if stream == "video":
        pictures = pictures.swapaxes(1, 2).reshape(decode["shape"])
    check_samples(pictures, _samples(decode))


def _samples(decode: Mapping[str, Any]) -> dict[str, Any]:
    return {**decode, "flat_indices": decode["flat_index"], "values": decode["value"]}
