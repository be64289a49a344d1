"""Versioned token stores: plans, receipts, snapshots, verification."""
