import importlib.metadata
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.diffusers_vae import DC, DEFAULTS, KL, DiffusersVae
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.tokens import Latent

SMALL_KL = {
    "block_out_channels": [32, 32, 64],
    "down_block_types": 3 * ["DownEncoderBlock2D"],
    "up_block_types": 3 * ["UpDecoderBlock2D"],
    "latent_channels": 5,
    "scaling_factor": 0.5,
    "shift_factor": 0.25,
}
SMALL_DC = {
    "latent_channels": 8,
    "attention_head_dim": 8,
    "encoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
    "decoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
    "encoder_block_out_channels": [8, 16, 16],
    "decoder_block_out_channels": [8, 16, 16],
    "encoder_layers_per_block": [1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1],
    "encoder_qkv_multiscales": [[], [], [5]],
    "decoder_qkv_multiscales": [[], [], [5]],
    "scaling_factor": 0.4,
}
SMALL = {KL: SMALL_KL, DC: SMALL_DC}


def small(name: str = KL, **more: Any) -> DiffusersVae:
    """A small autoencoder of factor 4."""
    return DiffusersVae("random:0", config=SMALL[name], **more)


def views(count: int = 2) -> Any:
    """Noise."""
    return np.random.default_rng(0).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [KL, DC])
def test_our_copy_of_the_defaults_is_that_of_diffusers(name: str) -> None:
    """A spec is told without importing diffusers, so the few values it needs are kept here."""
    official = inspect.signature(getattr(diffusers, name).__init__).parameters
    for key, value in DEFAULTS[name].items():
        default = official[key].default
        assert len(value) == len(default) if isinstance(value, tuple) else value == default


@pytest.mark.parametrize(("name", "channels"), [(KL, 5), (DC, 8)])
def test_a_view_becomes_a_latent_and_a_picture_again(name: str, channels: int) -> None:
    """The class is told from the configuration; spec, arrays and reconstruction agree."""
    tokenizer = small(name)
    assert tokenizer.architecture["_class_name"] == name
    encoder = tokenizer.load()
    tokens = encoder.encode(encoder.preprocess(views()))
    stream = tokenizer.spec((16, 24))["image"]
    assert tokens["image"].shape == (2, *stream.shape) == (2, 4, 6, channels)
    assert tokens["image"].dtype == stream.storage_dtype == "float32"
    assert tokens["image"].std() > 0.01
    assert encoder.decode(tokens).shape == (2, 16, 24, 3)
    encoder.close()


