"""The lines about an instance by itself: start, memory."""

from bench.line import Outcome, Value, at_most
from bench.proof import percentile
from bench.rates import QUICK_MS, Bench
from bench.stack import Stack

# How often an instance is started.
STARTS = 15


def start(setting):
    """From the start of an instance until it is ready, on a migrated database."""
    with Stack(setting.groups, setting.folder / "start") as stack:
        times = []
        for _ in range(STARTS):
            stack.stop_instance("api2")
            times.append(stack.start_instance("api2") * 1000)
    return Outcome(
        [
            at_most(f"start until ready, the slowest of {STARTS}", max(times), 300, "ms"),
            Value("of that the median", percentile(times, 0.5), "ms"),
        ]
    )


def memory(setting):
    """The memory of an instance under a burst that it has to queue."""
    with Bench(setting, "memory", delay_ms=QUICK_MS) as bench:
        load = bench.offer(setting.rate or 6_000, setting.seconds or 15)
        return bench.outcome([], notes=[load.words()])
