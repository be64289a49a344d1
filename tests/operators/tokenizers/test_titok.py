import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.networks.titok import PatchesToPixels, TiTokEncoder
from tokenmill.tokenizers.networks.titok_config import VARIANTS, TiTokConfig
from tokenmill.tokenizers.titok import TiTok
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.tokens import Latent

#: Four patches and 6 tokens, and the least depth that there is.
TINY = {
    "image_size": 32,
    "num_latent_tokens": 6,
    "vit_enc_model_size": "small",
    "vit_dec_model_size": "small",
}
#: Parameters that encoding needs, in millions, as computed from the official classes.
ENCODING_MILLIONS = {
    "S-128": 25.9,
    "B-64": 86.0,
    "L-32": 303.5,
    "SL-256-vq8k": 26.6,
    "BL-64-vq8k": 86.5,
    "BL-128-vq8k": 86.6,
    "One-D-Piece-S-256": 26.1,
    "One-D-Piece-B-256": 86.3,
    "One-D-Piece-L-256": 304.0,
}


def tiny(variant: str, **more: Any) -> TiTok:
    """A small tokenizer of a family."""
    return TiTok(variant, "random:0", config=TINY, **more)


def views(count: int = 2, side: int = 32) -> Any:
    """Noise."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_d_piece() -> Any:
    """A small One-D-Piece, with the pixel decoder of the legacy family."""
    return tiny("One-D-Piece-S-256").load()


@pytest.fixture(scope="module")
def captioned() -> Any:
    """A small TA-TiTok that stores mean and log-variance."""
    return tiny("TA-SL-128-vae", posterior="mean_logvar").load()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_the_official_modules_and_sizes(name: str) -> None:
    """Each network can be built, ends in what its family ends in, and has the known size."""
    tokenizer = TiTok(name, "random:0")
    config = tokenizer.architecture
    with torch.device("meta"):
        network = tokenizer.network()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    legacy, vae, text = (
        name in ENCODING_MILLIONS and "vq8k" not in name,
        "vae" in name,
        "TA" in name,
    )
    assert ("pixel_decoder.conv_out.weight" in shapes) == legacy
    assert ("quantize.embedding.weight" in shapes) == (not vae)
    assert ("decoder.text_guidance_positional_embedding" in shapes) == text
    assert shapes["encoder.conv_out.weight"][0] == config.token_size * (2 if vae else 1)
    assert shapes["decoder.ffn.0.weight"][0] == (
        2 * shapes["decoder.class_embedding"][1] if legacy else 3 * 16 * 16
    )
    if name in ENCODING_MILLIONS:
        encode = ("encoder.", "quantize.", "latent_tokens")
        count = sum(v.numel() for k, v in network.state_dict().items() if k.startswith(encode))
        assert count / 1e6 == pytest.approx(ENCODING_MILLIONS[name], abs=0.06)


@pytest.mark.parametrize(
    ("name", "kind", "channels", "order"),
    [
        ("L-32", "index", 0, "unordered"),
        ("BL-128-vq8k", "index", 0, "unordered"),
        ("LL-32-vae", "float", 16, "unordered"),
        ("One-D-Piece-B-256", "index", 0, "prefix"),
    ],
)
def test_the_spec_says_how_many_tokens_of_what_kind(
    name: str, kind: str, channels: int, order: str
) -> None:
    """One stream on one axis; only One-D-Piece's prefixes decode."""
    stream = TiTok(name, "random:0").spec((256, 256))["image"]
    assert (stream.kind, stream.channels, stream.order) == (kind, channels, order)
    assert stream.positions == VARIANTS[name].tokens
    assert stream.vocab_sizes == {"L-32": (4096,), "BL-128-vq8k": (8192,), "LL-32-vae": ()}.get(
        name, (4096,)
    )
    assert stream.min_prefix == (1 if order == "prefix" else 0)
    assert stream.latent == (Latent("mean") if kind == "float" else None)


@pytest.mark.parametrize("size", [(256, 320), (512, 512), None])
def test_only_the_trained_size_is_taken(size: tuple[int, int] | None) -> None:
    """Position embeddings are for one size; any other is a mistake in the job."""
    with pytest.raises(JobError, match=r"view\.size: titok takes views of 256 x 256"):
        TiTok("S-128", "random:0").spec(size)


def test_the_default_view_is_the_authors_preprocessing() -> None:
    """Bicubic for TiTok, bilinear in One-D-Piece's inference script."""
    rules = [
        TiTok(name, "random:0").default_view["rule"] for name in ("S-128", "One-D-Piece-S-256")
    ]
    assert rules == ["bicubic", "bilinear"]


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("titok_s128", "S-128"),
        ("titok_bl64_vae_c16", "BL-64-vae"),
        ("titok_sl256_vq8k", "SL-256-vq8k"),
        ("tatitok_bl32_vq", "TA-BL-32-vq"),
        ("one-d-piece_l256", "One-D-Piece-L-256"),
    ],
)
def test_the_official_file_names_name_variants_too(official: str, ours: str) -> None:
    """Whatever it is called, the architecture and so the identity is one."""
    found = [TiTok(name, "random:0") for name in (official, ours)]
    assert found[0].identity == found[1].identity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "S-127"}, "tokenizer.variant: is 'S-127'; did you mean 'S-128'"),
        ({}, "tokenizer.variant: name one of S-128"),
        ({"variant": "S-128", "config": {"use_l2": True}}, "did you mean 'use_l2_norm'"),
        ({"variant": "BL-64-vae", "config": {"finetune_decoder": True}}, "needs is_legacy"),
        ({"variant": "S-128", "config": {"image_size": 250}}, "does not divide image_size 250"),
        ({"variant": "S-128", "config": {"model": {}}}, "lacks 'vq_model'"),
    ],
)
def test_a_wrong_description_is_an_error_at_once(options: dict[str, Any], message: str) -> None:
    """Before anything is loaded, and with the key at fault."""
    with pytest.raises(JobError, match=message):
        open_tokenizer("titok", checkpoint="random:0", **options)


def test_ids_have_no_posterior_to_store() -> None:
    """An option that a variant cannot heed is not ignored."""
    with pytest.raises(JobError, match=r"tokenizer\.posterior"):
        TiTok("S-128", "random:0", posterior="mean_logvar").spec((256, 256))