def test_the_latent_is_the_posteriors_mean_and_clamped_log_variance() -> None:
    """As diffusers itself says them, and the picture comes of the mean alone."""
    encoder: Any = small(posterior="mean_logvar").load()
    inputs = encoder.preprocess(views())
    bias = encoder.network.vae.quant_conv.bias
    with torch.no_grad():
        bias[5], bias[6] = 1000.0, -1000.0
        official = encoder.network.vae.encode(inputs).latent_dist
    tokens = encoder.encode(inputs)["image"]
    assert tokens.shape == (2, 4, 6, 10)
    assert np.array_equal(tokens[..., :5], official.mean.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(tokens[..., 5:], official.logvar.permute(0, 2, 3, 1).numpy())
    assert (tokens[..., 5] == 20).all()
    assert (tokens[..., 6] == -30).all()
    picture = encoder.decode({"image": tokens})
    tokens[..., 5:] = 0
    assert np.array_equal(encoder.decode({"image": tokens}), picture)


def test_nothing_is_sampled() -> None:
    """Two runs agree to the bit, whatever the random state."""
    encoder = small().load()
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        runs.append(encoder.encode(encoder.preprocess(views()))["image"])
    assert np.array_equal(runs[0], runs[1])


@pytest.mark.parametrize(
    ("more", "latent"),
    [
        ({}, Latent("mean", (0.5,), (0.25,))),
        ({"shift_factor": None}, Latent("mean", (0.5,), (0.0,))),
        (
            {"latents_mean": [1, 2, 3, 4, 5], "latents_std": [1, 2, 4, 8, 16]},
            Latent("mean", (0.5, 0.25, 0.125, 0.0625, 0.03125), (1.0, 2.0, 3.0, 4.0, 5.0)),
        ),
    ],
)
def test_the_spec_says_scale_and_shift(more: dict[str, Any], latent: Latent) -> None:
    """One for all channels, or one each; the stored values are unscaled."""
    tokenizer = DiffusersVae("random:0", config=SMALL_KL | more)
    assert tokenizer.spec((16, 24))["image"].latent == latent


def test_the_spec_is_open_for_views_of_many_sizes_and_strict_on_the_grid() -> None:
    """A convolutional network takes any multiple of its factor."""
    assert small().spec(None)["image"].shape == (None, None, 5)
    with pytest.raises(JobError, match=r"view\.size: .*multiples of 4, got 18 x 24"):
        small().spec((18, 24))


@pytest.mark.parametrize(("dtype", "stored"), [("float16", "float16"), ("bfloat16", "uint16")])
def test_latents_are_stored_in_the_type_that_the_job_asks(dtype: Any, stored: str) -> None:
    """Half the bytes, the same values within that type's rounding."""
    exact, narrow = small().load(), small(latent_dtype=dtype).load()
    values, kept = (e.encode(e.preprocess(views()))["image"] for e in (exact, narrow))
    assert kept.dtype == stored
    rounded = kept if dtype == "float16" else (kept.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(rounded.astype(np.float32), values, rtol=2**-8, atol=1e-4)
    pictures = [exact.decode({"image": values}), narrow.decode({"image": kept})]
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 8


def test_a_latent_that_overflows_is_an_error_and_not_infinity() -> None:
    """float16 ends at 65504; a store must never hold what a trainer cannot read."""
    encoder: Any = small(latent_dtype="float16").load()
    with torch.no_grad():
        encoder.network.vae.quant_conv.bias[0] = 1e6
    with pytest.raises(ValueError, match="not finite as float16"):
        encoder.encode(encoder.preprocess(views(1)))


def test_slicing_and_tiling_are_off_and_recorded() -> None:
    """They change values at the seams; so does another version of diffusers."""
    network = small().load().network  # type: ignore[attr-defined]
    assert not network.vae.use_slicing
    assert not network.vae.use_tiling
    identity = small().identity
    assert (identity["slicing"], identity["tiling"]) == (False, False)
    assert identity["diffusers"] == importlib.metadata.version("diffusers")


def test_the_identity_changes_with_whatever_changes_a_value() -> None:
    """Weights, architecture, arithmetic and what is stored."""
    described = [
        small(),
        small(DC),
        DiffusersVae("random:1", config=SMALL_KL),
        DiffusersVae("random:0", config=SMALL_KL | {"act_fn": "mish"}),
        small(posterior="mean_logvar"),
        small(latent_dtype="bfloat16"),
        small(dtype="bfloat16"),
    ]
    assert len({digest(tokenizer.identity) for tokenizer in described}) == len(described)


@pytest.mark.parametrize("name", [KL, DC])
def test_a_folder_that_diffusers_saved_loads(name: str, tmp_path: Path) -> None:
    """config.json and safetensors as ``save_pretrained`` writes them, with diffusers' result."""
    vae = getattr(diffusers, name)(**SMALL[name]).eval()
    vae.save_pretrained(tmp_path)
    encoder = open_tokenizer("diffusers_vae", checkpoint=str(tmp_path)).load()
    inputs = encoder.preprocess(views())
    with torch.no_grad():
        encoded = vae.encode(inputs)
    official = encoded.latent_dist.mean if name == KL else encoded.latent
    actual = encoder.encode(inputs)["image"]
    np.testing.assert_allclose(actual, official.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-5)


def test_old_names_of_attention_are_known(tmp_path: Path) -> None:
    """Files from before diffusers 0.18 say query, key, value and proj_attn."""
    whole: Any = small().load()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for key, value in whole.network.vae.state_dict().items():
        for new, name in old.items():
            key = key.replace(f".{new}.", f".{name}.")
        weights[key] = value
    assert "encoder.mid_block.attentions.0.query.weight" in weights
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SMALL_KL | {"_class_name": KL}))
    encoder = DiffusersVae(str(tmp_path)).load()
    tokens, official = (e.encode(e.preprocess(views()))["image"] for e in (encoder, whole))
    assert np.array_equal(tokens, official)


def test_a_checkpoint_without_a_decoder_encodes(tmp_path: Path) -> None:
    """Half the weights are enough to tokenize; decoding says what is missing."""
    whole: Any = small().load()
    state = whole.network.vae.state_dict()
    kept = {k: v for k, v in state.items() if k.startswith(("encoder.", "quant_conv."))}
    save_file(kept, tmp_path / "encoder.safetensors")
    encoder = DiffusersVae(str(tmp_path / "encoder.safetensors"), config=SMALL_KL).load()
    tokens = encoder.encode(encoder.preprocess(views()))
    assert np.array_equal(tokens["image"], whole.encode(whole.preprocess(views()))["image"])
    with pytest.raises(JobError, match="holds no decoder"):
        encoder.decode(tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"tokenizer\.config: is needed"),
        ({"config": {"_class_name": "VQModel"}}, "is 'VQModel'; this wraps AutoencoderKL"),
        ({"config": {"latent_chanels": 4}}, r"latent_chanels: .*did you mean 'latent_channels'"),
        ({"config": SMALL_DC, "posterior": "mean_logvar"}, "AutoencoderDC is deterministic"),
    ],
)
def test_a_wrong_description_says_what_to_mend(options: dict[str, Any], message: str) -> None:
    """Unknown keys are errors, not warnings that scroll by."""
    with pytest.raises(JobError, match=message):
        open_tokenizer("diffusers_vae", checkpoint="random:0", **options).load()


def test_a_folder_without_weights_says_which_files_it_looked_for(tmp_path: Path) -> None:
    """A config.json alone is half a model."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL_KL))
    with pytest.raises(CheckpointError, match=r"has none of diffusion_pytorch_model\.safetensors"):
        DiffusersVae(str(tmp_path)).load()
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="must be a JSON object, got list"):
        DiffusersVae(str(tmp_path)).load()


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is an extra; without it the job is told what to install."""
    monkeypatch.delitem(sys.modules, "tokenmill.tokenizers.networks.diffusers_vae", raising=False)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(JobError, match=r"pip install 'tokenmill\[torch,diffusers\]'"):
        small().load()
