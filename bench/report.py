"""The report: Markdown, the same as JSON, and charts."""

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from bench import charts
from bench.box import MEMORY_MB
from bench.line import Value, at_most
from bench.stack import REPOSITORY, WHOLE

# The line that is beyond what the service is made for.
OVERLOAD = "overload"


@dataclass
class About:
    """Under what circumstances it was measured."""

    commit: str
    machine: str
    box: str
    command: str
    began: str
    load_average: str

    @classmethod
    def of(cls, groups, began: datetime, command):
        """As they are now."""
        describe = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=10"]
        commit = (
            subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
            or "unknown"
        )
        model = next(
            (
                line.split(":", 1)[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.machine(),
        )
        return cls(
            commit=commit,
            machine=f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}",
            box=groups.words(),
            command=command,
            began=f"{began:%Y-%m-%d %H:%M} UTC",
            load_average=" ".join(f"{load:.1f}" for load in os.getloadavg()),
        )


def memory(outcomes):
    """The highest memory over all lines, as values; in overload by itself, which no instance is meant to live in."""

    def highest(chosen, lines=outcomes):
        return max(
            (mb for line in lines for name, mb in outcomes[line].memory_mb.items() if chosen(name)),
            default=None,
        )

    def is_instance(name):
        return name != WHOLE

    instance, whole = (
        highest(is_instance, outcomes.keys() - {OVERLOAD}),
        highest(lambda name: name == WHOLE),
    )
    values = (
        [
            at_most(
                "memory of an instance at its highest, over all lines but overload",
                instance,
                40,
                "MB RSS",
            )
        ]
        if instance
        else []
    )
    if OVERLOAD in outcomes:
        values.append(
            Value(
                "memory of an instance at its highest, in overload",
                highest(is_instance, [OVERLOAD]),
                "MB RSS",
            )
        )
    return values + (
        [
            at_most(
                "memory of the box when looked at, without page cache", whole, MEMORY_MB, "MB PSS"
            )
        ]
        if whole
        else []
    )


def number(value):
    """A value as people read it: three digits that count."""
    if value is None:
        return "none"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def row(value, audit):
    """A line of the table."""
    reached = {True: "yes", False: "**no**", None: ""}[value.reached]
    return f"| {value.what} | {number(value.value)} {value.unit} | {value.target} | {reached} | {audit} |"


def text(about, outcomes, pictures):
    """The report as Markdown."""
    lines = ["# Benchmark", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in asdict(about).items()]
    lines += ["", "| what | value | target | reached | audit |", "|---|---|---|---|---|"]
    for name, outcome in outcomes.items():
        audit = "; ".join(proof.words() for proof in outcome.proofs)
        if not outcome.values and audit:
            lines.append(f"| {name} | | | | {audit} |")
        for index, value in enumerate(outcome.values):
            lines.append(row(value, audit if index == 0 else ""))
    lines += [row(value, "") for value in memory(outcomes)]
    for name, outcome in outcomes.items():
        if outcome.notes:
            lines += ["", f"## {name}", "", *[f"- {note}" for note in outcome.notes]]
        lines += [line for file in pictures.get(name, []) for line in ("", f"![{name}]({file})")]
    return "\n".join(lines) + "\n"


def write(folder, about, chosen, outcomes):
    """Writes all into that folder."""
    pictures = {}
    for line in chosen:
        if line.name in outcomes:
            drawn = enumerate(outcomes[line.name].charts)
            pictures[line.name] = [
                charts.draw(folder / f"{line.name}-{index}.svg", chart) for index, chart in drawn
            ]
    (folder / "report.md").write_text(text(about, outcomes, pictures))
    figures = {
        "about": asdict(about),
        "lines": {name: asdict(outcome) for name, outcome in outcomes.items()},
    }
    (folder / "report.json").write_text(json.dumps(figures, indent=2) + "\n")
