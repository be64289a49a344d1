"""Laying out a corpus whose catalogue entry says which files it takes, and what they are."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenmill_pipelines.samples.catalogue import Files, Rule, Sample
from tokenmill_pipelines.samples.packages import unpack
from tokenmill_schemas.errors import JobError


@dataclass(frozen=True, slots=True)
class Stated:
    """A stanza of a Debian copyright file: patterns of paths, the holders and the licence."""

    paths: tuple[str, ...]
    holders: str
    licence: str


def arrange(sample: Sample, unpacked: Path, out: Path) -> int:
    """Copy the files that ``sample`` takes to ``out`` and list them in ``listing.jsonl``.

    Returns:
        The number of rows.

    Raises:
        JobError: the packages have no such folder or archive, or a file without a licence.
    """
    _open_archives(sample, unpacked)
    rows = [
        {**row, "use": part.use or sample.use}
        for part in sample.files
        for row in _take(part, unpacked, out)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (out / "listing.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(rows)


def _open_archives(sample: Sample, unpacked: Path) -> None:
    for pattern in sample.archives:
        found = sorted(unpacked.glob(pattern))
        if not found:
            raise JobError(f"the packages have no {pattern}")
        for archive in found:
            unpack(archive, unpacked / "archives" / archive.name.partition(".")[0])


def _take(files: Files, unpacked: Path, out: Path) -> Iterator[dict[str, str]]:
    stated: list[Stated] = []
    if files.copyright:
        source = unpacked / files.copyright
        shutil.copyfile(source, out / "copyright")
        stated = read_copyright(source.read_text(encoding="utf-8"))
    for path, below in _paths(files, unpacked):
        uri = f"{files.into}/{below}".lstrip("/")
        (out / uri).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / uri)
        if matches(files.take, below):
            yield {
                "uri": uri,
                "caption": " ".join(re.split(r"[\W_]+", path.stem)).strip(),
                "label": below.split("/")[0] if "/" in below else files.into,
                "content": first(files.content, below),
                **_rights(files, stated, below),
            }


def _paths(files: Files, unpacked: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files that are copied, with their paths below the root, sorted by these.

    Links are left out: what they lead to is there under its own name.
    """
    roots = sorted(unpacked.glob(files.root))
    if not roots:
        raise JobError(f"the packages have no {files.root}")
    for root in roots:
        for path in sorted(root.rglob("*")):
            below = path.relative_to(root).as_posix()
            wanted = matches(files.take + files.beside, below)
            wanted = wanted and not matches(files.leave, below)
            if wanted and path.is_file() and not path.is_symlink():
                yield path, below


def _rights(files: Files, stated: list[Stated], below: str) -> dict[str, str]:
    """Return licence and holders: a rule's, else those of the last stanza that matches."""
    path = f"{files.stated_below}/{below}".lstrip("/")
    found = next((s for s in reversed(stated) if matches(s.paths, path)), Stated((), "", ""))
    licence = first(files.licences, below) or found.licence
    if not licence:
        raise JobError(f"no licence is stated for {below}")
    return {"copyright": found.holders, "licence": licence}


def first(rules: tuple[Rule, ...], path: str) -> str:
    """Return the value of the first rule that matches, "" if none does."""
    return next((rule.value for rule in rules if matches(rule.paths, path)), "")


def matches(patterns: tuple[str, ...], path: str) -> bool:
    """Return whether a whole path matches one of ``patterns``, in which ``*`` spans folders."""
    return any(_pattern(pattern).fullmatch(path) for pattern in patterns)


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(c) or re.escape(c) for c in pattern), re.DOTALL)


def read_copyright(text: str) -> list[Stated]:
    """Return the ``Files`` stanzas of a Debian copyright file, in their order.

    The last that matches a path holds for it:
    https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
    """
    stanzas = (_fields(stanza) for stanza in re.split(r"\n\s*\n", text))
    return [
        Stated(
            tuple(" ".join(fields["Files"]).split()),
            "; ".join(filter(None, fields.get("Copyright", []))),
            fields.get("License", [""])[0],
        )
        for fields in stanzas
        if "Files" in fields
    ]


def _fields(stanza: str) -> dict[str, list[str]]:
    """Return the lines of each field of a stanza."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in stanza.splitlines():
        if line[:1].isspace():
            lines.append(line.strip())
        elif ":" in line:
            name, _, value = line.partition(":")
            found[name] = lines = [value.strip()]
    return found
