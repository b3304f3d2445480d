"""The line that measures what it costs to be watched: watched."""

import csv
import statistics
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from bench.child import Broken
from bench.line import Value, at_most
from bench.medians import cost, interval
from bench.proof import percentile
from bench.rates import QUICK_MS, Bench
from bench.stack import INSTANCES, UnixConnection

# Watched and not in turns within one load, in seconds, so that what else goes on on the machine meets both. The first
# part of a turn does not count: pages are opened and closed in it, and the first snapshot is a larger one.
TURN_S, SETTLING_S = 6, 1
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
    # CPU of the box per payment that was due, in microseconds.
    cpu_us: float


def watched(setting):
    """What metrics and the live page in use cost, as a share of what it is without them."""
    rate, seconds = setting.rate or 1_000, setting.seconds or 300
    with Bench(setting, "watched", delay_ms=QUICK_MS) as bench, ThreadPoolExecutor(1) as beside:
        over = threading.Event()
        turning = beside.submit(take_turns, bench.stack, rate, over)
        try:
            load = bench.offer(rate, seconds)
        finally:
            over.set()
        turns, looks = turning.result()
        if not looks:
            raise Broken("nobody could look")
        by_second = latencies(bench.files[-1], turns)
        values, notes = [], [load.words()]
        for what, of in (
            ("CPU per payment", [[turn.cpu_us for turn in turns if turn.watched == kind] for kind in (False, True)]),
            ("POST p99 of a second", [[percentile(taken, 0.99) for taken in by_second[kind]] for kind in (False, True)]),
            ("POST p50 of a second", [[percentile(taken, 0.5) for taken in by_second[kind]] for kind in (False, True)]),
        ):
            low, high = interval(*of)
            values.append(at_most(f"{what}, watched against not, the medians", cost(*of), LIMIT, "% more"))
            alone, under_watch = map(statistics.median, of)
            notes.append(f"{what}: {alone:.3g} alone, {under_watch:.3g} watched; {len(of[0])} and {len(of[1])} values; 95 in 100 times between {low:+.1f} and {high:+.1f} %")
        values.append(Value("snapshots and scrapes served", looks, ""))
        return bench.outcome(values, notes=notes)


def take_turns(stack, rate, over):
    """Watches and does not, until the load is over. Returns the whole turns, and how often was looked."""
    turns, looks, kind = [], 0, False
    while not over.is_set():
        with watching(stack) if kind else nullcontext(lambda: 0) as count:
            over.wait(SETTLING_S)
            begin_s, cpu_s = time.time(), sum(stack.cpu_s().values())
            over.wait(TURN_S - SETTLING_S)
            end_s, used_s = time.time(), sum(stack.cpu_s().values()) - cpu_s
        looks += count()
        if not over.is_set():
            turns.append(Turn(kind, begin_s * 1e3, end_s * 1e3, used_s / (end_s - begin_s) / rate * 1e6))
        kind = not kind
    return turns, looks


def latencies(file, turns):
    """What the payments of each whole second took, in ms: watched or not -> list of lists."""
    taken = defaultdict(list)
    with open(file, newline="") as lines:
        for _, at_ms, _, micros, _ in csv.reader(lines):
            taken[int(at_ms) // 1000].append(int(micros) / 1000)
    found = {False: [], True: []}
    for turn in turns:
        # Nothing of a second before the turn or after it.
        for second in range(int(turn.begin_ms // 1000) + 1, int(turn.end_ms // 1000)):
            if second in taken:
                found[turn.watched].append(taken[second])
    return found


@contextmanager
def watching(stack):
    """Scrapes the metrics of every instance and looks at its live page. Yields how to count the looks."""
    stop, counts = threading.Event(), []
    watchers = [
        threading.Thread(target=watch, args=(stack, name, stop, counts))
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
