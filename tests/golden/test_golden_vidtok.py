import base64
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenmill.testing.golden import case_weights, input_of, load_case
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.clips import ClipEncoder
from tokenmill.tokenizers.filling import normals
from tokenmill.tokenizers.networks.vidtok import Decoder, VidTokNetwork, fsq_codes, fsq_ids
from tokenmill.tokenizers.vidtok import VidTok
from tokenmill_schemas.errors import JobError

GOLDEN = Path(__file__).parent / "vidtok"
#: Case, variant, and the form in which its official checkpoint is written.
CASES = [
    ("v1_0-488-262144-17x64x64", "488-262144", ".ckpt"),
    ("v1_1-488-32768-17x64x64", "v1.1-488-32768", ".safetensors"),
    ("v1_1-488-32768-33x64x64", "v1.1-488-32768", ".ckpt"),
]
#: Cases of the official classes at a small width, and their variants.
SMALL = {
    "small-41616-262144": "41616-262144",
    "small-noncausal-488-262144": "noncausal-488-262144",
    "small-v1_1-888-32768": "v1.1-888-32768",
    "small-v1_1-41616-262144": "v1.1-41616-262144",
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_case_file_is_tested() -> None:
    """A golden file of this family that is added must be listed here."""
    listed = {name for name, *_ in CASES} | set(SMALL) | {"fsq"}
    assert {path.stem for path in GOLDEN.glob("*.json")} == listed


@pytest.mark.parametrize(
    ("name", "variant", "suffix"),
    # Full width takes ten seconds a case; the small cases hold the same classes every time.
    [pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
    ids=[c[0] for c in CASES],
)
def test_an_official_checkpoint_gives_the_official_ids(
    name: str, variant: str, suffix: str, tmp_path: Path
) -> None:
    """A file of the official keys loads as it is and gives the recorded ids, in several parts.

    Of the second case only the first frame is encoded, which is the clip's first position.
    """
    case = load_case(GOLDEN / f"{name}.json")
    weights = case_weights(case, case.get("keys_decode", []))
    path = tmp_path / f"official{suffix}"
    _write(weights, path)
    encoder = cast(
        "ClipEncoder", open_tokenizer("vidtok", variant=variant, checkpoint=str(path)).load()
    )
    path.unlink()

    network = cast("VidTokNetwork", encoder.network)
    ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert ours == {key: tuple(value.shape) for key, value in weights.items()}
    expected, clip = np.array(case["ids"]), torch.from_numpy(input_of(case))
    if name == CASES[1][0]:
        expected, clip = expected[:, :1], clip[:, :, :1]
    ids = encoder.encode(clip)["video"]
    assert ids.dtype == ("uint32" if variant.endswith("262144") else "uint16")
    assert np.array_equal(ids, expected)
    if network.decoder is None:
        with pytest.raises(JobError, match="no decoder"):
            encoder.decode({"video": ids})
    else:
        _check_frames(network, network.decoder, torch.tensor(case["ids"]), case)


@pytest.mark.parametrize("name", SMALL)
def test_other_variants_give_the_official_ids_and_frames(name: str, tmp_path: Path) -> None:
    """Both directions of the other networks, in several parts where the authors took one."""
    case = load_case(GOLDEN / f"{name}.json")
    weights = case_weights(case, case["keys_decode"])
    _write(weights, path := tmp_path / "official.safetensors")
    config = {"ch": 16, "num_res_blocks": 1}
    tokenizer = open_tokenizer("vidtok", variant=SMALL[name], checkpoint=str(path), config=config)
    encoder = cast("ClipEncoder", tokenizer.load())
    ours = {key: tuple(value.shape) for key, value in encoder.network.state_dict().items()}
    assert ours == {key: tuple(value.shape) for key, value in weights.items()}
    clip = torch.from_numpy(input_of(case))
    with torch.inference_mode():
        ids = encoder.network.tokens(clip)["video"]
        assert ids.tolist() == case["ids"]
        _check(encoder.network.latents(clip), case["pre_quant"])
        _check(encoder.network.clips({"video": ids}), case["decode"])


def test_a_file_of_the_encoder_alone_only_encodes(tmp_path: Path) -> None:
    """It says so when it is asked for frames."""
    case = load_case(GOLDEN / "small-41616-262144.json")
    _write(case_weights(case), path := tmp_path / "official.safetensors")
    config = {"ch": 16, "num_res_blocks": 1}
    made = open_tokenizer("vidtok", variant="41616-262144", checkpoint=str(path), config=config)
    encoder = cast("ClipEncoder", made.load())
    with pytest.raises(JobError, match="no decoder"):
        encoder.decode({"video": np.array(case["ids"], np.uint32)})


@pytest.mark.parametrize(("name", "variant"), [*[c[:2] for c in CASES], *SMALL.items()])
def test_a_variant_is_the_official_configuration(name: str, variant: str) -> None:
    """The sizes of the case's own configuration are the variant's."""
    official = load_case(GOLDEN / f"{name}.json")["official"]["kwargs"]
    width = {"ch": 16, "num_res_blocks": 1} if name in SMALL else {}
    ours = VidTok(variant, "random:0", config=width).architecture
    encoder = official["encoder_config"]["params"]
    assert list(ours.levels) == official["regularizer_config"]["params"]["levels"]
    assert list(ours.ch_mult) == encoder["ch_mult"]
    assert (ours.ch, ours.num_res_blocks) == (encoder["ch"], encoder["num_res_blocks"])
    assert ours.time_factor == encoder["time_downsample_factor"]
    assert (ours.time_padding == "first") == ("v1_1" in official["encoder_config"]["target"])


def test_scalar_quantization_is_the_official_one() -> None:
    """Ids of recorded vectors, and of those at the boundaries where other formulas differ."""
    recorded = load_case(GOLDEN / "fsq.json")
    (case,) = recorded["cases"]
    levels, given = tuple(case["levels"]), case["input"]
    z = normals(given["name"], tuple(given["shape"])) * np.float32(given["scale"])
    ids = fsq_ids(torch.from_numpy(z), levels)
    assert ids.tolist() == case["ids"]
    codes = fsq_codes(ids, levels)
    digits = (codes * 4 + 4).long()
    assert torch.equal((digits * torch.tensor([8**d for d in range(len(levels))])).sum(-1), ids)
    assert float(codes.abs().max()) == 1.0
    for probe in recorded["boundary_probes"]:
        given = probe["inputs_float32"]
        flat = np.frombuffer(base64.b64decode(given["base64_float32_le"]), "<f4")
        at = torch.tensor(flat.reshape(given["shape"]))
        assert fsq_ids(at, tuple(probe["levels"])).tolist() == probe["ids"]


def _write(weights: dict[str, torch.Tensor], path: Path) -> None:
    """As the authors publish them: with the training loss and Lightning's settings beside."""
    weights = weights | {"loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        settings = {"hyper_parameters": Namespace(seed=42), "pytorch-lightning_version": "2.4.0"}
        torch.save({"state_dict": weights, "global_step": 50000} | settings, path)


def _check(values: torch.Tensor, expected: dict[str, Any]) -> None:
    assert list(values.shape) == expected["shape"]
    found = values.numpy().reshape(-1)[expected["flat_index"]]
    np.testing.assert_allclose(found, expected["value"], rtol=0, atol=1e-4 * expected["std"])


def _check_frames(
    network: VidTokNetwork, decoder: Decoder, ids: torch.Tensor, case: dict[str, Any]
) -> None:
    """Compare the frames of the first two positions, which cost less than all of them.

    The authors' code decodes v1.1 in tiles that do not look at each other, of which the first has
    one position; so recorded, frames 4 and later are not those of the whole clip.
    """
    z = fsq_codes(ids, network.config.levels).movedim(-1, 1)
    with torch.inference_mode():
        if network.config.time_padding == "first":
            past = network.past()
            first = decoder(z[:, :, :1], past)
            past.ahead = 1
            frames = torch.cat((first, decoder(z[:, :, 1:3], past)[:, :, :4]), dim=2)
        else:
            frames = network.clips({"video": ids[:, :2]})
    _, colours, length, height, width = case["decode"]["shape"]
    samples = zip(case["decode"]["flat_index"], case["decode"]["value"], strict=True)
    places = [(np.unravel_index(at, (colours, length, height, width)), v) for at, v in samples]
    near = [(place, value) for place, value in places if place[1] < frames.shape[2]]
    assert len(near) > 12
    found = [float(frames[(0, *place)]) for place, _ in near]
    expected = [value for _, value in near]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * case["decode"]["std"])