def test_a_description_is_small_picklable_and_needs_no_torch() -> None:
    """It crosses processes, and listing or planning must not import a framework."""
    tokenizer = TiTok("L-32", "random:0")
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer
    code = (
        "import sys; from tokenmill.tokenizers import open_tokenizer as o; "
        "o('titok', variant='L-32', checkpoint='random:0').spec((256, 256)); "
        "o('diffusers_vae', checkpoint='random:0', config={'latent_channels': 8}).spec(None); "
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_identity_changes_with_whatever_changes_a_token() -> None:
    """Weights, architecture, arithmetic and what is stored."""
    described = [
        tiny("BL-64-vae"),
        TiTok("BL-64-vae", "random:1", config=TINY),
        tiny("BL-64-vae", dtype="bfloat16"),
        tiny("BL-64-vae", posterior="mean_logvar"),
        tiny("BL-64-vae", latent_dtype="float16"),
        tiny("TA-BL-64-vae"),
    ]
    assert len({digest(tokenizer.identity) for tokenizer in described}) == len(described)


def test_a_view_becomes_ids_and_any_prefix_a_picture(one_d_piece: Any) -> None:
    """One-D-Piece decodes from 1 token to all of them, and more tokens change the picture."""
    tokens = one_d_piece.encode(one_d_piece.preprocess(views()))["image"]
    assert tokens.shape == (2, 6)
    assert tokens.dtype == np.uint16
    pictures = [one_d_piece.decode({"image": tokens[:, :count]}) for count in (1, 5, 6)]
    assert {picture.shape for picture in pictures} == {(2, 32, 32, 3)}
    assert not np.array_equal(pictures[0], pictures[2])
    for count in (0, 7):
        given = {"image": np.zeros((1, count), np.uint16)}
        with pytest.raises(JobError, match=f"decodes 1 to 6 tokens, got {count}$"):
            one_d_piece.decode(given)


def test_the_encoder_reads_values_from_0_to_1(one_d_piece: Any) -> None:
    """TiTok's input is the plain ToTensor of a picture."""
    levels = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    inputs = one_d_piece.preprocess(np.broadcast_to(levels, (1, 32, 32, 3)))
    assert np.array_equal(inputs[0, :, 5, 7].numpy(), np.array([0, 51, 255], np.float32) / 255)


def test_a_bag_of_tokens_decodes_only_whole() -> None:
    """Without tail drop in training a prefix means nothing; and stage 1 ends in logits."""
    stage_1 = TiTok("S-128", "random:0", config=TINY | {"finetune_decoder": False})
    assert not stage_1.can_decode
    with pytest.raises(JobError, match="holds no decoder"):
        stage_1.load().decode({"image": np.zeros((1, 6), np.uint16)})
    whole = tiny("BL-64-vq8k").load()
    assert whole.decode({"image": np.zeros((1, 6), np.uint16)}).shape == (1, 32, 32, 3)
    with pytest.raises(JobError, match="decodes whole sequences of 6 tokens, got 5"):
        whole.decode({"image": np.zeros((1, 5), np.uint16)})


def test_a_caption_is_read_by_the_decoder_alone(captioned: Any) -> None:
    """TA-TiTok encodes without text, decodes only with it, and heeds it."""
    assert not tiny("TA-SL-128-vae").can_decode
    tokens = captioned.encode(captioned.preprocess(views()))["image"]
    assert tokens.shape == (2, 6, 32)
    with pytest.raises(JobError, match=r"tokens\['text'\], float32\[B, 77, 768\]"):
        captioned.decode({"image": tokens})
    texts = [np.full((2, 77, 768), value, np.float32) for value in (0, 1)]
    pictures = [captioned.decode({"image": tokens, "text": text}) for text in texts]
    assert pictures[0].shape == (2, 32, 32, 3)
    assert not np.array_equal(*pictures)
    # The log-variance is of no part in the picture.
    louder = tokens.copy()
    louder[..., 16:] += 5
    again = captioned.decode({"image": louder, "text": texts[0]})
    assert np.array_equal(again, pictures[0])


def test_the_log_variance_is_clamped(captioned: Any) -> None:
    """To [-30, 20], as the official posterior does; the mean is not."""
    bias = captioned.network.encoder.conv_out.bias
    kept = bias.clone()
    with torch.no_grad():
        bias[0], bias[16], bias[17] = 1000.0, 1000.0, -1000.0
    tokens = captioned.encode(captioned.preprocess(views(1)))["image"]
    with torch.no_grad():
        bias.copy_(kept)
    assert (tokens[0, :, 0] > 900).all()
    assert (tokens[0, :, 16] == 20).all()
    assert (tokens[0, :, 17] == -30).all()


def test_bfloat16_latents_are_stored_as_their_bits() -> None:
    """A store keeps them in 16 bits, within rounding of the float32 ones."""
    exact, stored = (
        tiny("LL-32-vae", latent_dtype=dtype).load() for dtype in ("float32", "bfloat16")
    )
    values, bits = (e.encode(e.preprocess(views(1)))["image"] for e in (exact, stored))
    assert bits.dtype == np.uint16
    widened = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(widened, values, rtol=2**-8)
    pictures = [exact.decode({"image": values}), stored.decode({"image": bits})]
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 8


def _official(variant: str) -> dict[str, Any]:
    """The tree that is beside the weights on the hub, with what training alone reads."""
    config = TiTok(variant, "random:0", config=TINY).architecture
    named = ("num_latent_tokens", "token_size", "quantize_mode", "is_legacy", "finetune_decoder")
    sizes = ("vit_enc_model_size", "vit_dec_model_size")
    model = {name: getattr(config, name) for name in (*named, *sizes)} | {"commitment_cost": 0.25}
    preprocessing = {"crop_size": config.image_size, "random_flip": False}
    return {
        "experiment": {"name": variant},
        "model": {"vq_model": model, "reconstruction_regularization": {"name": "kl"}},
        "dataset": {"preprocessing": preprocessing},
    }


def _write_folder(folder: Path, variant: str, network: nn.Module) -> None:
    (folder / "config.json").write_text(json.dumps(_official(variant)))
    save_file(network.state_dict(), folder / "model.safetensors")


def test_a_folder_of_the_hub_needs_no_variant(tmp_path: Path) -> None:
    """Its config.json says the architecture; a variant that is named must be the same one."""
    random = tiny("LL-32-vae").load()
    _write_folder(tmp_path, "LL-32-vae", random.network)  # type: ignore[attr-defined]
    tokenizer = open_tokenizer("titok", checkpoint=str(tmp_path))
    encoder = tokenizer.load()
    for live in (encoder, random):
        live.tokens = live.encode(live.preprocess(views(1)))["image"]  # type: ignore[attr-defined]
    assert np.array_equal(encoder.tokens, random.tokens)  # type: ignore[attr-defined]
    assert tokenizer.identity["architecture"] == tiny("LL-32-vae").identity["architecture"]
    with pytest.raises(CheckpointError, match=r"not of variant BL-64-vq8k: .*token_size = 16"):
        TiTok("BL-64-vq8k", str(tmp_path)).load()


def test_a_ta_titok_folder_must_be_named(tmp_path: Path, captioned: Any) -> None:
    """Nothing in its config.json says that the decoder reads text, but its keys do."""
    _write_folder(tmp_path, "TA-SL-128-vae", captioned.network)
    with pytest.raises(CheckpointError, match="decoder reads a caption; name its variant"):
        TiTok(checkpoint=str(tmp_path)).load()


def test_a_checkpoint_without_a_decoder_encodes(tmp_path: Path, one_d_piece: Any) -> None:
    """Half the weights are enough to tokenize; decoding says what is missing."""
    path = tmp_path / "encoder.bin"
    prefixes = ("encoder.", "quantize.", "latent_tokens")
    state = one_d_piece.network.state_dict()
    torch.save({k: v for k, v in state.items() if k.startswith(prefixes)}, path)
    encoder = TiTok("One-D-Piece-S-256", str(path), config=TINY).load()
    tokens, whole = (e.encode(e.preprocess(views())) for e in (encoder, one_d_piece))
    assert np.array_equal(tokens["image"], whole["image"])
    with pytest.raises(JobError, match="holds no decoder"):
        encoder.decode(tokens)


def test_a_checkpoint_of_another_variant_is_refused(tmp_path: Path, one_d_piece: Any) -> None:
    """Shapes differ, and the error says which."""
    path = tmp_path / "other.safetensors"
    save_file(one_d_piece.network.state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r"latent_tokens must be \(128, 512\), got \(6, 512\)"
    ):
        TiTok("S-128", str(path)).load()


@pytest.mark.parametrize("legacy", [True, False])
def test_latents_become_channels_as_trained(legacy: bool) -> None:
    """The legacy networks read memory without a transpose; the later ones transpose."""
    config = TiTokConfig(4, 3, codebook_size=5, is_legacy=legacy, finetune_decoder=False)
    with torch.device("meta"):
        encoder = TiTokEncoder(config)
    latents = torch.arange(2 * 4 * 8).reshape(2, 4, 8)
    channels = encoder._as_channels(latents)
    assert channels.shape == (2, 8, 4, 1)
    expected = latents.reshape(2, 8, 4) if legacy else latents.transpose(1, 2)
    assert torch.equal(channels.squeeze(-1), expected)


def test_a_patch_is_rows_then_columns_then_colours() -> None:
    """Channel (y * p + x) * 3 + c of a position is colour c of that pixel of its patch."""
    p, rows, columns = 4, 2, 3
    x = torch.arange(p * p * 3 * rows * columns).reshape(1, -1, rows, columns)
    pixels = PatchesToPixels(p)(x)
    assert pixels.shape == (1, 3, rows * p, columns * p)
    for c, y, z in ((0, 0, 0), (2, 5, 11), (1, 7, 6)):
        assert pixels[0, c, y, z] == x[0, (y % p * p + z % p) * 3 + c, y // p, z // p]
