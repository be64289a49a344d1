"""The bytes of shards: memory maps, range reads, and the cache that a node's processes share."""
