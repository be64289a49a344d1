"""The codebooks that encoders give to stores: the very vectors that their decoders look up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.operators.tokenizers.test_emu3 import SMALL as SMALL_EMU3
from tests.operators.tokenizers.test_larp import tiny as tiny_larp
from tests.operators.tokenizers.test_llamagen import NARROW as NARROW_LLAMAGEN
from tests.operators.tokenizers.test_maskgit_vqgan import NARROW as NARROW_MASKGIT
from tests.operators.tokenizers.test_omnitokenizer import small as small_omni
from tests.operators.tokenizers.test_pointbert import narrow as narrow_pointbert
from tests.operators.tokenizers.test_shapellm_vqvae import narrow as narrow_shapellm
from tests.operators.tokenizers.test_taming import narrow as narrow_taming
from tests.operators.tokenizers.test_titok import tiny as tiny_titok
from tests.operators.tokenizers.test_vidtok import tiny as tiny_vidtok

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import HasCodebook
from tokenmill.tokenizers.cosmos import Cosmos
from tokenmill.tokenizers.emu3 import Emu3
from tokenmill.tokenizers.llamagen import LlamaGen
from tokenmill.tokenizers.maskgit_vqgan import MaskGITVQGAN
from tokenmill.tokenizers.quantize import code_vectors, look_up


def llamagen(**changes: Any) -> LlamaGen:
    """A small LlamaGen."""
    return LlamaGen(checkpoint="random:0", config=NARROW_LLAMAGEN | changes)


Found = Callable[[Any], torch.Tensor]
#: Tokenizer, its streams of ids, and what its decoder looks all ids up in.
VECTORS: dict[str, tuple[Callable[[], Any], tuple[str, ...], Found]] = {
    "llamagen": (llamagen, ("image",), lambda n: looked_up(n.quantize.embedding, l2_norm=True)),
    "llamagen, not on the sphere": (
        lambda: llamagen(codebook_l2_norm=False),
        ("image",),
        lambda n: looked_up(n.quantize.embedding),
    ),
    "taming": (
        lambda: narrow_taming("f16-1024"),
        ("image",),
        lambda n: looked_up(n.quantize.embedding),
    ),
    "taming, gumbel": (
        lambda: narrow_taming("gumbel-f8"),
        ("image",),
        lambda n: looked_up(n.quantize.embed),
    ),
    "maskgit_vqgan": (
        lambda: MaskGITVQGAN(checkpoint="random:0", config=NARROW_MASKGIT),
        ("image",),
        lambda n: looked_up(n.quantize.embedding),
    ),
    "titok": (
        lambda: tiny_titok("S-128"),
        ("image",),
        lambda n: looked_up(n.quantize.embedding, l2_norm=True),
    ),
    "larp": (
        tiny_larp,
        ("video",),
        lambda n: looked_up(n.bottleneck.regularizer.embedding, l2_norm=True),
    ),
    "omnitokenizer": (small_omni, ("video",), lambda n: n.codebook.embeddings),
    "emu3": (
        lambda: Emu3("random:0", SMALL_EMU3),
        ("image", "video"),
        lambda n: looked_up(n.vqvae.quantize.embedding),
    ),
    "shapellm_vqvae": (narrow_shapellm, ("shape",), lambda n: looked_up(n.vq.embeddings)),
    "pointbert": (narrow_pointbert, ("shape",), lambda n: n.codebook),
}


def looked_up(embedding: Any, *, l2_norm: bool = False) -> torch.Tensor:
    """All codes as decoders get them."""
    ids = torch.arange(embedding.num_embeddings)
    return look_up(ids, embedding.weight, l2_norm=l2_norm)


@pytest.mark.parametrize("name", VECTORS)
def test_codes_are_what_the_decoder_looks_up(name: str) -> None:
    """For each stream of ids and no other, in float32; they stay when the encoder is closed."""
    make, streams, found = VECTORS[name]
    encoder: Any = make().load()
    assert issubclass(type(encoder), HasCodebook)
    book = encoder.codebook()
    assert tuple(book) == streams
    wanted = found(encoder.network).detach().numpy().copy()
    encoder.close()
    for codes in book.values():
        assert codes.dtype == np.float32
        np.testing.assert_allclose(codes, wanted, rtol=0, atol=1e-6)
        assert len(np.unique(codes, axis=0)) > len(codes) // 2, "not all the same"


@pytest.mark.parametrize("variant", ["image", "video"])
def test_patches_have_their_features(variant: str) -> None:
    """As many codes as ids, of 40 features; the nearest to a code is itself."""
    tokenizer: Any = open_tokenizer("patch_vq", variant=variant)
    book = tokenizer.load().codebook()
    (stream,) = tokenizer.spec(None).streams
    assert list(book) == [stream.name]
    assert book[stream.name].shape == (*stream.vocab_sizes, 40)


def test_blocks_have_their_cells() -> None:
    """512 cells of 8 x 8 x 8, in the order x, y, z, as decoding one id gives them."""
    encoder: Any = open_tokenizer("voxel_vq").load()
    codes = encoder.codebook()["shape"]
    assert (codes.shape, codes.dtype) == ((4096, 512), np.dtype(np.float32))
    ids = np.array([5, 4095]).reshape(2, 1, 1, 1)
    volumes = encoder.decode({"shape": ids})
    np.testing.assert_array_equal(codes[[5, 4095]], volumes.reshape(2, 512).astype(np.float32))


IMPLICIT: dict[str, Callable[[], Any]] = {
    "cosmos": lambda: Cosmos(
        "DI8x8",
        checkpoint="random:0",
        config={"channels": 32, "num_res_blocks": 1, "channels_mult": (1, 1)},
    ),
    "vidtok": lambda: tiny_vidtok("488-4096"),
    "titok, latents": lambda: tiny_titok("BL-64-vae"),
    "taming, latents": lambda: narrow_taming("kl-f8"),
}


@pytest.mark.parametrize("name", IMPLICIT)
def test_codes_that_follow_from_a_rule_are_not_given(name: str) -> None:
    """FSQ and latents have nothing to keep."""
    assert IMPLICIT[name]().load().codebook() == {}


def test_norms_do_not_depend_on_the_machine() -> None:
    """Unit codes are the float64 ones rounded; a code of zeros stays so."""
    codes = torch.randn(200, 9, generator=torch.Generator().manual_seed(0))
    codes[3] = 0
    found = code_vectors(codes, l2_norm=True)
    wide = codes.double()
    wanted = (wide / wide.norm(dim=1, keepdim=True).clamp_min(1e-12)).float().numpy()
    np.testing.assert_array_equal(found, wanted)
    assert not found[3].any()
    plain = code_vectors(codes.to(torch.bfloat16))
    assert plain.dtype == np.float32
