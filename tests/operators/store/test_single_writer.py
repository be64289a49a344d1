import threading
import uuid
from dataclasses import dataclass

import pytest

from tokenmill.store import Store
from tokenmill.testing.stores import add_assets, encode_assets, shown
from tokenmill_infra.storage import writing
from tokenmill_infra.storage.objects import ObjectStorage
from tokenmill_schemas.errors import StoreError


@dataclass(frozen=True, slots=True)
class Careless(ObjectStorage):
    """An object store that accepts the condition of a create and ignores it."""

    def create(self, path: str, data: bytes) -> None:
        """Write, whatever is there."""
        self._fs.pipe_file(self._transfer(path, "creating").key, data)


@pytest.fixture
def store() -> Store:
    """A store on such a storage."""
    return Store(Careless(f"memory://{uuid.uuid4().hex}"))


def test_one_writer_after_the_other_loses_nothing(store: Store) -> None:
    """Commits in turn, and a commit amid another one's is refused and comes in later."""
    add_assets(store, {"a": "1"})
    commit = encode_assets(store, {"b": "1"})
    with writing(store.storage), pytest.raises(StoreError, match="one writer at a time"):
        store.commit(commit)
    assert shown(store.at()) == {"a": "1"}
    store.commit(commit)
    assert shown(store.at()) == {"a": "1", "b": "1"}


def test_of_writers_that_race_each_is_refused_or_comes_in(store: Store) -> None:
    """What a commit said to have made is there in the end."""
    commits = {key: encode_assets(store, {key: "1"}) for key in "abcdef"}
    barrier, made = threading.Barrier(len(commits)), set()

    def commit(key: str) -> None:
        barrier.wait()
        try:
            store.commit(commits[key])
        except StoreError:
            return
        made.add(key)

    threads = [threading.Thread(target=commit, args=(key,)) for key in commits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (set(shown(store.at())) if made else set()) == made
    for key in set(commits) - made:
        store.commit(commits[key])
    assert set(shown(store.at())) == set(commits)
