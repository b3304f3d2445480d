"""The line that offers more than can be committed: overload."""

import csv
import time

from bench import box, progress
from bench.line import Value, at_most
from bench.offer import drain, load
from bench.rates import QUICK_MS, TRY_S, Bench
from bench.search import highest
from bench.stack import INSTANCES

# A rate can be committed if all of it is accepted within this time, p99, in milliseconds.
COMMITTED_MS = 100
# What is offered, as a multiple of the highest such rate.
TIMES = 3
# Clients at once. More than the instances let wait, so that it is they who refuse.
CONNECTIONS = 1_800
# How long a client waits for a free connection before it goes away, in milliseconds. The machine
# may not be able to offer as much as is asked of it; what it did not offer is reported.
PATIENCE_MS = 100
# The load that comes right after, which is well served when the service has recovered: payments a
# second, seconds.
LIGHT_RATE, LIGHT_S = 500, 15
# A reply that took longer is none of a service that has recovered, in milliseconds.
WELL_MS = 250
# Statuses that say "not now", and nothing else is to be said.
ACCEPTED, REFUSED = "202", "503"


def overload(setting):
    """Three times what can be committed, for a minute: latency, refusals, memory, and recovery."""
    seconds = setting.seconds or 60
    with Bench(setting, "overload", delay_ms=QUICK_MS) as bench:

        def holds(rate):
            tried = bench.offer(rate, TRY_S)
            return tried.all_accepted and tried.p99_ms <= COMMITTED_MS

        most = setting.rate or highest(3_000, holds)
        before, rss_before = bench.stack.settled(), resident_mb(bench.stack)
        heavy, light = bench.folder / "posted-heavy.csv", bench.folder / "posted-light.csv"
        bench.files += [heavy, light]
        result = load(
            bench.stack,
            most * TIMES,
            seconds,
            heavy,
            "--connections",
            CONNECTIONS,
            "--patience-ms",
            PATIENCE_MS,
        )
        over, rss_after = time.time(), resident_mb(bench.stack)
        after = load(bench.stack, LIGHT_RATE, LIGHT_S, light)
        recovery_s = recovered(light, over)
        drained = drain(bench.stack, before, result["accepted"] + after["accepted"])
        statuses = result["statuses"]
        refused, posted = statuses.get(REFUSED, 0), result["posted"]
        others = posted - result["accepted"] - refused
        said = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
        progress.say(
            f"  {most * TIMES}/s for {seconds} s: {said}; {result['skipped']} not posted; recovery {recovery_s:.1f} s"
        )
        return bench.outcome(
            [
                Value(f"committed at most, p99 <= {COMMITTED_MS} ms", most, "/s"),
                Value("posted", posted / seconds, "/s", f"{most * TIMES} offered"),
                Value("accepted", result["accepted"] / seconds, "/s"),
                Value("refused with 503", refused / posted * 100, "% of the posted"),
                at_most(
                    "neither accepted nor refused: timeouts, lost connections, other errors",
                    others,
                    0,
                    "payments",
                ),
                Value(
                    "p50 of the accepted, from when they were due", result["accepted_p50_ms"], "ms"
                ),
                at_most(
                    "p99 of the accepted, from when they were due",
                    result["accepted_p99_ms"],
                    1_000,
                    "ms",
                ),
                *(
                    Value(
                        f"resident memory of {name}, before and after: grew by",
                        rss_after[name] - rss_before[name],
                        "MB",
                    )
                    for name in INSTANCES
                ),
                at_most("until all is accepted within 250 ms again", recovery_s, 5, "s"),
            ],
            notes=[
                f"statuses {said}; {result['skipped']} of {most * TIMES * seconds} were not posted, because all {CONNECTIONS} connections were taken for {PATIENCE_MS} ms",
                f"resident memory in MB before {words(rss_before)}, after {words(rss_after)}",
                *([] if drained else ["what was accepted was NOT SETTLED in time"]),
            ],
        )


def resident_mb(stack):
    """Of each instance, now."""
    return {name: box.status_kb(stack.children[name].pid, "VmRSS") / 1024 for name in INSTANCES}


def words(sizes):
    return ", ".join(f"{name} {size:.0f}" for name, size in sizes.items())


def recovered(file, over):
    """Seconds from the end of the load until the last payment that was not served well."""
    last = over
    with open(file, newline="") as lines:
        for _, at, status, micros, _ in csv.reader(lines):
            if status != ACCEPTED or int(micros) / 1000 > WELL_MS:
                last = max(last, int(at) / 1000 + int(micros) / 1e6)
    return last - over
