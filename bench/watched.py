"""The line that measures what it costs to be watched: watched."""

import statistics
import threading
from contextlib import contextmanager

from bench.child import Broken
from bench.line import Value, at_most
from bench.rates import QUICK_MS, Bench
from bench.stack import INSTANCES, UnixConnection

# Loads of each kind, in turns, so that what else goes on on the machine meets both.
ROUNDS = 5
# As observability/prometheus.yml says.
SCRAPE_S = 5
# Viewers of the live page of each instance.
VIEWERS = 2
# How long an instance has for a scrape or for the next snapshot, in seconds.
PATIENCE_S = 10
# What being watched may cost, in per cent.
LIMIT = 3


def watched(setting):
    """What metrics and the live page in use cost, as a share of what it is without them."""
    rate, seconds = setting.rate or 2_000, setting.seconds or 15
    with Bench(setting, "watched", delay_ms=QUICK_MS) as bench:
        alone, under_watch, looks = [], [], 0
        for _ in range(ROUNDS):
            alone.append(bench.offer(rate, seconds))
            with watching(bench.stack) as count:
                under_watch.append(bench.offer(rate, seconds))
            looks += count()
        if not looks:
            raise Broken("nobody could look")
        values = [
            at_most(f"{what}, watched against not", cost(of, alone, under_watch), LIMIT, "% more")
            for what, of in (
                ("CPU per payment", lambda load: sum(load.us_per_payment.values())),
                ("POST p99", lambda load: load.p99_ms),
                ("POST p50", lambda load: load.result["p50_ms"]),
            )
        ]
        values.append(Value("snapshots and scrapes served", looks, ""))
        notes = [f"{kind}: {load.words()}" for pair in zip(alone, under_watch) for kind, load in zip(("alone", "watched"), pair)]
        return bench.outcome(values, notes=notes)


def cost(of, alone, under_watch):
    """By how many per cent the median is higher."""
    medians = [statistics.median(map(of, loads)) for loads in (alone, under_watch)]
    return (medians[1] / medians[0] - 1) * 100


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
