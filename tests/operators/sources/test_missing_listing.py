from pathlib import Path

import pytest

from tokenmill.sources.places import open_file
from tokenmill_schemas.errors import JobError


def test_a_missing_listing_is_named_once(tmp_path: Path) -> None:
    """Object stores answer with a bare key, which tells nobody what is wrong with it."""
    for url in (f"{tmp_path}/none.jsonl", "memory://bucket/none.jsonl"):
        with pytest.raises(JobError) as caught:
            open_file(url, {})
        assert str(caught.value) == f"source.urls: there is nothing at {url}"
