"""Benchmarks: measured beside bare loops and peers; ``make bench`` writes results.md."""
