"""Whether a stack that has lived through a day answers as fast as one that has just begun.

Both stand on the machine at the same time and are offered the same rate in turns, so that whatever else the machine
does meets both. Two nights of one stack lie half an hour apart, and a machine that is shared is another by then.
"""

import csv
import statistics
import time
from dataclasses import dataclass

from bench import medians, progress, proof
from bench.offer import drain, load
from bench.rates import QUICK_MS
from bench.stack import Stack

# How often each has its turn, and how long that is, in seconds: at night a turn has enough payments
# for a p99.
TURNS, TURN_S = 40, 5
# What the one may be slower than the other, as a share, and what is no difference however large its
# share, in ms.
TOLERANCE = 0.10
SHARES = {"p50": 0.5, "p99": 0.99}
STEPS_MS = {"p50": 0.2, "p99": 1}


@dataclass
class Latency:
    """What POSTs took in each turn, in ms, by a fresh stack and by the one that has aged."""

    name: str
    fresh: list
    aged: list

    @property
    def medians(self):
        """Of the fresh one and of the aged."""
        return statistics.median(self.fresh), statistics.median(self.aged)

    @property
    def most(self):
        """What the aged one's may be."""
        fresh, _ = self.medians
        return fresh + max(fresh * TOLERANCE, STEPS_MS[self.name])

    @property
    def grew(self):
        """Whether it is slower than it may be."""
        return self.medians[1] > self.most


def compared(run, aged, rate, warm_rate, warm_s):
    """Offers `rate` to a stack and to a fresh one in turns. Returns the latencies, what was posted to the old one, and the fresh one's audit."""
    # Two stacks are more than the box has memory for, and at night neither needs its CPUs.
    with (
        run.groups.lifted(),
        Stack(run.groups, run.folder / "fresh-logs", delay_ms=QUICK_MS) as fresh,
    ):
        started, before = round(time.time() * 1000), [stack.settled() for stack in (fresh, aged)]
        warm = run.folder / "fresh-warm.csv"
        accepted, files = [load(fresh, warm_rate, warm_s, warm)["accepted"], 0], ([], [])
        for turn in range(TURNS):
            for number, stack in enumerate((fresh, aged)):
                files[number].append(run.folder / f"{('fresh', 'aged')[number]}-{turn}.csv")
                accepted[number] += load(stack, rate, TURN_S, files[number][-1])["accepted"]
            progress.say(f"  the day's stack and a fresh one: turn {turn + 1}/{TURNS}")
        for stack, charged, expected in zip((fresh, aged), before, accepted, strict=True):
            drain(stack, charged, expected)
        # What is not settled by now, the audits tell.
        found = proof.audit(fresh, proof.read_posted([warm, *files[0]]), started)
    turns = [[taken_ms(file) for file in taken] for taken in files]
    for file in [warm, *files[0]]:
        file.unlink()
    latencies = [
        Latency(name, *([proof.percentile(taken, share) for taken in of] for of in turns))
        for name, share in SHARES.items()
    ]
    return latencies, files[1], found


def taken_ms(file):
    """What each payment took from when it was due, in ms."""
    with open(file, newline="") as lines:
        return [int(micros) / 1000 for _, _, _, micros, _ in csv.reader(lines)]


def text(latencies):
    """A table of the report."""
    lines = [
        f"## As fast as a fresh one, within {TOLERANCE:.0%}, or within a step",
        "",
        f"The day's stack and one that has just begun, at night, in {TURNS} turns of {TURN_S} s each: the median of all turns.",
        "",
        "| POST | fresh | after the day | at most | difference, 95 in 100 times | |",
        "|---|---|---|---|---|---|",
    ]
    for latency in latencies:
        (fresh, aged), (low, high) = latency.medians, medians.interval(latency.fresh, latency.aged)
        lines.append(
            f"| {latency.name} | {fresh:.2f} ms | {aged:.2f} ms | {latency.most:.2f} ms | {low:+.0f} to {high:+.0f} % | {'**grew**' if latency.grew else ''} |"
        )
    return lines


def troubles(latencies):
    """What is slower than it may be, in words."""
    return [
        f"{latency.name} of POST: {latency.medians[1]:.2f} ms after the day, {latency.medians[0]:.2f} ms of a fresh stack"
        for latency in latencies
        if latency.grew
    ]
