"""The one retry policy for remote storage: a request of ours is one try of the client's.

s3fs and botocore retry too, five times each by themselves; `remote` and `options` turn that off.

Waits grow exponentially with full jitter (Marc Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015), so that many actors that failed together do not come back together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tokenmill_schemas.errors import TransientError

T = TypeVar("T")

RETRYABLE_STATUS = {408, 425, 429}
RETRYABLE_CODES = {
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
}
#: Connection failures of libraries that may not be installed, known by the names of their classes:
#: botocore's, aiohttp's and requests'.
RETRYABLE_NAMES = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "ProxyConnectionError",
    "ResponseStreamingError",
    "Timeout",
}
#: Of those, that nobody was reached at all: more likely a wrong address than a passing failure.
UNREACHED_NAMES = {"ClientConnectorError", "ConnectTimeoutError", "EndpointConnectionError"}
UNREACHED = "nobody answers there: look at the endpoint (for s3 AWS_ENDPOINT_URL) and the network"
DENIED_NAMES = {"NoCredentialsError", "PartialCredentialsError"}


@dataclass(frozen=True, slots=True)
class Retry:
    """Try for at most ``deadline_s``; waits start at ``first_s`` and double up to ``longest_s``."""

    deadline_s: float = 120.0
    first_s: float = 0.1
    longest_s: float = 10.0

    def waits(self) -> Iterator[float]:
        """Yield the waits between tries, in seconds, until the deadline would be passed."""
        end = time.monotonic() + self.deadline_s
        longest = self.first_s
        while True:
            wait = random.uniform(0, longest)
            if time.monotonic() + wait >= end:
                return
            yield wait
            longest = min(2 * longest, self.longest_s)

    def call(self, function: Callable[[], T], *, what: str) -> T:
        """Return ``function()``, tried again as long as it fails for passing reasons.

        ``what`` names the request for the error's message.

        Raises:
            TransientError: it still failed at the deadline; the last failure is its cause.
        """
        tries = 1
        waits = self.waits()
        while True:
            try:
                return function()
            except Exception as error:
                if not is_retryable(error):
                    raise
                wait = next(waits, None)
                if wait is None:
                    # The kind only: a client's message may quote the request, keys and all.
                    kind = f"{type(error).__name__}{code_of(error) and f' ({code_of(error)})'}"
                    raise TransientError(
                        f"{what} failed {tries} times in {self.deadline_s:g} s, at last with "
                        f"{kind}{f'; {UNREACHED}' * is_unreached(error)}"
                    ) from error
            time.sleep(wait)
            tries += 1


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its explicit causes."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def response_of(error: BaseException) -> tuple[int, str]:
    """Return the HTTP status and the service's error code that an error carries, 0 and "" if none.

    Reads botocore's ``ClientError.response``, aiohttp's ``status`` and gcsfs' ``code``.
    """
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        metadata: Mapping[str, Any] = response.get("ResponseMetadata", {})
        code = str(response.get("Error", {}).get("Code", ""))
        return int(metadata.get("HTTPStatusCode") or 0), code
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return (status if isinstance(status, int) else 0), ""


def code_of(error: BaseException) -> str:
    """Return the service's error code that an error or one of its causes carries, "" if none."""
    return next((code for e in chain(error) if (code := response_of(e)[1])), "")


def is_retryable(error: BaseException) -> bool:
    """Whether the same request may succeed later: timeouts, broken connections, 5xx, throttling."""
    return any(_is_passing(e) for e in chain(error))


def _is_passing(error: BaseException) -> bool:
    status, code = response_of(error)
    if code == "NotImplemented" or status == 501:
        return False
    return (
        isinstance(error, TimeoutError | ConnectionError)
        or status >= 500
        or status in RETRYABLE_STATUS
        or code in RETRYABLE_CODES
        or any(cls.__name__ in RETRYABLE_NAMES for cls in type(error).__mro__)
    )


def is_lost_race(error: BaseException) -> bool:
    """Whether a conditional create failed because the key is there (HTTP 412).

    s3fs makes a FileExistsError of it only if the service's answer names the condition.
    """
    if isinstance(error, FileExistsError):
        return True
    return any(
        code == "PreconditionFailed" or status == 412
        for status, code in map(response_of, chain(error))
    )


def is_unreached(error: BaseException) -> bool:
    """Whether no connection was made, so that not even a refusal came back."""
    names = {cls.__name__ for e in chain(error) for cls in type(e).__mro__}
    return bool(names & UNREACHED_NAMES)


def is_denied(error: BaseException) -> bool:
    """Whether credentials are missing, wrong or not enough."""
    names = {cls.__name__ for e in chain(error) for cls in type(e).__mro__}
    return isinstance(error, PermissionError) or bool(names & DENIED_NAMES)
