"""The few bytes of tar and npy that the WebDataset form of a shard is made of.

POSIX.1-1988 (ustar) headers with nothing in them that depends on when, where or by whom they were
written; NPY version 1.0 headers padded to 64 bytes. Both are written here rather than by tarfile
and numpy, whose output changes between versions, and read back by position.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

BLOCK = 512
END = bytes(2 * BLOCK)

Headers = npt.NDArray[np.uint8]


def member(name: str, data: bytes, kind: bytes = b"0") -> bytes:
    """Return a tar member: header, data, and zeros up to the next block.

    Raises:
        ValueError: the name has over 100 bytes, or the data 8 GiB or more.
    """
    return header(name, len(data), kind) + data + bytes(-len(data) % BLOCK)


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """Return the header block of a member (mode 0644, owner 0, time 0)."""
    encoded = name.encode()
    if len(encoded) > 100 or size >= 8**11:
        raise ValueError(f"member {name!r} of {size} bytes does not fit a ustar header")
    before = encoded.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2
    before += b"%011o\0" % size + b"00000000000\0"
    after = kind + bytes(100) + b"ustar\00000" + bytes(64 + 16 + 155 + 12)
    total = sum(before) + sum(after) + 8 * 32
    return before + b"%06o\0 " % total + after


def global_comment(text: str) -> bytes:
    """Return a pax global header whose ``comment`` is ``text``: tar readers skip it."""
    body = f" comment={text}\n".encode()
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return member("pax_global_header", str(length).encode() + body, b"g")


def read_global_comment(data: bytes) -> str:
    """Return the text of the record that `global_comment` wrote, given the member's data.

    Raises:
        ValueError: it is something else.
    """
    length, _, rest = data.partition(b" ")
    key, _, text = rest.partition(b"=")
    if not length.isdigit() or int(length) != len(data) or key != b"comment":
        raise ValueError(f"expected a pax comment, found {data[:40]!r}")
    return text[:-1].decode()


def bad_checksums(headers: Headers) -> npt.NDArray[np.intp]:
    """Return the positions of ``uint8[n, 512]`` headers whose checksum is wrong."""
    digits = headers[:, 148:154].astype(np.int64) - ord("0")
    stored = digits @ (8 ** np.arange(5, -1, -1))
    sums = headers.sum(axis=1, dtype=np.int64) - headers[:, 148:156].sum(axis=1, dtype=np.int64)
    return np.flatnonzero(stored != sums + 8 * 32)


@functools.lru_cache(maxsize=4096)
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the NPY 1.0 header of a C-ordered little-endian array."""
    descr = np.dtype(dtype).newbyteorder("<").str
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
