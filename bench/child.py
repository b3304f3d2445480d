"""A process that ends with the benchmark, whatever happens."""

import os
import signal
import subprocess
import time


class Broken(Exception):
    """The benchmark cannot go on; the text says why."""


class Child:
    """A process in a group of its own, so that a Ctrl-C at the terminal comes to the benchmark alone."""

    def __init__(self, name, log, command, environment=None):
        self.name, self.log = name, log
        with open(log, "ab") as out:
            # The kernel ends it should the benchmark be killed.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *map(str, command)],
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                process_group=0,
            )
        self.pid = self.process.pid

    def check(self):
        """Complains if it has ended by itself."""
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace").strip().splitlines()[-5:]
            raise Broken(
                f"{self.name} ended by itself with {self.process.returncode}: " + " / ".join(tail)
            )

    def stop(self, number=signal.SIGTERM, within_s=15):
        """Asks it to end, and kills it with all that it started when it takes longer."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def await_true(what, check, within_s, children=(), pause_s=0.05):
    """Looks again and again until it is so, as long as the children live."""
    deadline = time.monotonic() + within_s
    while not check():
        for child in children:
            child.check()
        if time.monotonic() > deadline:
            raise Broken(f"{what}: not within {within_s} s")
        time.sleep(pause_s)


def run(command, **options):
    """Runs a program to its end and returns what it printed."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    if done.returncode != 0:
        raise Broken(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout
