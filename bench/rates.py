"""The lines that offer payments at rates: open-2000, accept, settle, cpu, slow."""

import threading
import time
from statistics import median

from bench import progress, proof
from bench.line import Outcome, Value, at_least, at_most
from bench.offer import charged, offer
from bench.search import highest, mostly
from bench.stack import Stack

# What processors take that answer at once, in milliseconds, unless the line is about slow ones.
QUICK_MS = 1
# Payments per second, and for how long, before anything is measured: pools, plans and caches are
# warm then.
WARM_RATE, WARM_S = 500, 3
# Payments per second at which CPU is counted, and what one may cost at each, in microseconds.
CPU_RATES = {1_500: 220, 6_000: 130}
# How often each rate has its turn there, and how long that is: one and the same costs 185 and 220
# us in two minutes.
CPU_TURNS, CPU_S = 7, 10
# How long a stack is looked at that has nothing to do.
IDLE_S = 10
# How long a rate is tried while the highest one is searched.
TRY_S = 8
# A queue is kept up with if what is open at the end of the load came in the last part of a second.
KEPT_UP_S = 0.5
# How many rates are tried for the whole time, each this share of the one before.
CONFIRMATIONS, LOWERED = 8, 0.94


class Bench:
    """A stack under measurement, with the ledgers of all that is offered to it."""

    def __init__(self, setting, name, **stack):
        self.folder = setting.folder / name
        self.stack = Stack(setting.groups, self.folder / "logs", **stack)
        self.files = []
        # What was measured: all that was offered, but for the warm-up.
        self.offers = []

    def __enter__(self):
        self.stack.__enter__()
        self.started = round(time.time() * 1000)
        self.offer(WARM_RATE, WARM_S)
        self.offers.clear()
        return self

    def __exit__(self, *error):
        self.stack.__exit__(*error)

    def offer(self, rate, seconds):
        """Offers a load that the audit will know of."""
        file = self.folder / f"posted-{len(self.files)}.csv"
        self.files.append(file)
        done = offer(self.stack, rate, seconds, file)
        self.offers.append(done)
        return done

    def outcome(self, values, **more):
        """The outcome of the line, with its audit."""
        self.stack.note_memory()
        found = proof.audit(self.stack, proof.read_posted(self.files), self.started)
        for file in self.files:
            file.unlink()
        return Outcome(values, [found], memory_mb=dict(self.stack.memory_mb), **more)


def open_2000(setting):
    """Latency at a steady 2,000 payments a second."""
    with Bench(setting, "open-2000", delay_ms=QUICK_MS) as bench:
        load = bench.offer(2_000, setting.seconds or 30)
        values = [
            at_most("POST p99 at 2,000/s", load.p99_ms, 1.5, "ms"),
            Value("POST p50 at 2,000/s", load.result["p50_ms"], "ms"),
        ]
        return bench.outcome(values, notes=[load.words()])


def accept(setting):
    """The highest rate that is accepted and committed with p99 of 20 ms or less, in two of three tries."""
    limit_ms = 20
    with Bench(setting, "accept", delay_ms=QUICK_MS) as bench:

        def holds(rate):
            load = bench.offer(rate, setting.seconds or TRY_S)
            return load.all_accepted and load.p99_ms <= limit_ms

        rate = search(setting, 6_000, mostly(holds))
        return bench.outcome(
            [at_least("accepted and committed, p99 <= 20 ms", rate, 12_000, "/s")],
            notes=[load.words() for load in bench.offers],
            charts=[
                (
                    "scatter",
                    "accept: p99 against the rate offered",
                    "offered per second",
                    "p99 ms",
                    [(load.rate, load.p99_ms) for load in bench.offers],
                )
            ],
        )


