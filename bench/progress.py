"""What a person sees meanwhile: a bar where there is a terminal, else a line for each result."""

import sys
import time
from contextlib import contextmanager

from tqdm import tqdm


def say(text):
    """A line that stays."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


@contextmanager
def bar(what, total, unit=""):
    """A bar that is moved to a place with `to(place, note)`."""
    with tqdm(
        total=total,
        desc=what,
        unit=unit,
        leave=False,
        disable=None,
        file=sys.stderr,
        dynamic_ncols=True,
    ) as shown:

        def to(place, note=""):
            shown.n = min(place, total)
            shown.set_postfix_str(note, refresh=False)
            shown.refresh()

        yield to


def wait(what, seconds):
    """Waits, and shows it."""
    begin = time.monotonic()
    with bar(what, seconds, "s") as to:
        while (passed := time.monotonic() - begin) < seconds:
            to(round(passed, 1))
            time.sleep(min(0.5, seconds - passed))
