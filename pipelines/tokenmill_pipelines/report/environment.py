"""Which versions and which machine a run had."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "tokenmill",
    "pyarrow",
    "numpy",
    "fsspec",
    "pillow",
    "av",
    "scenedetect-headless",
    "trimesh",
    "torch",
    "safetensors",
    "diffusers",
    "webdataset",
    "ray",
    "prefect",
)


def environment() -> dict[str, str]:
    """Return versions of what a run may use, and the driver's machine; imports none of it."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["system"] = f"{platform.system()} {platform.release()}"
    found["processor"] = f"{os.cpu_count() or 1} x {_processor()}"
    if memory_bytes := _memory_bytes():
        found["memory"] = f"{memory_bytes / 2**30:.1f} GiB"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
