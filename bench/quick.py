"""`make bench QUICK=1`: the main lines of what `make run` starts, beside what our machine came to."""

import json
from dataclasses import asdict

from bench.report import number
from bench.stack import REPOSITORY

# Our figures; `make bench QUICK=record` writes them.
OURS = REPOSITORY / "bench" / "ours.json"
# The lines that are measured, and how: five minutes in all.
LINES, SECONDS, TURNS = "open-2000 accept settle cpu start", 5, 1
# Columns of the longest bar.
WIDTH = 40
# A detail of the value above it.
DETAIL = "of that"


def figures(about, outcomes):
    """What of a run is compared with another."""
    values = [value for outcome in outcomes.values() for value in outcome.values]
    return {
        "about": asdict(about),
        "values": {
            value.what: [value.value, value.unit]
            for value in values
            if not value.what.startswith(DETAIL)
        },
    }


def record(found, file=OURS):
    """Keeps a run as ours."""
    file.write_text(json.dumps(found, indent=2) + "\n")


def ours(file=OURS):
    """What our machine came to; nothing where that was never recorded."""
    return json.loads(file.read_text()) if file.exists() else None


def table(found, ours):
    """This run and ours as a table, and each value as bars that begin at zero."""
    runs = {"here": found} | ({"ours": ours} if ours else {})
    lines = [
        f"- {name}: {run['about']['machine']}, commit {run['about']['commit']}"
        for name, run in runs.items()
    ]
    lines += ["", f"| what | {' | '.join(runs)} |", f"|---|{'---|' * len(runs)}"]
    bars = ["```"]
    for what, (_, unit) in found["values"].items():
        values = {
            name: run["values"][what][0] for name, run in runs.items() if what in run["values"]
        }
        cells = [f"{number(values[name])} {unit}" if name in values else "" for name in runs]
        lines.append(f"| {what} | {' | '.join(cells)} |")
        most = max(value or 0 for value in values.values())
        bars += [f"{what}, {unit}"]
        bars += [
            f"  {name} {'█' * round(WIDTH * (value or 0) / most) if most else ''} {number(value)}"
            for name, value in values.items()
        ]
    return "\n".join([*lines, "", *bars, "```"]) + "\n"
