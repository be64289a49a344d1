"""The short cut for range reads: used where it works, and never the reason that something fails."""

import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tokenmill.testing.s3proxy import Rule, S3Proxy, s3_proxy
from tokenmill.testing.s3server import S3Server
from tokenmill_infra.storage import open_storage
from tokenmill_infra.storage.direct import FAILURES, DirectRanges
from tokenmill_infra.storage.objects import ObjectStorage
from tokenmill_infra.storage.retry import Retry
from tokenmill_schemas.errors import StoreError

DATA = bytes(range(256)) * 40

pytestmark = pytest.mark.s3


@pytest.fixture
def root(s3: S3Server) -> str:
    """A folder with one object."""
    uri = s3.root()
    open_storage(uri, s3.options).create("some folder/an object+1", DATA)
    return uri


def through(root: str, s3: S3Server, proxy: S3Proxy, **options: Any) -> ObjectStorage:
    """Return the storage behind a proxy."""
    given = {**s3.options, "endpoint_url": proxy.endpoint_url, **options}
    return ObjectStorage(root, given, Retry(deadline_s=5.0, first_s=0.01))


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[S3Proxy]:
    """A proxy that only counts."""
    with s3_proxy(s3.endpoint_url) as running:
        yield running


def test_ranges_are_read_without_the_client(root: str, s3: S3Server, proxy: S3Proxy) -> None:
    """One request each, by threads at once, and none of them the client's."""
    storage = through(root, s3, proxy)
    ranges = DirectRanges(storage)

    def read(start: int) -> bytes:
        return bytes(ranges.read("some folder/an object+1", start, start + 1000))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(20))) == [DATA[i : i + 1000] for i in range(20)]
    assert len(proxy.requests) == 20
    assert all("ignature=" in target for _, target in proxy.requests)
    assert ranges.read("some folder/an object+1", 5, 5) == b""


def test_the_end_of_an_object_and_none(root: str, s3: S3Server) -> None:
    """What the short cut is not made for the storage answers."""
    storage = open_storage(root, s3.options)
    ranges = DirectRanges(storage)
    assert ranges.read("some folder/an object+1", len(DATA) - 10, len(DATA) + 10) == DATA[-10:]
    with pytest.raises(FileNotFoundError):
        ranges.read("nothing", 0, 10)


@pytest.mark.parametrize("fault", ["slow_down", "internal_error", "lose_request", "cut_body"])
def test_what_fails_is_asked_again_through_the_client(root: str, s3: S3Server, fault: Any) -> None:
    """The short cut is taken again afterwards, unless it fails time after time."""
    path = "some folder/an object+1"
    signed = "ignature="
    with s3_proxy(s3.endpoint_url, [Rule(fault, "GET", signed)]) as proxy:
        ranges = DirectRanges(through(root, s3, proxy))
        assert ranges.read(path, 10, 2000) == DATA[10:2000]
        assert [signed in target for _, target in proxy.requests] == [True, False]
        assert ranges.read(path, 20, 2000) == DATA[20:2000]
        assert signed in proxy.requests[-1][1]
    with s3_proxy(s3.endpoint_url, [Rule(fault, "GET", signed, times=0)]) as proxy:
        ranges = DirectRanges(through(root, s3, proxy))
        for i in range(FAILURES + 3):
            assert ranges.read(path, i, 2000) == DATA[i:2000]
        assert sum(signed in target for _, target in proxy.requests) == FAILURES


@pytest.mark.parametrize(
    "options", [{"requester_pays": True}, {"client_kwargs": {"verify": False}}], ids=str
)
def test_special_requests_are_the_clients(
    root: str, s3: S3Server, proxy: S3Proxy, options: Any
) -> None:
    """Options that say more of a request than its address does."""
    ranges = DirectRanges(through(root, s3, proxy, **options))
    assert ranges.read("some folder/an object+1", 0, 10) == DATA[:10]
    assert not any("ignature=" in target for _, target in proxy.requests)


def test_a_proxy_of_the_environment_is_the_clients(
    root: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an address that needs none goes past it."""
    storage = open_storage(root, s3.options)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "elsewhere")
    ranges = DirectRanges(storage)
    assert ranges.read("some folder/an object+1", 0, 10) == DATA[:10]
    assert ranges._failures >= FAILURES
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ranges = DirectRanges(storage)
    assert ranges.read("some folder/an object+1", 0, 10) == DATA[:10]
    assert ranges._failures == 0


def test_wrong_credentials_are_told_by_the_storage(root: str, s3: S3Server) -> None:
    """No signature and no key is in the error."""
    storage = open_storage(root, {**s3.options, "secret": "not-the-secret"})
    with pytest.raises(StoreError, match="access denied") as found:
        DirectRanges(storage).read("some folder/an object+1", 0, 10)
    assert "Signature=" not in str(found.value)
    assert s3.key not in str(found.value)


def test_a_child_has_connections_of_its_own(root: str, s3: S3Server) -> None:
    """Parent and child read by turns after a fork; their answers are not mixed up."""
    ranges = DirectRanges(pickle.loads(pickle.dumps(open_storage(root, s3.options))))
    path = "some folder/an object+1"
    ranges.read(path, 0, 10)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        right = all(ranges.read(path, i, i + 2000) == DATA[i : i + 2000] for i in range(20))
        os.write(writer, b"y" if right else b"n")
        os._exit(0)
    assert all(ranges.read(path, i, i + 1000) == DATA[i : i + 1000] for i in range(20))
    assert os.read(reader, 1) == b"y"
    os.waitpid(child, 0)
