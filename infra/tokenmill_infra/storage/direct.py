"""Range reads of S3 objects past the client: signed once, then plain HTTP on kept connections.

A request through s3fs costs two to three milliseconds of processor time, in one event loop for all
threads: more than the transfer of a quarter of a megabyte. The address of an object can be signed
for an hour, whatever ranges of it are then asked for, so that a range costs a tenth of it.

It is a short cut and no second client: what goes wrong on it, refused, cut off or slow to answer,
is asked again through the storage, which knows how to retry and what to say.
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from tokenmill_infra.storage.storage import Storage

#: How long an address is signed for, and used.
SIGNED_S, USED_S = 3600, 1800
TIMEOUT_S = 30.0
#: Failures one after the other after which the short cut is given up.
FAILURES = 3


class DirectRanges:
    """Reads ranges of a storage's files; threads may share it, each has a connection of its own."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._sign: Callable[[str, int], str | None] | None = getattr(storage, "signed", None)
        self._signed: dict[str, tuple[float, SplitResult]] = {}
        self._here = threading.local()
        self._failures = 0

    def read(self, path: str, start: int, stop: int) -> bytes | bytearray:
        """Return the half-open range ``[start, stop)`` of a file's bytes, fewer at its end.

        Raises:
            FileNotFoundError: there is no such file.
            TransientError: the storage failed after its retries.
            StoreError: access was denied.
        """
        if self._failures < FAILURES and stop > start:
            data = self._direct(path, start, stop)
            if data is not None:
                self._failures = 0
                return data
            self._failures += 1
            self._signed.pop(path, None)
        return self._storage.read(path, start, stop)

    def _direct(self, path: str, start: int, stop: int) -> bytearray | None:
        place = self._place(path)
        if place is None:
            return None
        try:
            return self._get(place, start, stop)
        except (OSError, http.client.HTTPException):
            self._close()
            return None

    def _get(self, place: SplitResult, start: int, stop: int) -> bytearray | None:
        connection = self._connection(place)
        target = f"{place.path}?{place.query}"
        connection.request("GET", target, headers={"Range": f"bytes={start}-{stop - 1}"})
        answer = connection.getresponse()
        length = answer.getheader("Content-Length", "")
        if answer.status != http.client.PARTIAL_CONTENT or length != str(stop - start):
            # What it says instead is not read, so the connection cannot be used again.
            self._close()
            return None
        data = bytearray(stop - start)
        view, done = memoryview(data), 0
        while done < len(data) and (count := answer.readinto(view[done:])):
            done += count
        if done == len(data):
            answer.read()  # nothing: it ends the answer
            return data
        self._close()
        return None

    def _place(self, path: str) -> SplitResult | None:
        until, place = self._signed.get(path, (0.0, None))
        if place is None or until < time.monotonic():
            address = self._sign(path, SIGNED_S) if self._sign else None
            if address is None or _is_proxied(urlsplit(address)):
                self._failures = FAILURES
                return None
            place = urlsplit(address)
            self._signed[path] = time.monotonic() + USED_S, place
        return place

    def _connection(self, place: SplitResult) -> http.client.HTTPConnection:
        key = os.getpid(), place.scheme, place.netloc
        kept = self._kept()
        if key not in kept:
            kept[key] = _connection(place)
        return kept[key]

    def _kept(self) -> dict[tuple[int, str, str], http.client.HTTPConnection]:
        """Return this thread's connections, by process and server."""
        if not hasattr(self._here, "kept"):
            self._here.kept = {}
        kept: dict[tuple[int, str, str], http.client.HTTPConnection] = self._here.kept
        return kept

    def _close(self) -> None:
        for connection in self._kept().values():
            connection.close()
        self._kept().clear()


def _connection(place: SplitResult) -> http.client.HTTPConnection:
    if place.scheme == "http":
        return http.client.HTTPConnection(place.netloc, timeout=TIMEOUT_S)
    # The variable by which AWS clients know certificates of one's own.
    context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
    return http.client.HTTPSConnection(place.netloc, timeout=TIMEOUT_S, context=context)


def _is_proxied(place: SplitResult) -> bool:
    """Whether the environment names a proxy for an address: the clients know how to use it."""
    host = place.hostname or ""
    return place.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)
