"""The load of a day in minutes, and what is different at its end. `make soak`, or `scripts/soak.sh --help`.

The day begins with the peak of the evening, so that everything has been as large as it gets once; then come a quiet
night, two peaks, and a night like the first. On the way the queue is locked, processors become slow and fail,
payments are posted again, and an instance is restarted and killed. After it the stack answers the rate of a night, in
turns with a fresh one.

Exit: 0 what was seen at the end is within 10 % of what was seen after the first tenth, but for what grows with
settled payments, it answers as fast as a fresh one, and the audit is clean; 1 something is not; 2 it could not run.
"""

import argparse
import csv
import http.client
import json
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bench import aged, box, compare, progress, proof, watch
from bench.child import Broken
from bench.offer import drain, load
from bench.rates import QUICK_MS
from bench.run import Run
from bench.stack import REPOSITORY, Stack

import ledgers  # found on the path that bench.proof extends

# A day has so many steps of constant rate.
STEPS = 40
# Step -> share of the way from the lowest to the highest rate; linear in between.
CURVE = {0: 1, 1: 1, 2: 0.5, 3: 0, 7: 0, 14: 1, 16: 1, 21: 0.4, 26: 1, 28: 1, 35: 0, 39: 0}
# The nights that are compared: after the first tenth, and the last tenth.
FIRST, LAST = range(4, 8), range(36, 40)
# Payments per second at night.
NIGHT_RATE = 50
# How long nobody gets at the queue, in seconds; less than what a statement of the service waits for
# a lock.
LOCK_S = 1
# How long both processors fail at once, at most, in seconds.
OUTAGE_S = 10
# Between two looks, in seconds, and how many there are of a step at least.
LOOK_PAUSE_S, LOOKS_PER_STEP = 5, 4
# Payments posted again per second; one in so many of them with another amount, which must be
# refused.
REPEAT_RATE, OTHER_AMOUNT = 5, 10


def rate_of(step, highest):
    """Payments per second in a step."""
    points = sorted(CURVE)
    left = max(point for point in points if point <= step)
    right = min(point for point in points if point >= step)
    share = (
        CURVE[left]
        if left == right
        else CURVE[left] + (CURVE[right] - CURVE[left]) * (step - left) / (right - left)
    )
    return round(NIGHT_RATE + (highest - NIGHT_RATE) * share)


class Day:
    """What happens besides the load."""

    def __init__(self, stack, step_s, lock, actor):
        self.stack, self.step_s, self.lock, self.actor = stack, step_s, lock, actor
        self.events = {
            0: ("the queue is locked", self.lock_queue),
            1: ("both processors fail", self.both_fail),
            10: ("default takes 300 ms", self.slow("default", 300)),
            15: ("default fails", self.fails("default")),
            18: ("api2 is restarted", lambda: self.restart(signal.SIGTERM)),
            22: ("fallback takes 1,000 ms", self.slow("fallback", 1_000)),
            24: ("api2 is killed", lambda: self.restart(signal.SIGKILL)),
            27: ("both processors fail", self.both_fail),
            30: ("default fails every other second", self.flaps),
        }

    @contextmanager
    def step(self, number):
        """Lets happen what belongs to a step, and puts it right at its end."""
        what, act = self.events.get(number, ("", None))
        if act is None:
            yield
            return
        progress.say(f"  {what}")
        acting = self.actor.submit(act)
        yield
        acting.result()
        for name in self.stack.processors:
            self.configure(name, "delay", QUICK_MS)
            self.configure(name, "failure", False)

    def configure(self, name, what, value):
        self.stack.admin(name, "PUT", f"configurations/{what}", {what: value})

    def slow(self, name, ms):
        return lambda: self.configure(name, "delay", ms)

    def fails(self, name):
        return lambda: self.configure(name, "failure", True)

    def lock_queue(self):
        """All connections that an instance may have are in use then, once before the first night."""
        self.stack.sql(f"BEGIN; LOCK TABLE payment_queue; SELECT pg_sleep({LOCK_S}); COMMIT")

    def both_fail(self):
        for name in self.stack.processors:
            self.configure(name, "failure", True)
        time.sleep(min(OUTAGE_S, self.step_s))
        for name in self.stack.processors:
            self.configure(name, "failure", False)

    def flaps(self):
        end = time.monotonic() + self.step_s
        failing = True
        while time.monotonic() < end:
            self.configure("default", "failure", failing)
            failing = not failing
            time.sleep(1)

    def restart(self, number):
        with self.lock:
            self.stack.children.pop("api2").stop(number)
            self.stack.start_instance("api2")


