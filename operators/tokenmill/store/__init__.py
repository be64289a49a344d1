"""Versioned token stores: plans, receipts, snapshots, verification."""

from tokenmill.store.commit import Commit
from tokenmill.store.identity import Identity
from tokenmill.store.store import Store
from tokenmill.store.version import Version

__all__ = ["Commit", "Identity", "Store", "Version"]
