"""Contracts that any source, view, tokenizer or shard format must keep; for our tests and yours."""
