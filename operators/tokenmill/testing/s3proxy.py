"""A proxy before an S3 server that lets faults happen by plan, one rule after the other.

Requests go on as they came, with the client's own ``Host``, so that their signatures stay valid.
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import unquote, urlsplit

Fault = Literal[
    "slow_down",
    "unavailable",
    "internal_error",
    "lose_request",
    "lose_reply",
    "cut_body",
    "delay",
    "list_late",
]
#: What a server says instead of doing what it is asked.
REFUSALS = {
    "slow_down": (503, "SlowDown"),
    "unavailable": (503, "ServiceUnavailable"),
    "internal_error": (500, "InternalError"),
}
#: Headers about one connection, which a proxy has two of.
HOP = {"connection", "expect", "keep-alive", "proxy-connection", "transfer-encoding"}
CONTENTS = re.compile(rb"<Contents>.*?<Key>(.*?)</Key>.*?</Contents>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault for the first ``times`` requests that match (0: all of them).

    Attributes:
        fault: ``slow_down``, ``unavailable`` and ``internal_error`` answer without asking the
            server; ``lose_request`` drops the connection before it was asked and ``lose_reply``
            after it has answered; ``cut_body`` sends half of the answer's body; ``delay`` waits
            for ``seconds``; ``list_late`` leaves keys out of listings that were created through the
            proxy less than ``seconds`` ago.
        method: the requests' method; "" for any.
        path: a regular expression that is searched for in their path and query.
        after: matching requests that are let through first.
        each: count by method and path, so that each of them is struck ``times`` times.
    """

    fault: Fault
    method: str = ""
    path: str = ""
    times: int = 1
    after: int = 0
    seconds: float = 0.0
    each: bool = False

    def matches(self, method: str, target: str) -> bool:
        """Whether a request is one of those that the rule is about."""
        return self.method in ("", method) and re.search(self.path, target) is not None


@dataclass(slots=True)
class S3Proxy:
    """A running proxy; ``hits`` counts how often each rule has struck."""

    upstream: str
    rules: tuple[Rule, ...]
    endpoint_url: str = ""
    hits: list[int] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    _seen: Counter[tuple[int, str]] = field(default_factory=Counter)
    _created: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.hits = [0] * len(self.rules)

    def strike(self, method: str, target: str) -> Rule | None:
        """Return the first rule that strikes this request, and count it."""
        with self._lock:
            self.requests.append((method, target))
            for index, rule in enumerate(self.rules):
                if not rule.matches(method, target):
                    continue
                counted = index, f"{method} {target}" if rule.each else ""
                self._seen[counted] += 1
                turn = self._seen[counted] - rule.after
                if turn > 0 and (not rule.times or turn <= rule.times):
                    self.hits[index] += 1
                    return rule
        return None

    def note(self, target: str) -> None:
        """Note that a key was created now."""
        with self._lock:
            self._created[unquote(urlsplit(target).path)] = time.monotonic()

    def without_young(self, target: str, body: bytes, seconds: float) -> bytes:
        """Return a listing's XML without the keys of less than ``seconds`` ago."""
        bucket = urlsplit(target).path.strip("/").partition("/")[0]
        now = time.monotonic()

        def kept(found: re.Match[bytes]) -> bytes:
            key = f"/{bucket}/{unquote(found[1].decode())}"
            return b"" if now - self._created.get(key, -seconds) < seconds else found[0]

        with self._lock:
            return CONTENTS.sub(kept, body)


@contextmanager
def s3_proxy(upstream: str, rules: Sequence[Rule] = ()) -> Iterator[S3Proxy]:
    """Run a proxy on a free port of loopback, in threads of this process."""
    proxy = S3Proxy(upstream, tuple(rules))
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with _Server(("127.0.0.1", 0), handler) as server:
        proxy.endpoint_url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Clients keep their connections open: waiting for the threads would wait for them.
    block_on_close = False
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    proxy: S3Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def handle(self) -> None:
        """Serve a connection until either side has had enough of it."""
        # A lost client is what some of the faults are about, and no news.
        with suppress(ConnectionError, TimeoutError):
            super().handle()

    def _serve(self) -> None:
        body = self._body()
        rule = self.proxy.strike(self.command, self.path)
        fault = rule.fault if rule else ""
        if fault in REFUSALS:
            self._refuse(*REFUSALS[fault])
            return
        if fault == "lose_request":
            self._hang_up()
            return
        if rule is not None and fault == "delay":
            time.sleep(rule.seconds)
        status, headers, data = self._forward(body)
        if self.command in ("PUT", "POST") and status == 200:
            self.proxy.note(self.path)
        if fault == "lose_reply":
            self._hang_up()
            return
        if rule is not None and fault == "list_late":
            data = self.proxy.without_young(self.path, data, rule.seconds)
        self._answer(status, headers, data, cut=fault == "cut_body")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815  (http.server's names)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        host = urlsplit(self.proxy.upstream).netloc
        connection = http.client.HTTPConnection(host, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in HOP | {"content-length"}:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP | {"content-length"}:
                self.send_header(name, value)
        told = next((v for k, v in headers if k.lower() == "content-length"), "0")
        length = told if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        if cut:
            self.wfile.write(data[: len(data) // 2])
            self._hang_up()
        elif self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>later</Message></Error>"
        self._answer(status, [("Content-Type", "application/xml")], text.encode(), cut=False)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
