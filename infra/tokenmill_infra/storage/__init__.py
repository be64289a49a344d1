"""Bytes: one small interface over fsspec, with exclusive create and one retry policy."""
