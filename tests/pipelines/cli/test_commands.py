"""The commands on the sample corpus: what they print, and with which code they end."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.pipelines.cli.conftest import JOB, Outcome, call, command, demo, environment, spawn

from tokenmill_pipelines.cli import feed_answers, feed_tables
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

Made = tuple[Path, Outcome]


def test_a_run_with_bad_pictures_is_done_with_quarantine(made: Made) -> None:
    """Exit code 3; one JSON document; the four bad files with distinct reasons."""
    store, outcome = made
    assert outcome.code == 3, outcome.err
    value = outcome.document()
    assert value["store_uri"] == str(store)
    assert (value["snapshot_number"], value["committed"], value["quarantined"]) == (1, True, 4)
    assert value["totals"]["samples"] == value["done"]["samples"] == 36
    assert {reason for _, reason, _ in value["quarantine"]} == {
        "too_many_pixels",
        "empty",
        "unknown_format",
        "truncated",
    }
    assert Path(value["report"]).read_bytes().startswith(b"<!doctype html>")


def test_progress_and_events_are_json_lines_on_standard_error(made: Made) -> None:
    """Every line is an event; stages come in their order."""
    events = [json.loads(line) for line in made[1].err.splitlines()]
    stages = [event["event"] for event in events if event.get("state") == "end"]
    assert stages == ["list", "plan", "encode", "verify", "commit", "report"]
    assert any(event["event"] == "progress" for event in events)


def test_a_second_run_finds_nothing_to_do(made: Made) -> None:
    """Exit code 0, for people: the same snapshot, nothing new."""
    outcome = spawn(*demo(made[0]))
    assert outcome.code == 0, outcome.err
    assert "snapshot     1, nothing new" in outcome.out
    assert made[1].document()["content_id"] in outcome.out
    assert "list state=start" in outcome.err


def test_an_interrupted_run_goes_on_where_it_stopped(made: Made, tmp_path: Path) -> None:
    """Ctrl-C ends it in one line; the next run reuses its units and makes the same content."""
    args = [*demo(tmp_path / "store"), "--json"]
    process = subprocess.Popen(
        command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stderr:
        if json.loads(line)["event"] == "write":
            process.send_signal(signal.SIGINT)
            break
    rest, out = process.stderr.read(), process.stdout.read()
    assert process.wait(timeout=60) == 130
    process.stdout.close()
    process.stderr.close()
    assert out == ""
    assert "Traceback" not in rest
    assert "the same command goes on from there" in json.loads(rest.splitlines()[-1])["message"]
    again = spawn(*args)
    assert again.code == 3, again.err
    assert again.document()["done"]["reused_units"] >= 1
    assert again.document()["content_id"] == made[1].document()["content_id"]


def test_a_plan_says_what_is_new_and_leaves_no_version(made: Made, tmp_path: Path) -> None:
    """Before the first run all of it, after it nothing; planning commits nothing."""
    sets = ["--set", "cluster.backend=local", "--set"]
    fresh = call("plan", str(JOB), *sets, f"store.uri={tmp_path / 'none'}", "--json").document()
    assert (fresh["assets"], fresh["new_assets"], fresh["new_units"]) == (40, 40, 3)
    assert fresh["streams"][0]["name"] == "image"
    assert call("show", str(tmp_path / "none")).code == 1
    again = call("plan", str(JOB), *sets, f"store.uri={made[0]}", "--json").document()
    assert (again["new_assets"], again["new_units"]) == (0, 0)
    assert "40 listed, 0 to do" in call("plan", str(JOB), *sets, f"store.uri={made[0]}").out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["no-such-job.toml"], "cannot read the job file"),
        ([str(JOB), "--set", "shards.formt=arrow"], "shards.formt: unknown key; did you mean"),
        ([str(JOB), "--set", "tokenizer.kind=llamagn"], "did you mean 'llamagen'"),
        ([str(JOB), "--set", "nonsense"], "--set wants a.b=value"),
    ],
)
def test_bad_jobs_are_exit_code_2(args: list[str], said: str) -> None:
    """The one line names the dotted path and the nearest valid key."""
    outcome = call("plan", *args)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_show_tells_what_a_store_holds(made: Made) -> None:
    """For machines all of it, for people the same in words."""
    value = call("show", str(made[0]), "--json").document()
    assert value["content_id"] == made[1].document()["content_id"]
    assert value["rejects"]["truncated"] == 1
    assert value["report"].startswith("reports/")
    shown = call("show", str(made[0]), "--ref", "1").out
    for word in ("36,864", "h 32 x w 32", "4,096 ids", "too_many_pixels", value["content_id"]):
        assert word in shown


def test_what_is_no_store_is_an_error_of_one_line(tmp_path: Path) -> None:
    """An empty folder, and a version that is not there."""
    outcome = call("log", str(tmp_path))
    assert outcome.code == 1
    assert "is not a token store" in outcome.err
    assert outcome.err.count("\n") == 1


def test_an_unknown_version_is_an_error(made: Made) -> None:
    """The error says which there are."""
    outcome = call("show", str(made[0]), "--ref", "nightly")
    assert outcome.code == 1
    assert "nightly" in outcome.err


def test_a_job_of_another_kind_than_its_store_is_a_bad_job(made: Made) -> None:
    """It says what differs; nothing is wrong with the store."""
    outcome = spawn(*demo(made[0], "view.rule=bilinear"))
    assert outcome.code == 2, outcome.err
    assert "holds tokens of another kind" in outcome.err


def test_a_hub_that_does_not_answer_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    """Without a network the job wants another checkpoint, or a cache that has it."""
    env = environment() | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    args = command("plan", str(JOB), "--set", "tokenizer={kind='llamagen'}")
    done = subprocess.run(args, check=False, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tokenmill: tokenizer.checkpoint: hf://")
    assert "HF_HUB_OFFLINE" in done.stderr
    assert done.stderr.count("\n") == 1


def test_tags_name_versions_and_the_log_shows_them(made: Made) -> None:
    """A tag answers as a ref; it never moves to a name that is not allowed."""
    assert call("tag", str(made[0]), "v1", "--json").document()["number"] == 1
    assert call("tag", str(made[0]), "v1", "1").code == 0
    assert call("show", str(made[0]), "--ref", "v1", "--json").document()["tags"] == ["v1"]
    assert call("log", str(made[0]), "--json").document()[0]["tags"] == ["v1"]
    assert "v1" in call("log", str(made[0])).out
    assert call("tag", str(made[0]), "../v1").code == 1


def test_verify_proves_a_sound_store_and_finds_a_broken_one(made: Made, tmp_path: Path) -> None:
    """Exit code 0, and 1 once a byte of a shard has changed; a quick look reads no shard."""
    sound = call("verify", str(made[0]), "--json")
    assert sound.code == 0
    assert sound.document()["sound"]
    assert sound.document()["assets"] == 40
    broken = tmp_path / "broken"
    shutil.copytree(made[0], broken)
    shard = next(broken.glob("data/**/*.arrow"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    found = call("verify", str(broken))
    assert found.code == 1
    assert "its bytes are not those that were committed" in found.out
    assert call("verify", str(broken), "--quick").code == 0


def test_feed_prints_batches_and_speed(made: Made) -> None:
    """The first batches, what all of them took, and the state to go on from."""
    args = ["--batch-size", "12", "--batches", "7", "--seed", "3"]
    value = call("feed", str(made[0]), *args, "--json").document()
    assert (value["batches"], value["samples"], value["tokens"]) == (7, 84, 84 * 1024)
    assert value["samples_per_s"] > 0
    assert len(value["shown"]) == 3
    first = value["shown"][0]
    assert first["streams"]["image"]["shape"] == [12, 32, 32]
    assert len(set(first["sample_ids"])) == 12
    shown = call("feed", str(made[0]), *args).out
    assert "uint16[12, 32, 32]" in shown
    assert "7 batches, 84 samples" in shown
    assert "samples/s" in shown


def test_latents_and_shapes_that_vary_are_shown_as_they_are_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """bfloat16 as numbers and not as its bits; of ragged streams the first samples' shapes."""
    spec = TokenSpec(
        (
            Stream("latent", "float", (Axis("n", 1),), channels=2, dtype="bfloat16"),
            Stream("image", "index", (Axis("h"), Axis("w")), vocab_sizes=(9,)),
        )
    )
    batch = {
        "sample_id": ["a", "b"],
        "latent": np.array([[[0x3F80, 0xC000]], [[0, 0]]], np.uint16),
        "image": [np.zeros((2, 3), np.uint8), np.zeros((4, 1), np.uint8)],
    }
    shown = feed_answers._describe_batch(batch, 0, spec.streams, ())
    latent, image = shown["streams"]["latent"], shown["streams"]["image"]
    assert (latent["dtype"], latent["shape"], latent["first"]) == ("bfloat16", [2, 1, 2], [1, -2])
    assert (image["shape"], image["shapes"]) == ([2, "?"], [[2, 3], [4, 1]])
    speed = {"samples_per_s": None, "tokens_per_s": None, "first_batch_s": 0.1}
    feed_tables.batches({"shown": [shown], "batches": 1, "samples": 2} | speed)
    printed = capsys.readouterr().out
    assert "bfloat16[2, 1, 2]" in printed
    assert "uint8, 2 of 2 x 3, 4 x 1" in printed