def settle(setting):
    """The highest rate that is settled as it comes, over a minute."""
    with Bench(setting, "settle", delay_ms=QUICK_MS) as bench:

        def holds(rate, seconds=TRY_S):
            load = bench.offer(rate, seconds)
            return load.all_accepted and load.settled >= load.accepted - rate * KEPT_UP_S

        rate = search(setting, 3_000, holds)
        sustained = 0
        for _ in range(confirmations(rate, setting.rate)):
            if holds(rate, setting.seconds or 60):
                sustained = rate
                break
            rate = round(rate * LOWERED / 100) * 100
        best = max((load.settled / load.seconds for load in bench.offers), default=0)
        longest = max(load.seconds for load in bench.offers)
        whole = max(load.settled / load.seconds for load in bench.offers if load.seconds == longest)
        return bench.outcome(
            [
                at_least(
                    "settled end to end, sustained",
                    sustained,
                    8_000,
                    "/s",
                    ">= 8,000 /s, then 12,000",
                ),
                Value(f"settled at most in {longest} s, kept up with or not", round(whole), "/s"),
                Value("settled at most, the queue growing", round(best), "/s"),
            ],
            notes=[load.words() for load in bench.offers],
            charts=[
                (
                    "scatter",
                    "settle: settled against offered",
                    "offered per second",
                    "settled per second",
                    [(load.rate, load.settled / load.seconds) for load in bench.offers],
                )
            ],
        )


def confirmations(rate, asked):
    """How many rates are tried for the whole time: the one that was asked for, and none where nothing could be kept up with."""
    if not rate:
        return 0
    return 1 if asked else CONFIRMATIONS


def search(setting, first, holds):
    """The highest rate, or what is true of the one that was asked for."""
    if setting.rate:
        return setting.rate if holds(setting.rate) else 0
    return highest(first, holds)


def cpu(setting):
    """CPU of the box per settled payment, at each rate in turn, and at rest."""
    rates, seconds = [setting.rate] if setting.rate else list(CPU_RATES), setting.seconds or CPU_S
    turns = setting.turns or CPU_TURNS
    with Bench(setting, "cpu", delay_ms=QUICK_MS) as bench:
        before = bench.stack.cpu_s()
        progress.wait("idle", IDLE_S)
        idle = {
            part: (now - before[part]) / IDLE_S * 100 for part, now in bench.stack.cpu_s().items()
        }
        progress.say(
            "  at rest, % of one CPU: "
            + ", ".join(f"{part} {share:.1f}" for part, share in idle.items())
        )
        for turn in range(1, turns + 1):
            progress.say(f"  turn {turn} of {turns}")
            for rate in rates:
                bench.offer(rate, seconds)
        values, bars = [], {}
        for rate in rates:
            split, total = middle(
                [load.us_per_payment for load in bench.offers if load.rate == rate]
            )
            what = f"CPU per settled payment at {rate:,}/s, the median of {turns} turns"
            values.append(
                at_most(what, total, CPU_RATES[rate], "us")
                if rate in CPU_RATES
                else Value(what, total, "us")
            )
            values += of_that(split, "us")
            bars[f"{rate:,}/s"] = split
        values.append(Value("CPU of the stack at rest", sum(idle.values()), "% of one CPU"))
        values += of_that(idle, "% of one CPU")
        notes = [load.words() for load in bench.offers]
        return bench.outcome(
            values,
            notes=notes,
            charts=[("bars", "cpu: microseconds of CPU per settled payment", "us", bars)],
        )


def of_that(parts, unit):
    """What each part of the box has of a value."""
    return [Value(f"of that {part}", value, unit) for part, value in parts.items()]


def middle(turns):
    """The medians of what each part of the box took in several turns, and of what all took together."""
    return {part: median(turn[part] for turn in turns) for part in turns[0]}, median(
        sum(turn.values()) for turn in turns
    )


def slow(setting):
    """What is settled with processors that take a second."""
    seconds, warm_s, rate = setting.seconds or 30, 10, setting.rate or 1_600
    with Bench(setting, "slow", delay_ms=QUICK_MS) as bench:
        for name in bench.stack.processors:
            bench.stack.admin(name, "PUT", "configurations/delay", {"delay": 1000})
        counts = []

        def look():
            counts.append((time.monotonic(), bench.stack.settled()))

        looks = [threading.Timer(at_s, look) for at_s in (warm_s, warm_s + seconds)]
        for timer in looks:
            timer.start()
        bench.offer(rate, warm_s + seconds + 1)
        for timer in looks:
            timer.join()
        (begin, before), (end, after) = counts
        values = [
            at_least(
                f"settled by {name}, which takes 1,000 ms",
                (after[name] - before[name]) / (end - begin),
                600,
                "/s",
            )
            for name in before
        ]
        return bench.outcome(
            values,
            notes=[f"{rate}/s offered; {charged(before, after)} settled in {end - begin:.1f} s"],
        )
