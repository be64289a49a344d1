"""Requests of many parts: large objects read in ranges, uploaded in parts, listed in pages.

Every part is a request of its own under the retry policy, so that a failure repeats 16 MiB and not
a shard of 256. What only S3's interface can do is asked of s3fs' client; other filesystems get one
request for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tokenmill_infra.storage.retry import Retry, chain, response_of

T = TypeVar("T")

#: Bytes of one range or part, and how many of one object are under way at once: 64 MiB of memory.
PART_BYTES = 16 * 2**20
AT_ONCE = 4
#: S3 takes 10,000 parts of an object.
MOST_PARTS = 9000


@dataclass(frozen=True, slots=True)
class Transfer:
    """One object of a filesystem; ``what`` names it in errors."""

    fs: Any
    key: str
    retry: Retry
    what: str
    part_bytes: int = PART_BYTES

    @property
    def in_parts(self) -> bool:
        """Whether the filesystem is one whose objects are moved in parts."""
        return hasattr(self.fs, "call_s3")

    def call(self, function: Callable[[], T]) -> T:
        """Make one request."""
        return self.retry.call(function, what=self.what)

    def read(self) -> bytes:
        """Return the object's bytes; the first request tells if there need be others."""
        if not self.in_parts:
            return bytes(self.call(lambda: self.fs.cat_file(self.key)))
        try:
            first = self._range(0, self.part_bytes)
        except OSError as error:
            if any(response_of(e)[0] == 416 for e in chain(error)):
                return b""  # of an empty object there is no range
            raise
        if len(first) < self.part_bytes:
            return first
        return first + self.read_range(len(first), self.size())

    def read_range(self, start: int, stop: int | None) -> bytes:
        """Return the half-open range ``[start, stop)`` of the object's bytes."""
        if stop is None:
            return bytes(self.call(lambda: self.fs.cat_file(self.key, start=start)))
        if not self.in_parts or stop - start <= self.part_bytes:
            return self._range(start, stop)
        return b"".join(self._ranges(start, stop))

    def size(self) -> int:
        """Return the object's size in bytes.

        Raises:
            FileNotFoundError: there is none.
            IsADirectoryError: it is a folder.
        """
        if self.in_parts:
            # `info` would go on to look for a folder of that name.
            place = _place(self.fs, self.key)
            head = self.call(lambda: self.fs.call_s3("head_object", **place))
            return int(head["ContentLength"])
        info = self.call(lambda: self.fs.info(self.key))
        if info["type"] != "file":
            raise IsADirectoryError(self.what)
        return int(info["size"])

    def download(self, target: Path) -> None:
        """Write the object to a local file, holding a few parts in memory."""
        if not self.in_parts:
            self.call(lambda: self.fs.get_file(self.key, str(target)))
            return
        with target.open("wb") as file:
            for data in self._ranges(0, self.size()):
                file.write(data)

    def upload(self, local: Path) -> None:
        """Create the object from a local file, on condition that there is none.

        Raises:
            OSError: there is one (`is_lost_race`).
        """
        size = local.stat().st_size
        if self.in_parts and size > self.part_bytes:
            self._upload_parts(local, size)
            return
        put = lambda: self.fs.put_file(str(local), self.key, mode="create")  # noqa: E731
        self.call(put)

    def _range(self, start: int, stop: int) -> bytes:
        return bytes(self.call(lambda: self.fs.cat_file(self.key, start=start, end=stop)))

    def _ranges(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the parts of a range in order, the next ones on their way."""
        step = self.part_bytes
        cuts = [(at, min(at + step, stop)) for at in range(start, stop, step)]
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tokenmill-read") as pool:
            # In rounds: a map over all of them would hold all that was not yet taken.
            for at in range(0, len(cuts), AT_ONCE):
                yield from pool.map(lambda cut: self._range(*cut), cuts[at : at + AT_ONCE])

    def _upload_parts(self, local: Path, size: int) -> None:
        place = _place(self.fs, self.key)
        started = self.call(lambda: self.fs.call_s3("create_multipart_upload", **place))
        place["UploadId"] = started["UploadId"]
        try:
            parts = {"Parts": self._put_parts(local, size, place)}
            complete = lambda: self.fs.call_s3(  # noqa: E731
                "complete_multipart_upload", **place, MultipartUpload=parts, IfNoneMatch="*"
            )
            self._complete(complete)
        except BaseException:
            # What is not aborted stays, unseen, at the bucket's owner's expense.
            with suppress(Exception):
                self.fs.call_s3("abort_multipart_upload", **place)
            raise

    def _complete(self, complete: Callable[[], Any]) -> None:
        try:
            self.call(complete)
        except FileNotFoundError as error:
            # No such upload any more: a try whose reply was lost has completed it.
            raise FileExistsError(f"{self.what}: the upload is complete already") from error

    def _put_parts(self, local: Path, size: int, place: dict[str, str]) -> list[dict[str, Any]]:
        step = max(self.part_bytes, -(-size // MOST_PARTS))
        file = os.open(local, os.O_RDONLY)

        def put(number: int) -> dict[str, Any]:
            body = os.pread(file, step, (number - 1) * step)
            request = lambda: self.fs.call_s3(  # noqa: E731
                "upload_part", **place, PartNumber=number, Body=body
            )
            return {"PartNumber": number, "ETag": self.call(request)["ETag"]}

        try:
            with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tokenmill-write") as pool:
                return list(pool.map(put, range(1, -(-size // step) + 1)))
        finally:
            os.close(file)


def _place(fs: Any, key: str) -> dict[str, str]:
    bucket, name, _ = fs.split_path(key)
    return {"Bucket": bucket, "Key": name}


def list_folder(fs: Any, folder: str, *, retry: Retry, what: str) -> list[dict[str, Any]]:
    """Return what is directly in a folder, as ``fs.ls`` tells it; a bucket is listed by pages."""
    if not hasattr(fs, "call_s3"):
        found: list[dict[str, Any]] = retry.call(lambda: fs.ls(folder, detail=True), what=what)
        return found
    return list(_pages(fs, folder, "/", retry=retry, what=what))


def list_below(fs: Any, folder: str, *, retry: Retry, what: str) -> Iterator[dict[str, Any]]:
    """Yield all files below a folder, in any order; none if there is no such folder."""
    if hasattr(fs, "call_s3"):
        yield from _pages(fs, folder, "", retry=retry, what=what)
        return
    fs.invalidate_cache()
    with suppress(FileNotFoundError):
        yield from retry.call(lambda: fs.find(folder, detail=True), what=what).values()


def _pages(
    fs: Any, folder: str, delimiter: str, *, retry: Retry, what: str
) -> Iterator[dict[str, Any]]:
    bucket, name, _ = fs.split_path(folder)
    request = {"Bucket": bucket, "Prefix": f"{name}/" if name else ""}
    request |= {"Delimiter": delimiter} if delimiter else {}
    more = True
    while more:
        page = retry.call(lambda: fs.call_s3("list_objects_v2", **request), what=what)
        for found in page.get("CommonPrefixes", ()):
            path = f"{bucket}/{found['Prefix'].rstrip('/')}"
            yield {"name": path, "size": 0, "type": "directory"}
        for found in page.get("Contents", ()):
            path = f"{bucket}/{found['Key']}"
            # A key that ends in a slash is a marker that some tools leave for a folder.
            kind = "directory" if path.endswith("/") else "file"
            yield {**found, "name": path, "size": found["Size"], "type": kind}
        more = page.get("IsTruncated", False)
        request["ContinuationToken"] = page.get("NextContinuationToken", "")
