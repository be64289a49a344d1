import pickle
from typing import Any

import pytest

from tokenmill_schemas import errors
from tokenmill_schemas.errors import AssetError, ConflictError, JobError, Reason, TokenmillError

MADE: list[TokenmillError] = [
    TokenmillError("plain"),
    JobError("is wrong", path="view.size"),
    JobError("is wrong"),
    errors.CheckpointError("lacks keys", path="tokenizer.checkpoint"),
    AssetError(Reason.TRUNCATED, "cut off", uri="s3://a/b.jpg", stage="decode"),
    errors.QualityError("12 dB, the limit is 20"),
    errors.TransientError("try later"),
    errors.StoreError("is gone", uri="/store"),
    ConflictError("lost", uri="/store", asked=3, found=4),
    errors.CorruptShardError("flipped", uri="/store"),
    errors.FingerprintError("other kind", uri="/store"),
    errors.FormatVersionError("newer", uri="/store"),
    errors.SnapshotNotFoundError("none", uri="/store"),
]


@pytest.mark.parametrize("error", MADE, ids=lambda e: type(e).__name__)
def test_an_error_survives_pickling_with_all_it_says(error: TokenmillError) -> None:
    """Type, message and attributes are the same on the other side of a process."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)


def test_every_error_is_pickled_here() -> None:
    """A new kind of error has to be added to the list above."""
    kinds = {
        v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, TokenmillError)
    }
    assert kinds == {type(error) for error in MADE}


@pytest.mark.parametrize(
    ("kind", "parent"),
    [
        ("JobError", "TokenmillError"),
        ("CheckpointError", "JobError"),
        ("AssetError", "TokenmillError"),
        ("QualityError", "TokenmillError"),
        ("TransientError", "TokenmillError"),
        ("StoreError", "TokenmillError"),
        ("ConflictError", "StoreError"),
        ("CorruptShardError", "StoreError"),
        ("FingerprintError", "StoreError"),
        ("FormatVersionError", "StoreError"),
        ("SnapshotNotFoundError", "StoreError"),
    ],
)
def test_the_tree_says_who_must_act(kind: str, parent: str) -> None:
    """Callers catch by branch, so a kind that moves breaks them."""
    assert getattr(errors, kind).__base__ is getattr(errors, parent)


def test_a_job_errors_message_starts_with_its_path() -> None:
    """So does a store's with its uri; without one there is no prefix."""
    assert str(JobError("is wrong", path="a")) == "a: is wrong"
    assert str(JobError("is wrong")) == "is wrong"
    assert str(errors.StoreError("gone", uri="/s")) == "/s: gone"


def test_reasons_are_plain_words() -> None:
    """They are stored in tables and typed on command lines."""
    values: list[Any] = list(Reason)
    assert len(set(values)) == len(values)
    assert all(value == str(value) and value.replace("_", "").isalpha() for value in values)
