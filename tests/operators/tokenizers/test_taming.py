from typing import Any, get_args

import numpy as np
import pytest
import torch

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.taming import VARIANTS, Taming, TamingConfig, Variant
from tokenmill_schemas.errors import JobError

NARROW = {"ch": 32, "num_res_blocks": 1, "ch_mult": (1, 2), "attn_resolutions": (128,)}


def narrow(variant: Variant, **more: Any) -> Taming:
    """A small tokenizer of factor 2."""
    return Taming(variant, checkpoint="random:0", config=NARROW, **more)


def views(count: int = 2, height: int = 8, width: int = 12) -> Any:
    """Noise."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def keys(variant: str) -> dict[str, tuple[int, ...]]:
    """State-dict keys and shapes of an official variant."""
    tokenizer: Any = open_tokenizer("taming", variant=variant)
    with torch.device("meta"):
        network = tokenizer.network()
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def test_every_variant_is_described() -> None:
    """The names in the type and in the table are the same."""
    assert set(get_args(Variant)) == set(VARIANTS)


@pytest.mark.parametrize(
    ("variant", "factor", "vocabulary"),
    [
        ("f16-1024", 16, 1024),
        ("f16-16384", 16, 16384),
        ("gumbel-f8", 8, 8192),
        ("vq-f4", 4, 8192),
        ("vq-f4-noattn", 4, 8192),
        ("vq-f8", 8, 16384),
        ("vq-f8-n256", 8, 256),
        ("vq-f16", 16, 16384),
    ],
)
def test_id_variants_have_the_published_grid_and_vocabulary(
    variant: str, factor: int, vocabulary: int
) -> None:
    """As in the tables of both repositories."""
    stream = open_tokenizer("taming", variant=variant).spec((256, 256))["image"]
    assert stream.shape == (256 // factor, 256 // factor)
    assert stream.vocab_sizes == (vocabulary,)


@pytest.mark.parametrize(
    ("variant", "shape"),
    [
        ("kl-f4", (64, 64, 3)),
        ("kl-f8", (32, 32, 4)),
        ("kl-f16", (16, 16, 16)),
        ("kl-f32", (8, 8, 64)),
        ("mar-kl16", (16, 16, 16)),
        ("vavae-f16d32", (16, 16, 32)),
    ],
)
def test_latent_variants_have_the_published_shape(variant: str, shape: tuple[int, ...]) -> None:
    """Channels last; twice as many with the log-variance."""
    assert open_tokenizer("taming", variant=variant).spec((256, 256))["image"].shape == shape
    both = open_tokenizer("taming", variant=variant, posterior="mean_logvar").spec(None)["image"]
    assert both.channels == 2 * shape[-1]
    assert both.latent is not None
    assert both.latent.parameters == "mean_logvar"


def test_attention_is_where_the_configuration_puts_it() -> None:
    """By the configuration's resolution; in the middle always, unless there is none at all."""
    assert "encoder.down.4.attn.1.q.weight" in keys("kl-f32")
    assert "encoder.down.5.attn.1.q.weight" in keys("kl-f32")
    assert "encoder.down.3.attn.0.q.weight" not in keys("kl-f32")
    assert not any(".down." in key and "attn" in key for key in keys("kl-f8"))
    assert "encoder.mid.attn_1.q.weight" in keys("kl-f8")
    assert not any("attn" in key for key in keys("vq-f4-noattn"))
    assert not any("decoder.up" in key and "attn" in key for key in keys("mar-kl16"))
    assert "decoder.up.4.attn.2.q.weight" in keys("vavae-f16d32")


def test_quantisers_have_the_official_keys() -> None:
    """A Gumbel quantiser has its own names, and a Gaussian none but twice the channels."""
    gumbel = keys("gumbel-f8")
    assert gumbel["quantize.proj.weight"] == (8192, 256, 1, 1)
    assert gumbel["quantize.embed.weight"] == (8192, 256)
    assert keys("vq-f8-n256")["quantize.embedding.weight"] == (256, 4)
    assert keys("kl-f8")["quant_conv.weight"] == (8, 8, 1, 1)
    assert keys("kl-f8")["post_quant_conv.weight"] == (4, 4, 1, 1)