def test_ranks_share_the_batches_of_one_feed(made: Made) -> None:
    """What two ranks print is what one rank prints, cut in two."""
    common = [str(made[0]), "--batch-size", "8", "--batches", "2", "--json", "--world-size"]
    whole = call("feed", *common, "1").document()["shown"]
    parts = [call("feed", *common, "2", "--rank", str(r)).document()["shown"] for r in (0, 1)]
    for step in (0, 1):
        joined = [name for part in parts for name in part[step]["sample_ids"]]
        assert joined == whole[step]["sample_ids"]


def test_an_impossible_feed_is_bad_usage(made: Made) -> None:
    """A batch that the ranks cannot share."""
    outcome = call("feed", str(made[0]), "--batch-size", "7", "--world-size", "2")
    assert outcome.code == 2
    assert "multiple of world_size" in outcome.err


def test_retry_tries_the_quarantined_again(made: Made, tmp_path: Path) -> None:
    """Pictures that are still bad stay in quarantine; an unknown reason is a bad request."""
    store = tmp_path / "store"
    shutil.copytree(made[0], store)
    refused = call("retry", str(store), "--reason", "corrupt")
    assert refused.code == 2
    assert "truncated" in refused.err
    outcome = spawn("retry", str(store), "--reason", "truncated", "--reason", "empty", "--json")
    assert outcome.code == 3, outcome.err
    value = outcome.document()
    assert (value["done"]["assets"], value["quarantined"]) == (2, 2)
    assert call("verify", str(store)).code == 0


