import errno
import pickle
from pathlib import Path
from typing import Any

import pytest

from tokenmill_infra.storage.objects import ObjectStorage
from tokenmill_infra.storage.retry import Retry, is_denied, is_lost_race, is_retryable
from tokenmill_schemas.errors import TransientError

botocore = pytest.importorskip("botocore.exceptions")
QUICK = Retry(deadline_s=0.2, first_s=0.001, longest_s=0.01)


def _client_error(status: int, code: str) -> Exception:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = OSError(errno.EIO, code)
    error.__cause__ = botocore.ClientError(response, "PutObject")
    return error


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (_client_error(503, "SlowDown"), True),
        (_client_error(500, "InternalError"), True),
        (_client_error(409, "ConditionalRequestConflict"), True),
        (_client_error(429, "TooMany"), True),
        (_client_error(412, "PreconditionFailed"), False),
        (_client_error(403, "AccessDenied"), False),
        (_client_error(501, "NotImplemented"), False),
        (botocore.EndpointConnectionError(endpoint_url="http://x"), True),
        (botocore.NoCredentialsError(), False),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (FileNotFoundError(), False),
        (ValueError(), False),
    ],
    ids=repr,
)
def test_what_is_retried(error: Exception, retryable: bool) -> None:
    """Passing failures are, refusals are not."""
    assert is_retryable(error) is retryable


def test_a_lost_race_is_known_with_and_without_the_condition_named() -> None:
    """s3fs maps a 412 to FileExistsError for some servers and to EINVAL for others."""
    assert is_lost_race(FileExistsError())
    assert is_lost_race(_client_error(412, "PreconditionFailed"))
    assert not is_lost_race(_client_error(409, "ConditionalRequestConflict"))


def test_missing_credentials_are_a_denial() -> None:
    """No key at all is for the same person to mend as a wrong one."""
    assert is_denied(botocore.NoCredentialsError())
    assert is_denied(PermissionError())
    assert not is_denied(OSError())


def test_a_passing_failure_passes() -> None:
    """The third try's value is returned."""
    left = [TimeoutError(), _client_error(503, "SlowDown")]

    def flaky() -> str:
        if left:
            raise left.pop()
        return "done"

    assert QUICK.call(flaky, what="reading x") == "done"


def test_the_deadline_ends_it_with_the_cause() -> None:
    """The error says what was tried how often, and pickles."""

    def broken() -> None:
        raise _client_error(503, "SlowDown")

    with pytest.raises(TransientError, match=r"reading x failed \d+ times .*SlowDown") as caught:
        QUICK.call(broken, what="reading x")
    assert isinstance(caught.value.__cause__, OSError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_address_where_nobody_answers_is_said_to_be_one() -> None:
    """What to look at, and not what the client was given."""

    def unreached() -> None:
        raise botocore.EndpointConnectionError(endpoint_url="http://user:secret@x")

    with pytest.raises(TransientError, match=r"nobody answers there.*AWS_ENDPOINT_URL") as caught:
        QUICK.call(unreached, what="listing x")
    assert "secret" not in str(caught.value)


def test_a_refusal_is_not_tried_again() -> None:
    """One call, and the error itself."""
    calls = []

    def missing() -> None:
        calls.append(1)
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        QUICK.call(missing, what="reading x")
    assert calls == [1]


def test_waits_stay_within_the_deadline() -> None:
    """Their sum cannot pass it, since none is slept through here."""
    waits = list(zip(range(50), Retry(10.0, 0.1, 2.0).waits(), strict=False))
    assert all(0 <= wait <= min(2.0, 0.1 * 2**i) for i, wait in waits)


class _LosesReplies:
    """A filesystem whose puts are done, and answered with a broken connection the first time."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def pipe_file(self, key: str, data: bytes, mode: str) -> None:
        if key in self.held:
            raise _client_error(412, "PreconditionFailed")
        self.held[key] = data
        raise ConnectionResetError

    def cat_file(self, key: str) -> bytes:
        return self.held[key]

    def put_file(self, local: str, key: str, mode: str) -> None:
        self.pipe_file(key, Path(local).read_bytes(), mode)

    def info(self, key: str) -> dict[str, Any]:
        if key not in self.held:
            raise FileNotFoundError
        return {"type": "file", "size": len(self.held[key])}


@pytest.fixture
def lossy(monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    """A storage on which every first reply is lost."""
    fs = _LosesReplies()
    monkeypatch.setattr("tokenmill_infra.storage.objects.connect", lambda *_: fs)
    return ObjectStorage("s3://bucket/store", retry=QUICK)


def test_a_lost_reply_is_resolved_by_reading_back(lossy: ObjectStorage) -> None:
    """Our own object in the way is success; somebody else's is not."""
    lossy.create("_log/1", b"mine")
    with pytest.raises(FileExistsError):
        lossy.create("_log/1", b"theirs")


def test_a_lost_reply_to_an_upload_is_resolved_by_size(
    lossy: ObjectStorage, tmp_path: Path
) -> None:
    """The shard is there, so the local file goes."""
    local = tmp_path / "shard"
    local.write_bytes(b"12345")
    lossy.create_from("data/1", local)
    assert not local.exists()


def test_an_empty_object_cannot_be_created_exclusively(lossy: ObjectStorage) -> None:
    """Said at once instead of being lost by some stores."""
    with pytest.raises(ValueError, match="empty"):
        lossy.create("a", b"")
