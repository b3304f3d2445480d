"""The line that measures what it costs to be watched: watched."""

import csv
import os
import statistics
import threading
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from bench.child import Broken
from bench.line import Value, at_least, at_most
from bench.offer import charged
from bench.pairs import cost, interval
from bench.proof import percentile
from bench.rates import QUICK_MS, Bench
from bench.stack import INSTANCES, UnixConnection

# Payments per second: what latency is looked at with, and more than the box can do, which shows what it can.
RATE, TOO_MANY = 2_000, 14_000
# Watched and not in turns within one load, in seconds, so that what else goes on on the machine meets both. The first
# part of a turn does not count: pages are opened and closed in it, and the first snapshot is a larger one.
TURN_S, SETTLING_S = 4, 1
# As observability/prometheus.yml says.
SCRAPE_S = 5
# Viewers of the live page of each instance.
VIEWERS = 2
# How long an instance has for a scrape or for the next snapshot, in seconds.
PATIENCE_S = 10
# What being watched may cost, in per cent.
LIMIT = 3


@dataclass
class Turn:
    """What was seen in one turn."""

    watched: bool
    # Milliseconds since 1970.
    begin_ms: float
    end_ms: float
    # CPU seconds of the box.
    cpu_s: float
    # Payments that the processors charged.
    settled: int
    # Payments that were answered with 202, and what those took that were due in it, in ms.
    accepted: int = 0
    taken_ms: list = field(default_factory=list)

    @property
    def payments(self):
        """One for each that was accepted and settled: half of it is done by either."""
        return (self.accepted + self.settled) / 2

    def took_ms(self, share):
        """What that share of the payments took at most."""
        return percentile(self.taken_ms, share)

    @property
    def per_s(self):
        """Payments per second."""
        return self.payments / (self.end_ms - self.begin_ms) * 1e3

    @property
    def us_per_payment(self):
        """CPU of the box."""
        return self.cpu_s / self.payments * 1e6


def not_more(what, more):
    """What may not grow."""
    return at_most(what, more, LIMIT, "% more")


def not_less(what, more):
    """What may not fall."""
    return at_least(what, more, -LIMIT, "% more")


# What is compared of a steady load, and of one that is too much: its name, unit and value in a turn, and what it may do.
LATENCY = (
    ("POST p99", "ms", lambda turn: turn.took_ms(0.99), not_more),
    ("POST p50", "ms", lambda turn: turn.took_ms(0.5), not_more),
    ("CPU per payment", "us", lambda turn: turn.us_per_payment, not_more),
)
THROUGHPUT = (("payments", "per second", lambda turn: turn.per_s, not_less),)


def watched(setting):
    """What metrics and the live page in use cost, as a share of what it is without them."""
    rate, seconds = setting.rate or RATE, setting.seconds or 300
    with Bench(setting, "watched", delay_ms=QUICK_MS) as bench:
        values, notes, looks = [], [], 0
        for offered, compared in ((rate, LATENCY), (TOO_MANY, THROUGHPUT)):
            load, turns, seen = take_turns(bench, offered, seconds)
            looks += seen
            notes.append(load.words())
            pairs = in_pairs(turns)
            for what, unit, of, judged in compared:
                measured = [(of(alone), of(under_watch)) for alone, under_watch in pairs]
                more, (low, high) = cost(measured), interval(measured)
                alone, under_watch = (statistics.median(of_kind) for of_kind in zip(*measured))
                values.append(judged(f"{what} at {offered:,}/s, watched against not, in {len(pairs)} pairs of turns", more))
                notes.append(f"{what} at {offered:,}/s: {alone:.3g} {unit} alone, {under_watch:.3g} watched, the medians; {more:+.1f} %, 95 in 100 times between {low:+.1f} and {high:+.1f} %")
        if not looks:
            raise Broken("nobody could look")
        values.append(Value("snapshots and scrapes served", looks, ""))
        return bench.outcome(values, notes=notes)


def take_turns(bench, rate, seconds):
    """Watches and does not, while a load goes on. Returns the load, the whole turns, and how often was looked."""
    stack, turns, looks, over = bench.stack, [], 0, threading.Event()

    def watch_and_not():
        nonlocal looks
        while not over.is_set():
            # The second pair begins as the first one ends, and so on: what rises or falls evenly meets both alike.
            kind = len(turns) % 4 in (1, 2)
            with watching(stack) if kind else nullcontext(lambda: 0) as count:
                over.wait(SETTLING_S)
                begin_s, cpu_s, settled = time.time(), sum(stack.cpu_s().values()), stack.settled()
                over.wait(TURN_S - SETTLING_S)
                turn = Turn(kind, begin_s * 1e3, time.time() * 1e3, sum(stack.cpu_s().values()) - cpu_s, charged(settled, stack.settled()))
            looks += count()
            if not over.is_set():
                turns.append(turn)

    with ThreadPoolExecutor(1) as beside:
        turning = beside.submit(watch_and_not)
        # The last reply may be late, and the last payment be settled later.
        end = threading.Timer(seconds, over.set)
        end.start()
        try:
            load = bench.offer(rate, seconds)
        finally:
            end.cancel()
            over.set()
        turning.result()
    tell(bench.files[-1], turns)
    return load, turns, looks


def tell(file, turns):
    """Tells the turns what was posted in them."""
    begins = [turn.begin_ms for turn in turns]

    def turn_of(at_ms):
        place = bisect_right(begins, at_ms) - 1
        return turns[place] if place >= 0 and at_ms < turns[place].end_ms else None

    with open(file, newline="") as lines:
        for _, due_ms, status, micros, _ in csv.reader(lines):
            if status != "202":
                continue
            took_ms = int(micros) / 1e3
            if turn := turn_of(int(due_ms)):
                turn.taken_ms.append(took_ms)
            if turn := turn_of(int(due_ms) + took_ms):
                turn.accepted += 1


def in_pairs(turns):
    """Each two that came one after the other: the one that was not watched, and the other."""
    return [tuple(sorted(pair, key=lambda turn: turn.watched)) for pair in zip(turns[::2], turns[1::2])]


@contextmanager
def watching(stack):
    """Scrapes the metrics of every instance and looks at its live page. Yields how to count the looks."""
    stop, counts = threading.Event(), []

    def look(watch, name):
        # A browser and a Prometheus are on other machines: here they get the CPU that nobody else wants.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        watch(stack, name, stop, counts)

    watchers = [
        threading.Thread(target=look, args=(watch, name))
        for name in INSTANCES
        for watch in [scrape] + [view] * VIEWERS
    ]
    for watcher in watchers:
        watcher.start()
    try:
        yield lambda: len(counts)
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()


def ask(stack, name, path):
    """A call of an instance's operator address; returns the connection and the reply."""
    connection = UnixConnection(stack.folder / f"{name}-operator.sock", PATIENCE_S)
    connection.request("GET", path, headers={"Authorization": f"Bearer {stack.environment['OPERATOR_TOKEN']}"})
    reply = connection.getresponse()
    if reply.status != 200:
        raise OSError(f"GET {path} of {name} answered {reply.status}")
    return connection, reply


def scrape(stack, name, stop, counts):
    """Does what Prometheus does."""
    while not stop.is_set():
        connection, reply = ask(stack, name, "/metrics")
        reply.read()
        connection.close()
        counts.append("/metrics")
        stop.wait(SCRAPE_S)


def view(stack, name, stop, counts):
    """Does what an open page does."""
    connection, reply = ask(stack, name, "/live")
    while not stop.is_set():
        if reply.readline().startswith(b"data:"):
            counts.append("/live")
    connection.close()
