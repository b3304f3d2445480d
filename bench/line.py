"""What a line of the table is, and what it came to."""

from dataclasses import dataclass, field
from typing import Callable


@dataclass
class Value:
    """One measured value beside its target."""

    what: str
    value: float
    unit: str
    target: str = ""
    # None where there is no target.
    reached: bool | None = None


@dataclass
class Outcome:
    """What a line came to."""

    values: list
    # What the audits found: bench.proof.Proof.
    proofs: list = field(default_factory=list)
    # Sentences that the reader has to know.
    notes: list = field(default_factory=list)
    # Charts: see bench/charts.py.
    charts: list = field(default_factory=list)
    # Highest resident memory of an instance, in MB, by instance.
    memory_mb: dict = field(default_factory=dict)


@dataclass
class Line:
    """A line: its name on the command line, what it is about, and how it is measured."""

    name: str
    what: str
    measure: Callable


def at_most(what, value, limit, unit, words=None):
    """A value that is to be at most that."""
    return Value(
        what, value, unit, words or f"<= {limit:g} {unit}", value is not None and value <= limit
    )


def at_least(what, value, limit, unit, words=None):
    """A value that is to be at least that."""
    return Value(
        what, value, unit, words or f">= {limit:,g} {unit}", value is not None and value >= limit
    )
