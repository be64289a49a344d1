import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from tokenmill_infra.storage import Entry, Storage, open_storage, writing
from tokenmill_infra.storage.exclusive import LIVES_S, NOTES, WRITERS, has_exclusive_create
from tokenmill_infra.storage.objects import ObjectStorage
from tokenmill_schemas.errors import StoreError


@dataclass(frozen=True, slots=True)
class Careless(ObjectStorage):
    """An object store that accepts the condition of a create and ignores it."""

    def create(self, path: str, data: bytes) -> None:
        """Write, whatever is there."""
        self._fs.pipe_file(self._transfer(path, "creating").key, data)


@pytest.fixture
def careless() -> Careless:
    """An empty one."""
    return Careless(f"memory://{uuid.uuid4().hex}")


def names(storage: Storage, folder: str) -> list[str]:
    """The files of a folder."""
    return [entry.path for entry in storage.list(folder)]


def test_the_answer_is_found_once_and_noted(careless: Careless) -> None:
    """Both answers; the probe's own key is gone, the note stays and is believed."""
    good = open_storage(f"memory://{uuid.uuid4().hex}")
    for storage, answer in ((good, True), (careless, False)):
        assert has_exclusive_create(storage) is answer
        (note,) = names(storage, "")
        assert note.startswith(f"{NOTES}/")
        assert has_exclusive_create(storage) is answer
        assert names(storage, "") == [note]


def test_a_local_disk_is_not_asked(tmp_path: Path) -> None:
    """Links are exclusive; nothing is written."""
    storage = open_storage(str(tmp_path))
    with writing(storage):
        assert names(storage, "") == []


def test_many_may_write_where_creates_are_exclusive() -> None:
    """Nobody announces anything."""
    storage = open_storage(f"memory://{uuid.uuid4().hex}")
    with writing(storage), writing(storage):
        assert names(storage, WRITERS) == []


def test_a_second_writer_is_refused_where_they_are_not(careless: Careless) -> None:
    """With the other's name and what to do; when the first is done it is the next one's turn."""
    told = r"one writer at a time.*process \d+ on .*_writers/"
    with writing(careless):
        with pytest.raises(StoreError, match=told), writing(careless):
            pytest.fail("two writers at once")
        assert len(names(careless, WRITERS)) == 1
    assert names(careless, WRITERS) == []
    with writing(careless):
        pass


def test_a_dead_writer_is_no_obstacle_for_ever(
    careless: Careless, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the storage's clock: an announcement of an hour ago counts no more."""
    careless.create(f"{WRITERS}/dead.json", b'{"host": "gone", "pid": 1}')
    with pytest.raises(StoreError, match="process 1 on gone"), writing(careless):
        pytest.fail("it may still live")
    listed = ObjectStorage.list

    def aged(self: ObjectStorage, prefix: str) -> object:
        for entry in listed(self, prefix):
            age = LIVES_S + 1 if "dead" in entry.path else 0.0
            yield Entry(entry.path, entry.size_bytes, entry.modified - age)

    monkeypatch.setattr(ObjectStorage, "list", aged)
    with writing(careless):
        pass


def test_a_storage_that_lists_too_late_is_refused(
    careless: Careless, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot see itself cannot see the others; its announcement is taken back."""
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStorage, "list", lambda *_: iter(()))
        with pytest.raises(StoreError, match="does not list"), writing(careless, listed_s=0.05):
            pytest.fail("it has not looked")
    assert names(careless, WRITERS) == []
