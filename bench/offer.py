"""Offers payments to a stack at a rate, and says what came of it."""

import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass, field

from bench import box, progress
from bench.child import Broken
from bench.stack import PROGRAMS

GENERATOR = PROGRAMS / "examples" / "open_loop"
# How long a queue may take to empty after a load, in seconds.
DRAIN_S = 300
# How often the processors are asked how far it is.
DRAIN_POLL_S = 0.25


@dataclass
class Offer:
    """A load and what came of it."""

    rate: int
    seconds: int
    # What the generator says: counts, percentiles from the moment at which a payment was due.
    result: dict
    # Charged by the processors from the first payment that was due until the last one was.
    settled: int
    # CPU seconds of the box from the start until all was settled: postgres, instances, nginx.
    cpu_s: dict = field(default_factory=dict)
    # From the first payment until all were settled.
    until_settled_s: float = 0.0
    # Share of the machine's CPUs that programs used which are not part of this.
    others: float = 0.0
    # Share of the load's time in which the box stood still, its CPU time being used up.
    throttled: float = 0.0
    # CPU seconds that the host of this machine gave to others during the load: whoever posts waits
    # for them.
    stolen_s: float = 0.0

    @property
    def accepted(self):
        """Payments that were answered with 2xx."""
        return self.result["accepted"]

    @property
    def p99_ms(self):
        """From due to reply."""
        return self.result["p99_ms"]

    @property
    def all_accepted(self):
        """Whether nothing was refused or left unanswered."""
        return self.accepted == self.result["posted"]

    @property
    def us_per_payment(self):
        """CPU of the box per settled payment, in microseconds, by part."""
        return {part: used / self.accepted * 1e6 for part, used in self.cpu_s.items()}

    def words(self):
        """One line for the person that watches."""
        cpu = ", ".join(f"{part} {us:.0f}" for part, us in self.us_per_payment.items())
        refused = (
            ""
            if self.all_accepted
            else f", {self.result['posted'] - self.accepted} NOT ACCEPTED {self.result['statuses']}"
        )
        return (
            f"{self.rate}/s for {self.seconds} s: p50 {self.result['p50_ms']:.2f} p99 {self.p99_ms:.2f} max {self.result['max_ms']:.0f} ms; "
            f"settled meanwhile {self.settled / self.seconds:.0f}/s; CPU us per payment {sum(self.us_per_payment.values()):.0f} ({cpu}); "
            f"throttled {self.throttled:.0%}, others {self.others:.0%}, taken by the host {self.stolen_s * 1000:.0f} ms{refused}"
        )


def generate(stack, rate, seconds, *more):
    """Starts the load generator."""
    command = [
        GENERATOR,
        "--address",
        f"127.0.0.1:{stack.port}",
        "--rate",
        rate,
        "--seconds",
        seconds,
        *more,
    ]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def offer(stack, rate, seconds, posted):
    """Offers a load, waits until it is settled, and accounts for the CPU of the box.

    What was posted is written to the file `posted`, for the audit.
    """
    before = stack.settled()
    cpu, busy, throttled = stack.cpu_s(), box.machine_busy_s(), stack.groups.throttled_s()
    ours = box.cpu_s(trees(stack))
    meanwhile = []

    def at_the_end():
        meanwhile.append(charged(before, stack.settled()))
        stack.note_memory()

    # The generator goes on until the last reply, however late that is; what counts is the offered
    # time.
    look = threading.Timer(seconds, at_the_end)
    begin, stolen = time.monotonic(), box.stolen_s()
    look.start()
    try:
        result = load(stack, rate, seconds, posted)
    except BaseException:
        look.cancel()
        raise
    look.join()
    throttled = stack.groups.throttled_s() - throttled
    loaded, stolen = time.monotonic() - begin, box.stolen_s() - stolen
    drained = drain(stack, before, result["accepted"])
    used = {part: now - cpu[part] for part, now in stack.cpu_s().items()}
    until = time.monotonic() - begin
    own = (
        sum(now - ours.get(name, 0) for name, now in box.cpu_s(trees(stack)).items())
        + result["generator_cpu_s"]
    )
    others = (box.machine_busy_s() - busy - own) / until / os.cpu_count()
    done = Offer(
        rate,
        seconds,
        result,
        meanwhile[0],
        used,
        until,
        max(0.0, others),
        throttled / loaded / os.cpu_count(),
        stolen,
    )
    progress.say(f"  {done.words()}{'' if drained else '; NOT SETTLED'}")
    return done


def load(stack, rate, seconds, posted, *more):
    """Offers a load until the last reply. Returns what the generator says of it."""
    with (
        generate(stack, rate, seconds, "--posted", posted, *more) as generator,
        progress.bar(f"{rate}/s", rate * seconds) as to,
    ):
        said = []
        try:
            for line in generator.stderr:
                if line.startswith("{"):
                    now = json.loads(line)
                    to(now["replies"], f"p99 {now['p99_ms']} ms")
                else:
                    said.append(line.strip())
            printed = generator.stdout.read()
        except BaseException:
            generator.terminate()
            raise
    if generator.returncode != 0:
        raise Broken(f"open_loop ended with {generator.returncode}: {' '.join(said)}")
    result = json.loads(printed)
    if result["accepted"] == 0:
        raise Broken(f"nothing was accepted: {result['statuses']}")
    return result


def trees(stack):
    """All processes of a stack, in the box and beside it."""
    return {name: child.pid for name, child in stack.children.items()}


def charged(before, now):
    """Payments charged meanwhile."""
    return sum(now.values()) - sum(before.values())


def drain(stack, before, expected):
    """Waits until so many payments have been charged and recorded, and the queue is empty."""
    deadline = time.monotonic() + DRAIN_S
    with progress.bar("draining", expected) as to:
        while (count := charged(before, stack.settled())) < expected:
            to(count)
            for child in stack.children.values():
                child.check()
            if time.monotonic() > deadline:
                return False
            time.sleep(DRAIN_POLL_S)
    return True
