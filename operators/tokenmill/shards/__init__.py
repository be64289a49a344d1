"""Shard files: columns to bytes and back; one module a format."""