@pytest.mark.parametrize(
    ("section", "some"),
    [
        ("source", {"files", "jsonl"}),
        ("decoder", {"image", "video", "shape"}),
        ("view", {"center_crop", "clips", "voxels", "mesh"}),
        ("tokenizer", {"cosmos", "voxel_vq"}),
    ],
)
def test_the_kinds_of_a_section_are_listed(section: str, some: set[str]) -> None:
    """Every kind with a line of its own."""
    value = call("kinds", section, "--json").document()
    assert some <= {entry["kind"] for entry in value}
    assert all(entry["summary"] for entry in value)


def test_the_keys_of_a_view_are_shown() -> None:
    """What a job may say of it, with types and defaults."""
    value = call("kinds", "view", "clips", "--json").document()
    keys = {key["key"]: key for key in value["keys"]}
    assert keys["frames_rule"]["default"] == "any"
    assert "'adaptive'" in keys["shots"]["type"]
    shown = call("kinds", "view", "clips").out
    assert "keys of [view]" in shown
    assert "nearest timestamp" in shown


def test_a_section_that_there_is_not_is_told() -> None:
    """With the nearest that there is."""
    outcome = call("kinds", "views")
    assert outcome.code == 2
    assert "did you mean 'view'?" in outcome.err


def test_tokenizers_are_listed_without_loading_them() -> None:
    """Every kind with a line of its own."""
    value = call("tokenizers", "list", "--json").document()
    kinds = {entry["kind"] for entry in value}
    assert {"llamagen", "patch_vq", "taming", "titok"} <= kinds
    assert all(entry["summary"].endswith(".") for entry in value)
    shown = call("tokenizers", "list").out
    assert all(kind in shown for kind in kinds)


