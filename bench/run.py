"""A run of `bench` or `soak`: its box, and the folder of its report."""

import os
import signal
from datetime import datetime, timezone

from bench import box, progress, report
from bench.box import Groups


class Run:
    """From its beginning to its end; a context manager. A SIGTERM ends it as Ctrl-C does."""

    def __init__(self, name, reports, command, boxed=True):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.began, self.reports, self.command = datetime.now(timezone.utc), reports, command
        self.folder = reports / f"{self.began:%Y%m%dT%H%M%SZ}"
        self.folder.mkdir(parents=True)
        self.groups = Groups(f"{box.PREFIX}-{os.getpid()}", boxed=boxed)
        progress.say(f"{name}: the box is {self.groups.words()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.groups.remove()

    def about(self):
        """Under what circumstances it runs."""
        return report.About.of(self.groups, self.began, self.command)

    def publish(self, said=None):
        """Says what the report says, or `said`, and where it is."""
        latest = self.reports / "latest"
        latest.unlink(missing_ok=True)
        latest.symlink_to(self.folder.name)
        written = self.folder / "report.md"
        print(said or written.read_text())
        print(f"written to {written}")
