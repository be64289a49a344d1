from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.checkpoints import fill_random
from tokenmill.tokenizers.maskgit_vqgan import MaskGITVQGAN
from tokenmill_schemas.errors import JobError

NARROW = {"hidden_channels": 32, "channel_mult": (1, 2, 2), "num_res_blocks": 1, "z_channels": 8}


def views(count: int = 2, height: int = 16, width: int = 8) -> Any:
    """Noise."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_a_view_becomes_a_grid_of_ids_and_a_picture_again() -> None:
    """The spec, the arrays and the reconstruction agree on shapes and types."""
    tokenizer = MaskGITVQGAN(checkpoint="random:0", config=NARROW)
    encoder = tokenizer.load()
    tokens = encoder.encode(encoder.preprocess(views()))
    stream = tokenizer.spec((16, 8))["image"]
    assert tokens["image"].shape == (2, *stream.shape) == (2, 4, 2)
    assert tokens["image"].dtype == stream.storage_dtype
    assert encoder.decode(tokens).shape == (2, 16, 8, 3)


def test_the_published_one_has_256_ids_of_1024_for_a_view_of_256() -> None:
    """As RAR reads them, from the crop that RAR made."""
    tokenizer = open_tokenizer("maskgit_vqgan")
    stream = tokenizer.spec((256, 256))["image"]
    assert (stream.positions, stream.vocab_sizes) == (256, (1024,))
    assert tokenizer.default_view == {"kind": "center_crop", "rule": "adm", "size": 256}


def test_a_checkpoint_without_decoder_encodes_and_says_so_on_decode(tmp_path: Path) -> None:
    """Encoding needs half of the weights."""
    network = MaskGITVQGAN(config=NARROW).network()
    fill_random(network, "random:0")
    path = tmp_path / "encoder.bin"
    state = network.state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("decoder.")}, path)
    encoder = MaskGITVQGAN(checkpoint=str(path), config=NARROW).load()
    tokens = encoder.encode(encoder.preprocess(views()))
    with pytest.raises(JobError, match="no decoder"):
        encoder.decode(tokens)


def test_a_missing_checkpoint_name_says_what_to_write() -> None:
    """There is no default to download."""
    with pytest.raises(JobError, match="name a checkpoint"):
        _ = open_tokenizer("maskgit_vqgan").identity


@pytest.mark.parametrize("config", [{"hidden_channels": 33}, {"channel_mult": []}, {"ch": 32}])
def test_a_wrong_configuration_is_an_error_at_once(config: dict[str, Any]) -> None:
    """Before any actor is asked to load it."""
    with pytest.raises(JobError, match=r"tokenizer\.config"):
        open_tokenizer("maskgit_vqgan", config=config)
