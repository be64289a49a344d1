"""Compaction: many small shards into full-size ones, same samples, same order, a new version."""

from tokenmill.store.compact.change import Compacted, compact
from tokenmill.store.compact.grouping import TARGET_BYTES, Target

__all__ = ["TARGET_BYTES", "Compacted", "Target", "compact"]
