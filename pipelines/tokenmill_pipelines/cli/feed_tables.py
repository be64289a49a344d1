"""What `tokenmill feed` says, as people read it."""

from __future__ import annotations

from typing import Any

from tokenmill_pipelines.cli.output import facts, table
from tokenmill_pipelines.report import text

#: Samples and steps that are listed; `--json` has all.
SHOWN = 64


def batches(value: dict[str, Any]) -> None:
    """Show the first batches and the speed."""
    rows = [
        (f"{batch['step']}", name, _shape(stream), " ".join(map(_number, stream["first"])))
        for batch in value["shown"]
        for name, stream in batch["streams"].items()
    ]
    table("", ("step", "stream", "batch", "first values"), rows)
    columns = [
        (f"{batch['step']}", name, first)
        for batch in value["shown"]
        for name, first in batch["columns"].items()
    ]
    table("", ("step", "column", "first value"), columns)
    rate, tokens = value["samples_per_s"], value["tokens_per_s"]
    speed = f"{text.rate(rate)} samples/s, {text.rate(tokens)} tokens/s" if rate else ""
    facts(
        [
            ("read", f"{value['batches']:,} batches, {value['samples']:,} samples"),
            ("first batch", text.duration(value["first_batch_s"])),
            ("then", speed),
        ]
    )


def plan(value: dict[str, Any]) -> None:
    """Show what an epoch costs."""
    facts(
        [
            ("store", _store(value)),
            ("samples", _samples(value)),
            ("steps", _steps(value)),
            ("tokens", _tokens(value)),
            ("read", _read(value)),
            ("batch", f"{text.size(value['batch_bytes'])} of tokens a rank and step"),
            ("padding", _padding(value)),
            ("memory", _memory(value["memory"])),
            ("state", f"{value['state_bytes']} bytes"),
            *_remote(value["remote"]),
            ("shuffle", _shuffle(value)),
        ]
    )
    _mixing(value)
    if len(value["parts"]) > 1:
        _parts(value["parts"])


def _store(value: dict[str, Any]) -> str:
    names = [part["name"] for part in value["parts"]]
    return f"{names[0]}@{value['number']}" if len(names) == 1 else f"{len(names)}, mixed"


def _samples(value: dict[str, Any]) -> str:
    shown = f"{value['samples']:,} shown, {value['epoch_samples']:,} in an epoch"
    out, again = value["left_out"], value["repeated"]
    return shown + f", {out:,} left out" * bool(out) + f", {again:,} again" * bool(again)


def _steps(value: dict[str, Any]) -> str:
    world, batch = value["world_size"], value["batch_size"]
    ranks = f", {batch // world:,} on each of {world:,} ranks" if world > 1 else ""
    steps = f"{value['epoch_steps']:,} in an epoch, each of {batch:,}"
    if value["packed"]:
        return f"{steps} windows with {value['step_samples']:,.1f} samples{ranks}"
    return f"{steps} samples{ranks}"


def _tokens(value: dict[str, Any]) -> str:
    each = [f"{text.count(count)} {name}" for name, count in value["tokens"].items()]
    about = "" if value["exact"] else "about "
    return f"{about}{', '.join(each)} in an epoch"


def _read(value: dict[str, Any]) -> str:
    about = "" if value["exact"] else "about "
    return (
        f"{about}{text.size(value['read_bytes'])} in an epoch, of files of "
        f"{text.size(value['stored_bytes'])}; {text.size(value['step_read_bytes'])} a rank and step"
    )


def _padding(value: dict[str, Any]) -> str:
    if not value["packed"]:
        return "none: every step has one shape" if value["buckets"] else ""
    return f"{text.percent(value['padding_share'])} of the windows of {value['packed']}"


def _memory(memory: dict[str, int]) -> str:
    index, ahead = text.size(memory["index"]), text.size(memory["ahead"])
    pieces = memory["pieces"]
    more = f"; {text.size(pieces)} more where the node has no cache" if pieces else ""
    return f"{index} of plans and up to {ahead} read ahead, a rank{more}"


def _remote(remote: dict[str, int] | None) -> list[tuple[str, str]]:
    if remote is None:
        return []
    small = text.size(remote["window_bytes"])
    again = f"; with {small}, {text.size(remote['again_bytes'])} an epoch"
    fits = remote["cache_bytes"] <= remote["window_bytes"]
    return [
        (
            "first batch",
            f"{remote['first_requests']:,} requests, {text.size(remote['first_bytes'])} a rank",
        ),
        (
            "fetched",
            f"{text.size(remote['fetched_bytes'])} by {remote['requests']:,} requests, an epoch "
            "and node",
        ),
        (
            "node cache",
            f"needs {text.size(remote['cache_bytes'])} to fetch nothing twice"
            + ("" if fits else again),
        ),
    ]


def _shuffle(value: dict[str, Any]) -> str:
    mixing = value["mixing"]
    less = mixing["classes"] and mixing["class_steps"] != mixing["steps"]
    values = f", of values on {mixing['class_steps']}" if less else ""
    return f"{value['shuffle']}, as measured on {mixing['steps']} steps of an epoch{values}"


def _mixing(value: dict[str, Any]) -> None:
    mixing = value["mixing"]
    kinds = [("shards", mixing["shards"], ""), ("blocks of 256 samples", mixing["blocks"], "")]
    if mixing["classes"]:
        kinds.append((f"values of {value['classes']}", mixing["classes"], " seen"))
    rows = [
        (name, *(f"{kind[key]:,.1f}" for key in ("mean", "full")), f"{kind['kinds']:,}{seen}")
        for name, kind, seen in kinds
    ]
    table("", ("distinct in a batch", "here", "full shuffle", "there are"), rows)


def _parts(parts: list[dict[str, Any]]) -> None:
    rows = [
        (
            part["name"],
            text.percent(part["share"]),
            part["samples"],
            part["epoch_samples"],
            f"{part['epoch_samples'] / max(1, part['samples']):.2f}",
            text.size(part["read_bytes"]),
        )
        for part in parts
    ]
    table("", ("store", "share", "shown", "in an epoch", "times", "read"), rows)


def step(value: dict[str, Any]) -> None:
    """Show the samples of a step."""
    samples = value["samples"]
    names = ["rank"] * (value["world_size"] > 1) + ["window"] * ("window" in samples[0])
    names += ["store"] * (len({sample["store"] for sample in samples}) > 1)
    names += ["sample_id", "asset_key", "shard", "row"]
    rows = [[sample[name] for name in names] for sample in samples[:SHOWN]]
    title = f"step {value['step']:,}, in epoch {value['epoch']:,}"
    table(title, names, rows)
    if (more := len(samples) - len(rows)) > 0:
        print(f"and {more:,} more; --json lists all")


def steps(value: dict[str, Any]) -> None:
    """Show which steps have a sample."""
    found = [f"{step:,}" for step in value["steps"][:SHOWN]]
    more = f" and {len(value['steps']) - len(found):,} more" if value["steps"][SHOWN:] else ""
    none = "none: it is not shown, or left out of this epoch"
    facts(
        [
            (value["by"].replace("_", " "), value["key"]),
            ("steps", " ".join(found) + more or none),
            ("epoch", f"{value['epoch_steps']:,} steps"),
        ]
    )


def _number(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shape(stream: dict[str, Any]) -> str:
    """Return ``uint16[8, 32, 32]``, or where shapes vary those of the first samples."""
    if "shapes" not in stream:
        return f"{stream['dtype']}[{', '.join(map(str, stream['shape']))}]"
    count = stream["shape"][0]
    shapes = [" x ".join(map(str, shape)) for shape in stream["shapes"]]
    more = ", ..." if count > len(shapes) else ""
    return f"{stream['dtype']}, {count} of {', '.join(shapes)}{more}"
