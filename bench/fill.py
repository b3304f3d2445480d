"""Fills a table with more rows than one statement should write."""

from bench import progress

# Rows that are written at once.
CHUNK = 100_000


def in_chunks(stack, what, rows, statement):
    """Runs a statement for 1..rows in chunks; {first} and {last} stand in it."""
    with stack.groups.lifted(), progress.bar(what, rows) as to:
        for first in range(1, rows + 1, CHUNK):
            last = min(rows, first + CHUNK - 1)
            stack.sql("SET synchronous_commit = off;" + statement.format(first=first, last=last))
            to(last)