def test_a_tokenizers_keys_say_which_values_they_take() -> None:
    """The name of a type of ours tells a user nothing."""
    value = call("tokenizers", "describe", "taming", "--json").document()
    types = {key["key"]: key["type"] for key in value["keys"]}
    assert types["latent_dtype"].split(" | ")[0] == "'float32'"
    assert types["posterior"] == "'mean' | 'mean_logvar'"
    assert types["scale"] == "tuple[float, ...]"
    shown = call("tokenizers", "describe", "taming").out
    assert shown.count("'f16-16384'") == 1  # as the default; the variants have a line


@pytest.mark.parametrize(
    ("kind", "axes"),
    [("voxel_vq", "x 8 x y 8 x z 8"), ("mesh_sequence", "n ?"), ("larp", "n 1024")],
)
def test_what_takes_no_pictures_is_described_by_its_default_view(kind: str, axes: str) -> None:
    """Clips and shapes: the streams of the view that the authors' own reading amounts to."""
    value = call("tokenizers", "describe", kind, "--json").document()
    assert [stream["axes"] for stream in value["streams"]] == [axes]
    shown = call("tokenizers", "describe", kind).out
    assert f"default view  kind = {value['default_view']['kind']!r}" in shown


def test_a_tokenizer_is_described_with_its_tokens() -> None:
    """Keys with their defaults, variants, and what a view of a size becomes."""
    value = call("tokenizers", "describe", "llamagen", "--size", "384", "--json").document()
    assert "VQ-16" in value["variants"]
    assert {"key": "ema", "type": "bool", "default": False} in value["keys"]
    assert value["streams"][0]["axes"] == "h 24 x w 24"
    shown = call("tokenizers", "describe", "patch_vq").out
    assert "h 32 x w 32" in shown


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["llamagn"], "did you mean 'llamagen'"),
        (["llamagen", "--variant", "VQ-17"], "VQ-16"),
        (["llamagen", "--variant", "VQ-16", "--size", "100"], "multiples of 16"),
    ],
)
def test_what_no_tokenizer_can_do_is_bad_usage(args: list[str], said: str) -> None:
    """The line names what would do."""
    outcome = call("tokenizers", "describe", *args)
    assert outcome.code == 2
    assert said in outcome.err


def test_samples_are_listed_found_and_refused() -> None:
    """The shipped corpus is where the command says; an unknown name gets the nearest one."""
    names = [entry["name"] for entry in call("samples", "list", "--json").document()]
    assert "openclipart" in names
    assert all(name in call("samples", "list").out for name in names)
    folder = Path(call("samples", "path").out.strip())
    assert (folder / "images.jsonl").is_file()
    assert call("samples", "path", "--json").document() == {"path": str(folder)}
    outcome = call("samples", "fetch", "openclipat")
    assert outcome.code == 2
    assert "did you mean 'openclipart'" in outcome.err
