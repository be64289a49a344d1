"""Column groups: streams, captions or scores that were added to samples without touching shards.

A group has one file beside each data shard that it covers, in the format of that shard and with the
same rows in the same order, so that a sample's place in the one is its place in the other.
"""

from tokenmill.store.groups.change import Added, Covered, add_group, drop_group
from tokenmill.store.groups.files import (
    absent_rows,
    group_table,
    joined_rows,
    rewrite_group_file,
    with_rows,
)
from tokenmill.store.groups.inputs import GroupInput, from_files, from_store, from_table
from tokenmill.store.groups.names import owners
from tokenmill.store.groups.soundness import group_problems

__all__ = [
    "Added",
    "Covered",
    "GroupInput",
    "absent_rows",
    "add_group",
    "drop_group",
    "from_files",
    "from_store",
    "from_table",
    "group_problems",
    "group_table",
    "joined_rows",
    "owners",
    "rewrite_group_file",
    "with_rows",
]
