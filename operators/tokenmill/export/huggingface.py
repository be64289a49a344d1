"""A Hugging Face dataset: a folder that ``datasets.load_dataset`` opens, with its card.

    README.md                      the card: features, splits and configuration in its YAML head
    data/train-00000.parquet ...   as the format ``parquet`` has them

It is written without ``datasets``; https://huggingface.co/docs/hub/datasets-cards and the library's
``Features`` say what the head means. A folder on the Hub is such a folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from tokenmill.export.base import FILE_BYTES, Target, check_file_bytes, nothing
from tokenmill.export.samples import Samples, plain_dtype, plain_schema
from tokenmill.export.tables import Tables, described, plain_batches
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Stream

_NAMES = {"halffloat": "float16", "float": "float32", "double": "float64"}


@dataclass(frozen=True, slots=True)
class HuggingFaceExporter:
    """Writes one split of Parquet files of about ``file_bytes`` before compression."""

    split: str = "train"
    file_bytes: int = FILE_BYTES
    again: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_file_bytes(self.file_bytes)

    def write(self, samples: Samples, target: Target) -> int:
        """Write all samples and return how many.

        Raises:
            JobError: there are none, the split has no name, or a column has no feature.
        """
        if not self.split.isidentifier():
            raise JobError(f"{self.split!r} is no name of a split", path="format.split")
        schema = described(samples)
        features = list(_features(plain_schema(samples.layout)))
        name = f"data/{self.split}-{{:05d}}.parquet".format
        size = 0
        with Tables(target, schema, name, self.file_bytes) as tables:
            for batch in plain_batches(samples, schema):
                tables.write(batch)
                size += batch.nbytes
        rows = sum(tables.rows)
        if not rows:
            raise nothing()
        head = _head(features, self.split, (rows, size, target.written_bytes))
        target.put("README.md", _card(samples, head, rows).encode())
        return rows


PLUGIN = HuggingFaceExporter


def _head(features: list[str], split: str, sizes: tuple[int, int, int]) -> str:
    rows, memory, disk = sizes
    lines = ["dataset_info:", "  features:", *(f"  {line}" for line in features)]
    lines += ["  splits:", f"  - name: {split}", f"    num_bytes: {memory}"]
    lines += [f"    num_examples: {rows}", f"  download_size: {disk}", f"  dataset_size: {memory}"]
    lines += ["configs:", "- config_name: default", "  data_files:"]
    lines += [f"  - split: {split}", f"    path: data/{split}-*"]
    return "\n".join(["---", *lines, "---", ""])


def _features(schema: pa.Schema) -> Iterator[str]:
    for field in schema:
        yield f"- name: {json.dumps(field.name)}"
        yield from (f"  {line}" for line in _feature(field.name, field.type))


def _feature(name: str, kind: pa.DataType) -> Iterator[str]:
    """Yield the YAML of a feature; JSON strings are YAML."""
    if pa.types.is_struct(kind):
        yield "struct:"
        yield from _features(pa.schema(list(kind)))
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        # "sequence" is what versions of datasets before 4 say too; of structs it means another
        # thing, a struct of lists.
        yield "list:" if pa.types.is_struct(kind.value_type) else "sequence:"
        inner = list(_feature(name, kind.value_type))
        if inner[0] == "struct:":
            yield from inner[1:]
        else:
            yield from (f"  {line}" for line in inner)
        if pa.types.is_fixed_size_list(kind):
            yield f"length: {kind.list_size}"
    elif pa.types.is_nested(kind):
        raise JobError(f"column {name!r}: {kind} is no feature of a dataset", path="format")
    else:
        yield f"dtype: {json.dumps(_NAMES.get(str(kind), str(kind)))}"


def _card(samples: Samples, head: str, rows: int) -> str:
    snapshot = samples.version.snapshot
    lines = [
        f"# {rows:,} samples of visual tokens",
        "",
        f"Version {snapshot.number} of a tokenmill store (content `{snapshot.content_id}`, "
        f"fingerprint `{snapshot.fingerprint}`).",
        *([f"Only samples with `{samples.where.text}`."] if samples.where else []),
        "",
        "| stream | kind | shape | type | ids |",
        "|---|---|---|---|---|",
        *(_row(stream) for stream in samples.layout.spec.streams),
        "",
        "A stream is a flat list in C order: reshape it to its shape, or to `<stream>.shape` where",
        "that varies. The full token spec is in the Parquet schema's metadata, `tokenmill.spec`.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'dataset = load_dataset("path/to/this/folder").with_format("numpy")',
        "```",
    ]
    return head + "\n" + "\n".join(lines) + "\n"


def _row(stream: Stream) -> str:
    shape = " x ".join("any" if size is None else str(size) for size in stream.shape)
    ids = ", ".join(map(str, stream.vocab_sizes))
    return f"| {stream.name} | {stream.kind} | {shape} | {plain_dtype(stream)} | {ids} |"
