"""Versioned token stores: plans, receipts, snapshots, verification."""

from tokenmill.store.commit import Commit, Identity
from tokenmill.store.store import Store

__all__ = ["Commit", "Identity", "Store"]
