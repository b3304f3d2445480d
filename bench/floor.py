"""The line that measures what lies beneath the others: floor."""

from dataclasses import dataclass

from bench.child import Broken
from bench.line import Value
from bench.offer import drain, measured
from bench.rates import CPU_RATES, QUICK_MS, TRY_S, Bench
from bench.search import highest
from bench.stand_in import bare_nginx, hollow

# The rate at which latency counts, how long it and CPU are measured, and the p99 up to which a rate holds.
LATENCY_RATE, LATENCY_S, CPU_S = 2_000, 30, 20
LIMIT_MS = 20


@dataclass
class Floor:
    """Something less than the service, under the loads of the service."""

    name: str
    # Offers a load: rate, seconds -> what the generator says, with "cpu_us" of the box per post.
    offer: callable

    def values(self, seconds):
        """What posts take, how many there may be, and what each costs."""
        steady = self.offer(LATENCY_RATE, seconds or LATENCY_S)

        def holds(rate):
            tried = self.offer(rate, seconds or TRY_S)
            return tried["accepted"] == tried["posted"] and tried["p99_ms"] <= LIMIT_MS

        most = highest(6_000, holds)
        costs = [(rate, self.offer(rate, seconds or CPU_S)["cpu_us"]) for rate in CPU_RATES]
        return [
            Value(f"{self.name}: POST p99 at {LATENCY_RATE:,}/s", steady["p99_ms"], "ms"),
            Value(f"{self.name}: the highest rate with p99 <= {LIMIT_MS} ms", most, "/s"),
            *(Value(f"{self.name}: CPU of the box per POST at {rate:,}/s", cost, "us") for rate, cost in costs),
        ]


def floor(setting):
    """The loads of open-2000, accept and cpu on less than the service: nothing settled, nothing behind nginx, other nginx behind it."""
    with Bench(setting, "floor", delay_ms=QUICK_MS) as bench:
        stack = bench.stack
        values = Floor("accepted, not settled", lambda rate, seconds: unsettled(bench, rate, seconds)).values(setting.seconds)
        port, file = stack.port, bench.folder / "nobody.csv"
        for name, what, start in (("bare", "a bare nginx", bare_nginx), ("hollow", "nginx before two nginx that answer 202", hollow)):
            stack.port = int(start(stack).rpartition(":")[2])
            values += Floor(what, lambda rate, seconds: measured(stack, rate, seconds, file)).values(setting.seconds)
            stack.stop_nginx(name)
        file.unlink()
        stack.port = port
        return bench.outcome(values, notes=["what is accepted is settled after each load, when it is not measured any more"])


def unsettled(bench, rate, seconds):
    """Offers a load of which nothing is settled before its end."""
    stack, file = bench.stack, bench.folder / f"posted-{len(bench.files)}.csv"
    bench.files.append(file)
    stack.switch(False)
    before = stack.settled()
    result = measured(stack, rate, seconds, file)
    if stack.settled() != before:
        raise Broken("payments were settled with all processors switched off")
    stack.switch(True)
    if not drain(stack, before, result["accepted"]):
        raise Broken("the queue did not empty")
    return result
