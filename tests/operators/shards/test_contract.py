from collections.abc import Callable
from pathlib import Path

import pytest

from tokenmill.plugins import kinds
from tokenmill.shards import read_format
from tokenmill.shards.base import ShardFormat
from tokenmill.testing.shards import CHECKS


@pytest.mark.parametrize("kind", kinds("tokenmill.shards"))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_format_keeps_the_contract(
    kind: str, check: Callable[[ShardFormat, Path], None], tmp_path: Path
) -> None:
    """Both forms of a shard pass every check that ships in `tokenmill.testing.shards`."""
    check(read_format(kind), tmp_path)
