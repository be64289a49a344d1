from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tokenmill.tokenizers.describe import HALF, SIGNED, UNIT, Dtype, Normalisation, grid
from tokenmill.tokenizers.images import ImageEncoder, from_host, to_host
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

SPEC = TokenSpec((Stream("image", "float", (Axis("h"), Axis("w")), channels=3, dtype="float32"),))


class Copy(nn.Module):
    """Tokens are the pixels."""

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """Channels last."""
        return {"image": images.permute(0, 2, 3, 1)}

    def images(self, tokens: dict[str, Tensor]) -> Tensor:
        """Channels first."""
        return tokens["image"].permute(0, 3, 1, 2)


@pytest.fixture
def pixels() -> Any:
    """Every uint8 value in every channel."""
    return np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.mark.parametrize("rule", [HALF, SIGNED, UNIT, IMAGENET])
def test_pixels_survive_normalisation_and_back(rule: Normalisation, pixels: Any) -> None:
    """Decoding inverts what preprocessing did, for every value."""
    encoder = ImageEncoder(Copy(), SPEC, normalisation=rule)
    tokens = encoder.encode(encoder.preprocess(pixels))
    assert tokens["image"].dtype == np.float32
    assert np.array_equal(encoder.decode(tokens), pixels)


def test_normalisation_is_that_of_the_authors_to_the_bit(pixels: Any) -> None:
    """The two rules differ in the last bit for some values, so each must be its own."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    to_tensor = x.to(torch.float32).div(255)
    half = (to_tensor - torch.tensor(0.5)) / torch.tensor(0.5)
    signed = torch.from_numpy((pixels / 127.5 - 1.0).astype(np.float32)).permute(0, 3, 1, 2)
    mean, std = (
        torch.tensor(IMAGENET.mean)[:, None, None],
        torch.tensor(IMAGENET.std)[:, None, None],
    )
    expected = {HALF: half, SIGNED: signed, UNIT: to_tensor, IMAGENET: (to_tensor - mean) / std}
    for rule, inputs in expected.items():
        got = ImageEncoder(Copy(), SPEC, normalisation=rule).preprocess(pixels)
        assert torch.equal(got, inputs), rule
    assert not torch.equal(half, signed)


def test_normalisations_have_different_identities() -> None:
    """Another rule is another fingerprint."""
    rules = [HALF, SIGNED, UNIT, IMAGENET]
    assert len({str(rule.identity) for rule in rules}) == len(rules)


def test_decoded_values_beyond_the_range_are_clamped() -> None:
    """No wrapping round of bright pixels."""
    tokens = {"image": np.array([[[[-3.0, 0.0, 3.0]]]], dtype=np.float32)}
    assert ImageEncoder(Copy(), SPEC).decode(tokens).tolist() == [[[[0, 128, 255]]]]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_float_streams_are_stored_in_their_type(dtype: Dtype) -> None:
    """bfloat16 as its bits, which give the same values back."""
    stream = Stream("image", "float", (Axis("n"),), channels=2, dtype=dtype)
    value = torch.tensor([[[1.5, -0.125]]])
    stored = to_host(value, stream)
    assert stored.dtype == stream.storage_dtype
    assert torch.equal(from_host(stored, stream), value)


def test_ids_are_stored_in_the_narrowest_type() -> None:
    """And come back as what an embedding takes."""
    stream = Stream("image", "index", (Axis("n"),), vocab_sizes=(70000,))
    stored = to_host(torch.tensor([[69999]]), stream)
    assert stored.dtype == np.uint32
    assert from_host(stored, stream).tolist() == [[69999]]


def test_a_grid_takes_multiples_of_its_factor_only() -> None:
    """Anything else would lose an edge without a word."""
    assert [axis.size for axis in grid((32, 48), 16, kind="k")] == [2, 3]
    assert [axis.size for axis in grid(None, 16, kind="k")] == [None, None]
    for size in [(32, 40), (0, 16)]:
        with pytest.raises(JobError, match="multiples of 16"):
            grid(size, 16, kind="k")


def test_a_network_must_be_a_torch_module() -> None:
    """Said at once, not at the first batch."""
    with pytest.raises(TypeError, match="object"):
        ImageEncoder(object(), SPEC)  # type: ignore[arg-type]  # the mistake under test
