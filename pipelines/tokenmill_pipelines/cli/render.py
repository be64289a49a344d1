"""The documents of the commands as people read them."""

from __future__ import annotations

import re
from typing import Any

from tokenmill_pipelines.checks import METRICS, group, said
from tokenmill_pipelines.cli.output import facts, table
from tokenmill_pipelines.report import text

SHOWN_QUARANTINE = 20
#: What assets are to a store: said as, and the key in a plan.
NEW = ("new", "new")
PLANNED = (
    ("new", "new_assets"),
    ("changed", "changed"),
    ("missing", "missing"),
    ("still missing", "still_missing"),
    ("returned", "returned"),
    ("withheld", "withheld"),
    ("listed twice", "duplicates"),
)


def result(value: dict[str, Any]) -> None:
    """Show what a run did."""
    state = "" if value["committed"] else ", nothing new"
    done = value["done"]
    table(
        "",
        ("", "new", "in the store"),
        [
            (name, done.get(name, 0), value["totals"].get(name, 0))
            for name in ("assets", "samples", "tokens", "bytes")
        ],
    )
    bad = value["quarantine"]
    table("quarantine", ("asset", "reason", "error"), bad[:SHOWN_QUARANTINE])
    facts(
        [
            ("listed", _listed(value["listed"])),
            ("store", value["store_uri"]),
            ("snapshot", f"{_numbered(value['branch'], value['snapshot_number'])}{state}"),
            ("content id", value["content_id"]),
            ("units", f"{done.get('units', 0):,} made, {done.get('reused_units', 0):,} reused"),
            *_checks(value["checks"]),
            ("quarantined", f"{value['quarantined']:,}"),
            ("filtered", f"{done['filtered']:,}" if done.get("filtered") else ""),
            ("wall time", text.duration(sum(value["wall_s"].values()))),
            ("report", value["report"]),
        ]
    )