class Repeats:
    """Posts again what was accepted in the step before; a context manager."""

    def __init__(self, stack, rng):
        self.stack, self.rng = stack, rng
        self.accepted, self.over = [], threading.Event()
        # By what was expected and what came: ("202", 202) -> count.
        self.replies = {}
        self.thread = threading.Thread(target=self._post)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def take(self, file):
        with open(file, newline="") as lines:
            self.accepted = [(row[0], int(row[4])) for row in csv.reader(lines) if row[2] == "202"]

    def _post(self):
        while not self.over.wait(1 / REPEAT_RATE):
            if self.accepted:
                other = self.rng.randrange(OTHER_AMOUNT) == 0
                identity, cents = self.rng.choice(self.accepted)
                key = (409 if other else 202, self.status(identity, cents + other))
                self.replies[key] = self.replies.get(key, 0) + 1

    def status(self, identity, cents):
        connection = http.client.HTTPConnection("127.0.0.1", self.stack.port, timeout=30)
        body = f'{{"correlationId":"{identity}","amount":{cents // 100}.{cents % 100:02}}}'
        try:
            connection.request("POST", "/payments", body, {"Content-Type": "application/json"})
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def troubles(self):
        """Known payments that were taken for new or for others."""
        wrong = {
            key: count for key, count in self.replies.items() if key in ((202, 409), (409, 202))
        }
        return [
            f"{count} repeated posts were answered with {came} instead of {due}"
            for (due, came), count in wrong.items()
        ]


def run_day(folder, stack, step_s, highest, seed, actor):
    """Returns looks, steps, and what was posted and how."""
    lock, steps, files = threading.Lock(), [], []
    before = stack.settled()
    pause_s = min(LOOK_PAUSE_S, step_s / LOOKS_PER_STEP)
    with (
        watch.Watch(stack, lock, pause_s) as watching,
        Repeats(stack, random.Random(seed)) as repeats,
    ):
        day = Day(stack, step_s, lock, actor)
        for number in range(STEPS):
            rate = rate_of(number, highest)
            file = folder / f"posted-{number}.csv"
            began_s = time.monotonic() - watching.began
            with day.step(number):
                result = load(stack, rate, step_s, file)
            ended_s = time.monotonic() - watching.began
            steps.append({"rate": rate, "began_s": began_s, "ended_s": ended_s, **result})
            progress.say(
                f"  step {number + 1}/{STEPS}: {rate}/s, p50 {result['p50_ms']} p99 {result['p99_ms']} ms, {result['statuses']}"
            )
            files.append(file)
            repeats.take(file)
    drained = drain(stack, before, sum(step["accepted"] for step in steps))
    return watching, steps, files, repeats, drained


def night(watching, steps, numbers):
    """What was seen in some steps."""
    return compare.night(
        watching.looks, steps[numbers[0]]["began_s"], steps[numbers[-1]]["ended_s"]
    )


def arguments():
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="how long the day is (30)")
    parser.add_argument(
        "--rate", type=int, default=1_500, help="payments per second at its peaks (1500)"
    )
    parser.add_argument("--seed", type=int, default=7, help="which payments are posted again (7)")
    parser.add_argument(
        "--reports",
        type=Path,
        default=REPOSITORY / "target" / "soak",
        help="folder of the reports (target/soak)",
    )
    given = parser.parse_args()
    if given.minutes * 60 < STEPS or given.rate <= NIGHT_RATE:
        parser.error(
            f"a day has {STEPS} steps of at least a second, and a peak more than {NIGHT_RATE} payments a second"
        )
    return given


def main():
    given = arguments()
    command = f"make soak MINUTES={given.minutes:g} RATE={given.rate} SEED={given.seed}"
    try:
        # One thread for all events, which outlives the stack: the kernel ends a child with the
        # thread that started it.
        with (
            Run("soak", given.reports, command) as run,
            ThreadPoolExecutor(1) as actor,
            Stack(run.groups, run.folder / "logs", delay_ms=QUICK_MS) as stack,
        ):
            started = round(time.time() * 1000)
            step_s = round(given.minutes * 60 / STEPS)
            watching, steps, files, repeats, drained = run_day(
                run.folder, stack, step_s, given.rate, given.seed, actor
            )
            latencies, later, fresh = aged.compared(run, stack, NIGHT_RATE, given.rate, step_s)
            files += later
            found = proof.audit(stack, proof.read_posted(files), started)
    except (Broken, ledgers.Unreadable, OSError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    first, last = (night(watching, steps, numbers) for numbers in (FIRST, LAST))
    for file in files:
        file.unlink()
    troubles = (
        found.troubles
        + fresh.troubles
        + repeats.troubles()
        + compare.grown(first, last)
        + aged.troubles(latencies)
    )
    troubles += [] if drained else ["the queue did not empty"]
    troubles += (
        [f"{len(watching.missed)} looks failed: {watching.missed[0]}"] if watching.missed else []
    )
    notes = [f"{name.replace('_', ' ')}: {value}" for name, value in vars(run.about()).items()]
    notes += [
        f"posted: {sum(step['posted'] for step in steps):,}, accepted: {sum(step['accepted'] for step in steps):,}, posted again: {sum(repeats.replies.values()):,}",
        f"audit: {found.words()}; of the fresh stack {fresh.words()}",
    ]
    pictures = compare.draw(run.folder, watching.looks, steps)
    (run.folder / "report.md").write_text(
        compare.text(notes, first, last, latencies, troubles, pictures)
    )
    (run.folder / "looks.json").write_text(
        json.dumps({"steps": steps, "looks": watching.looks, "missed": watching.missed}) + "\n"
    )
    run.publish()
    return 1 if troubles else 0


if __name__ == "__main__":
    with box.preferred():
        sys.exit(main())
