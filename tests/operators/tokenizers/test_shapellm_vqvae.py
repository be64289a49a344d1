import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.checkpoints import fill_random
from tokenmill.tokenizers.networks.sparse_structure import ResidualBlock, Upsample
from tokenmill.tokenizers.shapellm_vqvae import OFFICIAL, ShapeLLMVqvae
from tokenmill.tokenizers.volumes import VolumeEncoder, Volumes
from tokenmill.views.voxels import Voxels
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.strict import build

NARROW: dict[str, Any] = {
    "channels": (4, 6, 8),
    "num_res_blocks": 1,
    "num_res_blocks_middle": 1,
    "resolution": 16,
    "num_embeddings": 200,
}


def narrow(**more: Any) -> ShapeLLMVqvae:
    """A small tokenizer: 16 cells a side, 4 x 4 x 4 latents, 16 ids."""
    return ShapeLLMVqvae(**{"checkpoint": "random:0", "config": NARROW} | more)


def volumes(count: int = 3) -> Volumes:
    """Noise, an empty volume and a full one."""
    cells = np.random.default_rng(0).random((count, 16, 16, 16)) > 0.6
    cells[1 % count], cells[2 % count] = False, True
    return cells


def _state(tokenizer: ShapeLLMVqvae) -> dict[str, torch.Tensor]:
    network = tokenizer.network()
    fill_random(network, "random:0")
    return dict(network.state_dict())


def test_a_volume_becomes_ids_and_a_volume_again() -> None:
    """The spec, the arrays and the reconstruction agree on shapes and types."""
    tokenizer = narrow()
    encoder = tokenizer.load()
    cells = volumes()
    before = cells.copy()
    tokens = encoder.encode(encoder.preprocess(cells))
    stream = tokenizer.spec((16, 16, 16))["shape"]
    assert tokens["shape"].shape == (3, *stream.shape) == (3, 16)
    assert tokens["shape"].dtype == stream.storage_dtype == "uint8"
    assert tokens["shape"].max() < 200
    assert len(np.unique(tokens["shape"][0])) > 3
    assert np.array_equal(cells, before)
    back = encoder.decode(tokens)
    assert back.shape == cells.shape
    assert back.dtype == np.bool_
    assert np.array_equal(encoder.decode({"shape": tokens["shape"][1:2]})[0], back[1])
    encoder.close()


def test_an_id_covers_four_neighbours_along_z() -> None:
    """Id n stands for the latents at x = n // 64, y = n // 4 % 16, z = 4 (n % 4) and on."""
    config = NARROW | {"resolution": 64, "num_embeddings": 3}
    network: Any = ShapeLLMVqvae(checkpoint="random:0", config=config).network()
    latents = torch.zeros(1, 8, 16, 16, 16)
    ramp = torch.arange(1.0, 33.0)  # z first, then channels within
    latents[0, :, 9, 5, 12:16] = ramp.reshape(4, 8).T
    network.latents = lambda _volumes: latents
    codes = torch.stack([torch.full((32,), 50.0), torch.zeros(32), ramp])
    network.vq.embeddings.weight.data.copy_(codes)
    with torch.inference_mode():
        ids = network.tokens(torch.zeros(1, 1, 64, 64, 64))["shape"][0].numpy()
    assert np.array_equal(np.flatnonzero(ids == 2), [64 * 9 + 4 * 5 + 3])
    assert set(np.delete(ids, 64 * 9 + 4 * 5 + 3)) == {1}


def test_a_samples_ids_do_not_depend_on_its_batch() -> None:
    """Any of three is what it is alone and in another order."""
    encoder = narrow().load()
    together = encoder.encode(encoder.preprocess(volumes()))["shape"]
    turned = encoder.encode(encoder.preprocess(volumes()[::-1]))["shape"]
    assert np.array_equal(turned[::-1], together)
    for index, cells in enumerate(volumes()):
        assert np.array_equal(
            encoder.encode(encoder.preprocess(cells[None]))["shape"][0], together[index]
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_reduced_precision_changes_few_ids(dtype: Any) -> None:
    """The torso rounds; its first and last layers and the search stay float32."""
    cells = np.random.default_rng(1).random((8, 16, 16, 16)) > 0.5
    exact, quick = (narrow(dtype=d).load() for d in ("float32", dtype))
    a, b = (e.encode(e.preprocess(cells))["shape"] for e in (exact, quick))
    assert (a == b).mean() > 0.5
    assert isinstance(quick, VolumeEncoder)
    kinds = {key: value.dtype for key, value in quick.network.state_dict().items()}
    half = getattr(torch, dtype)
    assert {kinds[k] for k in kinds if ".conv" in k} == {half}
    assert {kinds[k] for k in kinds if ".conv" not in k} == {torch.float32}
    assert quick.decode({"shape": b}).shape == cells.shape


def test_half_convolutions_on_a_cpu_round_as_the_devices_do() -> None:
    """Products of rounded values, summed in float32, rounded once: near PyTorch's own result."""
    block = ResidualBlock(4)
    fill_random(block, "random:0")
    conv = block.conv1.to(torch.float16)
    x = torch.randn(1, 4, 5, 5, 5, generator=torch.Generator().manual_seed(0)).half()
    own = torch.nn.Conv3d(4, 4, 3, padding=1).half()
    own.load_state_dict(conv.state_dict())
    with torch.inference_mode():
        ours, theirs = conv(x), own(x)
    assert ours.dtype == torch.float16
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)


def test_pixel_shuffle_puts_the_channels_where_they_belong() -> None:
    """Channel c * 8 + 4 a + 2 b + d of a cell becomes channel c of its cell (a, b, d)."""
    layer = Upsample(1, 2)
    torch.nn.init.zeros_(layer.conv.weight)
    assert layer.conv.bias is not None
    with torch.inference_mode():
        layer.conv.bias.copy_(torch.arange(16.0))
        grown = layer(torch.zeros(1, 1, 2, 3, 4))
    assert grown.shape == (1, 2, 4, 6, 8)
    x, y, z = np.indices((4, 6, 8)) % 2
    for channel in (0, 1):
        assert np.array_equal(grown[0, channel].numpy(), channel * 8 + 4 * x + 2 * y + z)


@pytest.mark.parametrize("shape", [(32, 64, 64), (None, 32, None), (64, 64)])
def test_other_volumes_are_refused(shape: Any) -> None:
    """The message names the side."""
    with pytest.raises(JobError, match="takes volumes of 64 cells on each side"):
        ShapeLLMVqvae().spec(shape)


def test_the_spec_does_not_depend_on_what_is_known_of_the_view() -> None:
    """1024 ids of 8192."""
    specs = [ShapeLLMVqvae().spec(s) for s in (None, (64, 64, 64), (None, None, None))]
    assert specs[0] == specs[1] == specs[2]
    (stream,) = specs[0].streams
    assert (stream.shape, stream.vocab_sizes, stream.bits_per_token) == ((1024,), (8192,), 13)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"chanels": [4]}, "did you mean 'channels'"),
        ({"resolution": 24}, "multiple of 16"),
        ({"resolution": 63}, "multiple of 4"),
        ({"channels": []}, "must be positive"),
        ({"num_embeddings": 0}, "num_embeddings must be positive"),
        ({"num_res_blocks": -1}, "must not be negative"),
    ],
)
def test_a_wrong_configuration_is_an_error_at_once(config: dict[str, Any], message: str) -> None:
    """Before any actor is asked to load it."""
    with pytest.raises(JobError, match=message):
        open_tokenizer("shapellm_vqvae", config=config)


def test_whatever_can_change_an_id_is_in_the_identity(tmp_path: Path) -> None:
    """Architecture, weights, dtype; not the file's name."""
    path, copy = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(_state(narrow()), path)
    copy.write_bytes(path.read_bytes())
    others = [
        narrow(),
        narrow(dtype="float16"),
        narrow(checkpoint="random:1"),
        narrow(config=NARROW | {"num_embeddings": 100}),
        narrow(checkpoint=str(path)),
    ]
    identities = [str(other.identity) for other in others]
    assert len(set(identities)) == len(others)
    assert str(narrow(checkpoint=str(copy)).identity) == identities[-1]
    assert ShapeLLMVqvae().weights.checkpoint == OFFICIAL


def test_the_description_crosses_processes_and_needs_no_torch() -> None:
    """Actors get it pickled; planning a job on a head node needs no network."""
    assert pickle.loads(pickle.dumps(narrow())) == narrow()
    assert narrow().takes == ("voxels",)
    assert narrow().can_decode
    assert narrow().resources.batch_size >= 1
    code = (
        "import sys; from tokenmill.tokenizers import open_tokenizer as o;"
        "ts = [o(k, checkpoint='random:0') for k in ('shapellm_vqvae', 'trellis_ss')];"
        "[(t.spec(None), t.identity, t.resources, t.default_view) for t in ts];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_checkpoint_without_decoder_encodes_and_says_so_on_decode(tmp_path: Path) -> None:
    """Encoding needs half of the weights."""
    path = tmp_path / "encoder.bin"
    torch.save({k: v for k, v in _state(narrow()).items() if not k.startswith("Decoder.")}, path)
    encoder = narrow(checkpoint=str(path)).load()
    tokens = encoder.encode(encoder.preprocess(volumes()))
    whole = narrow().load()
    assert np.array_equal(tokens["shape"], whole.encode(whole.preprocess(volumes()))["shape"])
    with pytest.raises(JobError, match="no decoder"):
        encoder.decode(tokens)


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    """Keys of one level too few."""
    path = tmp_path / "other.bin"
    torch.save(_state(narrow(config=NARROW | {"channels": (4, 6)})), path)
    with pytest.raises(CheckpointError, match="keys are missing"):
        narrow(checkpoint=str(path)).load()


def test_the_default_view_is_one_that_fits() -> None:
    """The voxels view takes its options, and gives volumes that the tokenizer takes."""
    options = dict(ShapeLLMVqvae().default_view)
    assert options.pop("kind") == "voxels"
    view = build(Voxels, options, path="view")
    assert (view.gives,) == ShapeLLMVqvae().takes
    assert ShapeLLMVqvae().spec(view.shape) == ShapeLLMVqvae().spec(None)