@pytest.mark.parametrize("variant", ["f16-1024", "gumbel-f8", "vq-f4-noattn", "kl-f8"])
def test_a_view_becomes_tokens_and_a_picture_again(variant: Variant) -> None:
    """The spec, the arrays and the reconstruction agree on shapes and types."""
    tokenizer = narrow(variant)
    encoder = tokenizer.load()
    tokens = encoder.encode(encoder.preprocess(views()))
    stream = tokenizer.spec((8, 12))["image"]
    assert tokens["image"].shape == (2, *stream.shape)
    assert tokens["image"].dtype == stream.storage_dtype
    assert encoder.decode(tokens).shape == (2, 8, 12, 3)


def test_gumbel_ids_are_the_largest_logits() -> None:
    """Without the noise of the official code, so that a rerun gives the same store."""
    network = narrow("gumbel-f8").load().network  # type: ignore[attr-defined]  # an ImageEncoder
    images = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
    with torch.inference_mode():
        logits = network.quantize.proj(network.latents(images))
        ids = network.tokens(images)["image"]
    assert torch.equal(ids, logits.argmax(1))


def test_the_mean_is_the_first_half_of_what_is_stored_with_the_log_variance() -> None:
    """And pictures are decoded from it alone."""
    mean, both = (narrow("kl-f8", posterior=p).load() for p in ("mean", "mean_logvar"))
    a, b = (e.encode(e.preprocess(views())) for e in (mean, both))
    assert np.array_equal(a["image"], b["image"][..., :4])
    assert np.array_equal(mean.decode(a), both.decode(b))


@pytest.mark.parametrize("latent_dtype", ["float16", "bfloat16"])
def test_latents_can_be_stored_in_half_the_bytes(latent_dtype: Any) -> None:
    """And still be decoded."""
    full, half = narrow("kl-f8").load(), narrow("kl-f8", latent_dtype=latent_dtype).load()
    a, b = (e.encode(e.preprocess(views())) for e in (full, half))
    assert b["image"].itemsize == 2
    difference = full.decode(a).astype(int) - half.decode(b).astype(int)
    assert np.abs(difference).max() <= 4


def test_the_generators_scale_is_recorded() -> None:
    """The authors' where one was published, or the job's."""
    latent = open_tokenizer("taming", variant="mar-kl16").spec(None)["image"].latent
    assert latent is not None
    assert (latent.scale, latent.shift) == ((0.2325,), (0.0,))
    stats: dict[str, Any] = {"scale": [0.5] * 32, "shift": [0.1] * 32}
    latent = open_tokenizer("taming", variant="vavae-f16d32", **stats).spec(None)["image"].latent
    assert latent is not None
    assert latent.shift == (0.1,) * 32
    with pytest.raises(JobError, match=r"tokenizer\.scale: needs 1 or 32 entries, got 2"):
        open_tokenizer("taming", variant="vavae-f16d32", scale=[1.0, 2.0])


def test_what_is_kept_of_a_gaussian_is_in_its_identity() -> None:
    """But options of Gaussians leave the identity of ids alone."""
    options: tuple[dict[str, Any], ...] = (
        {},
        {"posterior": "mean_logvar"},
        {"latent_dtype": "float16"},
    )
    assert len({str(narrow("kl-f8", **o).identity) for o in options}) == 3
    assert len({str(narrow("vq-f8", **o).identity) for o in options}) == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"in_channels": 1}, "views are RGB"),
        ({"ch": 16}, "multiple of 32"),
        ({"ch_mult": []}, "at least one level"),
        ({"quantizer": "vqq"}, "did you mean 'vq'"),
    ],
)
def test_a_wrong_configuration_is_an_error_at_once(config: dict[str, Any], message: str) -> None:
    """Before any actor is asked to load it."""
    with pytest.raises(JobError, match=message):
        open_tokenizer("taming", config=config)


def test_downsampling_can_go_without_convolutions() -> None:
    """``resamp_with_conv = false`` pools instead, and has no weights for it."""
    tokenizer = Taming("kl-f8", "random:0", NARROW | {"resamp_with_conv": False})
    encoder = tokenizer.load()
    tokens = encoder.encode(encoder.preprocess(views()))
    assert tokens["image"].shape == (2, 4, 6, 4)
    assert encoder.decode(tokens).shape == (2, 8, 12, 3)
    assert not any("sample" in key for key in tokenizer.network().state_dict())


def test_the_factor_follows_the_levels() -> None:
    """One halving less than levels."""
    assert TamingConfig(ch_mult=(1,)).factor == 1
    assert TamingConfig(ch_mult=(1, 2, 4)).factor == 4
