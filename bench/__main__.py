"""Measures the lines of the table and writes the report. `make bench`, or `scripts/bench.sh --help`.

Exit: 0 all audits are clean, whether or not every target is reached; 1 an audit is not, or a line broke;
2 it could not run.
"""

import argparse
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench import (
    backlog,
    box,
    grown,
    logged,
    overload,
    profile,
    progress,
    proof,
    public,
    quick,
    rates,
    report,
    start,
    summary,
)
from bench.box import Groups
from bench.child import Broken
from bench.line import Line, Outcome
from bench.run import Run
from bench.stack import CONTEST, OVERLAY, REPOSITORY

import ledgers  # found on the path that bench.proof extends

MEASURES = {
    "public": public.public,
    "open-2000": rates.open_2000,
    "accept": rates.accept,
    "settle": rates.settle,
    "cpu": rates.cpu,
    "slow": rates.slow,
    "backlog": backlog.backlog,
    "summary": summary.summary,
    "grown": grown.grown,
    "overload": overload.overload,
    "memory": start.memory,
    "start": start.start,
    "logged": logged.logged,
    "profile": profile.profile,
}
LINES = [Line(name, measure.__doc__, measure) for name, measure in MEASURES.items()]


@dataclass
class Setting:
    """What every line is given."""

    groups: Groups
    folder: Path
    # Instead of each line's own, where set.
    seconds: int | None
    rate: int | None
    rows: int | None
    turns: int | None
    # Where k6 is.
    k6: str


def arguments():
    """What can be set; the environment variables are for make."""
    env = os.environ.get
    names = [line.name for line in LINES]
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lines",
        default=env("BENCH_LINES", ""),
        help=f"which lines, separated by white space; all but grown when not given: {' '.join(names)}",
    )
    parser.add_argument(
        "--seconds",
        type=int,
        default=int(env("BENCH_SECONDS") or 0),
        help="how long each measured load lasts, instead of each line's own",
    )
    parser.add_argument(
        "--rate",
        type=int,
        default=int(env("BENCH_RATE") or 0),
        help="the only rate that accept, settle and cpu try, and what overload takes for the most that can be committed, in payments per second",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=int(env("BENCH_ROWS") or 0),
        help="settled payments that summary asks about, instead of 10,000,000, and those of the grown ledger, instead of 100,000,000",
    )
    parser.add_argument(
        "--turns",
        type=int,
        default=int(env("BENCH_TURNS") or 0),
        help="how often public, cpu and grown measure each in turn, instead of each line's own",
    )
    parser.add_argument(
        "--reports",
        type=Path,
        default=REPOSITORY / "target" / "bench",
        help="folder of the reports (target/bench)",
    )
    parser.add_argument("--k6", default="k6", help="the k6 program")
    parser.add_argument(
        "--quick",
        choices=["", "1", "record"],
        default=env("BENCH_QUICK", ""),
        help="the main lines of what `make run` starts, without the box, in five minutes, beside what bench/ours.json has; `record` writes that file",
    )
    given = parser.parse_args()
    if given.quick:
        given.lines = given.lines or quick.LINES
        given.seconds, given.turns = given.seconds or quick.SECONDS, given.turns or quick.TURNS
    # Half an hour and 20 GB of disk are for those who ask for them.
    chosen = given.lines.split() or [name for name in names if name != "grown"]
    if unknown := set(chosen) - set(names):
        parser.error(f"no such line: {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    given.chosen = [line for line in LINES if line.name in chosen]
    return given


def command(given):
    """How to measure the same again."""
    chosen = {
        "LINES": f'"{given.lines}"' if given.lines else "",
        "SECONDS": given.seconds,
        "RATE": given.rate,
        "ROWS": given.rows,
        "TURNS": given.turns,
    }
    if given.quick:
        return f"make bench QUICK={given.quick}"
    overlay = [] if OVERLAY == CONTEST else [f"BENCH_OVERLAY={OVERLAY}"]
    return " ".join(
        [*overlay, "make bench", *(f"{name}={value}" for name, value in chosen.items() if value)]
    )


def main():
    given = arguments()
    outcomes = {}
    try:
        # What `make run` starts has neither a box nor precedence.
        with nullcontext() if given.quick else box.preferred():
            with Run("bench", given.reports, command(given), boxed=not given.quick) as run:
                measure(run, given, outcomes)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    troubles = any(found.troubles for outcome in outcomes.values() for found in outcome.proofs)
    if given.quick:
        found = quick.figures(run.about(), outcomes)
        if given.quick == "record" and not troubles:
            quick.record(found)
        run.publish(quick.table(found, quick.ours()))
    else:
        run.publish()
    return 1 if troubles else 0


def measure(run, given, outcomes):
    """Measures the lines, one after the other."""
    setting = Setting(
        run.groups,
        run.folder,
        given.seconds or None,
        given.rate or None,
        given.rows or None,
        given.turns or None,
        given.k6,
    )
    for line in given.chosen:
        progress.say(f"{line.name}: {line.what}")
        try:
            outcomes[line.name] = line.measure(setting)
        except (Broken, ledgers.Unreadable, OSError) as error:
            # The others may still go, and are worth hours.
            progress.say(f"  BROKEN: {error}")
            outcomes[line.name] = Outcome([], [proof.Proof(0, [f"{line.name} BROKEN: {error}"])])
        # After each line: whoever interrupts has what was measured until then.
        report.write(run.folder, run.about(), given.chosen, outcomes)


if __name__ == "__main__":
    sys.exit(main())
