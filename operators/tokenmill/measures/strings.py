"""How much of a text comes back: edit distance and longest common subsequence."""

from __future__ import annotations


def edit_distance(one: str, other: str) -> int:
    """Return the fewest insertions, deletions and replacements that make one text the other.

    Levenshtein (1966), by the rows of Wagner and Fischer (1974).
    """
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def common_length(one: str, other: str) -> int:
    """Return the length of the longest sequence of characters that both have in their order."""
    row = [0] * (len(other) + 1)
    for a in one:
        before = 0
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], before + 1 if a == b else max(row[j], row[j - 1])
    return row[-1]