def _checks(value: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what was checked before the commit, a line each."""
    lines, trip = [], value.get("round_trip")
    if trip and trip["mean"] is not None:
        mean, worst = (said(trip["metric"], trip[name]) for name in ("mean", "worst"))
        what = f"{trip['samples']:,} samples of {trip['shards']:,} shards, the worst shard {worst}"
        lines.append(("round trip", f"{METRICS[trip['metric']][1]} {mean} over {what}"))
    for one in value.get("entropy", ()):
        if one["bits"] is not None:
            past = "" if one["drift"] is None else f", {one['drift']:+.3f} against the store's"
            of = f"{one['stream']} in {group(one['samples'])}"
            lines.append(("entropy", f"{one['bits']:.3f} bits an id of {of}{past}"))
    return lines


def _listed(counts: dict[str, int]) -> str:
    """Return ``1,000: 20 new, 3 changed``; nothing of what there is none of."""
    news = [f"{counts[key]:,} {name}" for name, key in (NEW, *PLANNED[1:-1]) if counts.get(key)]
    return f"{counts.get('assets', 0):,}: {', '.join(news) or 'nothing new'}" if counts else ""


def plan(value: dict[str, Any]) -> None:
    """Show what a run would do."""
    facts(
        [
            ("assets", f"{value['assets']:,} listed, {value['todo']:,} to do"),
            *((name, _planned(value, key)) for name, key in PLANNED),
            ("bytes", text.size(value["bytes"])),
            ("units", f"{value['units']:,}, {value['new_units']:,} without a receipt"),
            ("fingerprint", value["fingerprint"]),
        ]
    )
    streams(value["streams"])


def _planned(value: dict[str, Any], key: str) -> str:
    does = value["on_missing"] == "drop" and key in {"missing", "still_missing"}
    return f"{value[key]:,}{', their samples hidden' * does}" if value[key] else ""


def _numbered(branch: str, number: int | None) -> str:
    return f"{number}" if branch == "main" else f"{branch}:{number}"


def streams(values: list[dict[str, Any]]) -> None:
    """Show the streams of a spec."""
    names = ("name", "kind", "axes", "values", "order")
    table("", ("stream", *names[1:]), [[stream[name] for name in names] for stream in values])


def store(value: dict[str, Any]) -> None:
    """Show one version of a store."""
    totals, gone = value["totals"], value["missing"]
    whole = ", hidden ones included" * bool(totals.get("hidden"))
    facts(
        [
            ("store", value["store"]),
            ("snapshot", value["number"]),
            ("branch", value["branch"] if value["branch"] != "main" else ""),
            ("tags", ", ".join(value["tags"])),
            ("created", value["created_at"]),
            ("operation", value["operation"]),
            ("message", value["message"]),
            ("content id", value["content_id"]),
            ("fingerprint", value["fingerprint"]),
            *((name, f"{number:,}") for name, number in totals.items() if name not in _WHOLE),
            ("tokens", f"{totals.get('tokens', 0):,}{whole}"),
            ("stored", f"{text.size(totals.get('bytes', 0))}{whole}"),
            ("missing", f"{gone:,} listed by their source no longer" if gone else ""),
            ("report", value["report"]),
        ]
    )
    streams(value["streams"])
    table(
        "entropy",
        ("stream", "in", "bits an id", "±", "different ids", "of"),
        [
            (e["stream"], group(e["samples"]), e["bits"], e["error"], e["ids"], e["groups"])
            for e in value["entropy"]
        ],
    )
    table("without samples", ("reason", "assets"), list(value["rejects"].items()))
    table("hidden", ("reason", "samples"), list(value["hidden"].items()))
    groups = [
        (group["name"], ", ".join(group["streams"]), ", ".join(group["columns"]))
        for group in value["groups"]
    ]
    table("added columns", ("group", "streams", "columns"), groups)


#: What is told of whole shards, hidden samples and all.
_WHOLE = {"bytes", "tokens"}


def done(value: dict[str, Any]) -> None:
    """Show what a command did, fact by fact."""
    facts((name.replace("_", " "), _fact(name, fact)) for name, fact in value.items())


def _fact(name: str, value: Any) -> str:
    if isinstance(value, int):
        return text.size(value) if name == "bytes" else f"{value:,}"
    return str(value or "")


def compacted(value: dict[str, Any]) -> None:
    """Show what was compacted, or would be."""
    if not (value["made"] or value["dry_run"]) or not value["units"]:
        facts([("compact", "nothing to do"), ("snapshot", value["number"])])
        return
    word = "would compact" if value["dry_run"] else "compacted"
    facts(
        [
            (word, f"{value['units']:,} units into {value['into']:,}"),
            ("shards", f"{value['shards_before']:,} before, {value['shards_after']:,} after"),
            ("rewritten", text.size(value["bytes"])),
            ("left out", f"{value['dropped']:,} hidden samples" if value["dropped"] else ""),
            ("snapshot", "" if value["dry_run"] else value["number"]),
        ]
    )


def branches(value: list[dict[str, Any]]) -> None:
    """Show the branches of a store."""
    columns = ("branch", "snapshot", "created", "operation", "began at")
    names = ("branch", "number", "created_at", "operation", "began")
    table("", columns, [[entry[name] for name in names] for entry in value])


def difference(value: dict[str, Any]) -> None:
    """Show in which assets two versions differ."""
    sides = [f"{v['store']}  {v['branch']}:{v['number']}" for v in (value[s] for s in _SIDES)]
    facts([*zip(_SIDES, sides, strict=True), *value["counts"].items()])
    names = ("asset_key", "change", "version_before", "version_after")
    rows = [[_shortened(entry[name]) for name in names] for entry in value["assets"]]
    table("", ("asset", "change", "version before", "version after"), rows)
    if (more := sum(value["counts"].values()) - len(rows)) > 0:
        print(f"and {more:,} more; --limit 0 lists all")


_SIDES = ("before", "after")


def _shortened(version: str | None) -> str:
    """Return an asset's version, of a content hash in it only the beginning."""
    return re.sub(r"(sha256=[0-9a-f]{12})[0-9a-f]{52}\b", r"\1", version or "")


def log(value: list[dict[str, Any]]) -> None:
    """Show the versions of a store."""
    rows = [
        (
            entry["number"],
            entry["created_at"],
            entry["operation"],
            entry["totals"].get("samples", 0),
            entry["content_id"][:12],
            ", ".join(entry["tags"]),
            entry["message"],
        )
        for entry in value
    ]
    columns = ("snapshot", "created", "operation", "samples", "content id", "tags", "message")
    table("", columns, rows)


def verified(value: dict[str, Any]) -> None:
    """Show what verification found."""
    for problem in value["problems"]:
        facts([("problem", problem)])
    state = "sound" if value["sound"] else f"{len(value['problems'])} problems"
    facts(
        [
            ("snapshot", f"{value['number']}: {state}"),
            ("shards", f"{value['shards']:,}"),
            ("samples", f"{value['samples']:,}"),
            ("assets", f"{value['assets']:,}"),
            ("checked", text.size(value["checked_bytes"])),
        ]
    )


def kinds(value: list[dict[str, Any]]) -> None:
    """Show the kinds that a section of a job may name."""
    table("", ("kind", "what it is"), [(entry["kind"], entry["summary"]) for entry in value])


def kind(value: dict[str, Any]) -> None:
    """Show one kind and its keys."""
    print(value["summary"])
    rows = [(key["key"], key["type"], _default(key["default"])) for key in value["keys"]]
    table(f"keys of [{value['section']}]", ("key", "type", "default"), rows)


def tokenizer(value: dict[str, Any]) -> None:
    """Show one kind of tokenizer."""
    print(value["summary"])
    # The variants have a line of their own, which is long enough for once.
    types = {"variant": "one of the variants"} if value["variants"] else {}
    rows = [
        (key["key"], types.get(key["key"], key["type"]), _default(key["default"]))
        for key in value["keys"]
    ]
    table("keys of [tokenizer]", ("key", "type", "default"), rows)
    view = ", ".join(f"{key} = {each!r}" for key, each in value.get("default_view", {}).items())
    facts([("variants", ", ".join(value["variants"])), ("default view", view)])
    streams(value["streams"])


def _default(value: Any) -> str:
    return "" if value is None else repr(value)


def samples(value: list[dict[str, Any]]) -> None:
    """Show the corpora that can be fetched."""
    rows = [
        (e["name"], e["use"], e["assets"], text.size(e["download_bytes"]), e["summary"])
        for e in value
    ]
    table("", ("name", "use", "assets", "download", "what it is"), rows)


def trained(value: dict[str, Any]) -> None:
    """Show what a training came to."""
    resumed = f", resumed at {value['resumed_from']:,}" if value["resumed_from"] else ""
    held_out = value["held_out_loss"]
    facts(
        [
            ("steps", f"{value['steps']:,}{resumed}"),
            ("samples", f"{text.count(value['samples'])}, {value['epochs']:.3g} epochs"),
            ("tokens", text.count(value["tokens"])),
            ("parameters", text.count(value["parameters"])),
            ("loss", f"{value['loss']:.3f}, from {value['first_loss']:.3f}"),
            ("held out", "" if held_out is None else f"{held_out:.3f}"),
            ("time", f"{text.duration(value['wall_s'])}, {text.duration(value['cpu_s'])} of cores"),
            ("checkpoint", value["checkpoint"]),
            ("report", value["report"]),
        ]
    )


def fitted(value: dict[str, Any]) -> None:
    """Show what a fit came to."""
    resumed = f", resumed at {value['resumed_from']:,}" if value["resumed_from"] else ""
    scores = [
        (part, ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items()))
        for part, figures in value["scores"].items()
    ]
    table(f"{value['tried']} held-out assets", ("part", "means"), scores)
    facts(
        [
            ("steps", f"{value['steps']:,}{resumed}"),
            ("samples", text.count(value["samples"])),
            ("parameters", text.count(value["parameters"])),
            ("loss", f"{value['loss']:.3f}, from {value['first_loss']:.3f}"),
            ("time", f"{text.duration(value['wall_s'])}, {text.duration(value['cpu_s'])} of cores"),
            ("weights", value["weights"]),
            ("sha256", value["sha256"]),
            ("card", value["card"]),
            ("report", value["report"]),
        ]
    )
