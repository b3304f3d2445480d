"""What is different at the end of a soak from what it was after its first tenth, as a report with curves."""

from bench import aged, charts
from bench.watch import OTHERS

# What may be different.
TOLERANCE = 0.10
# And what is no difference however large its share, by the beginning of the name: steps in which
# such a value moves by itself. The report names it.
STEPS = {
    "MB": 2,  # pages that an allocator keeps
    "file descriptors": 4,
    "connections": 2,
    "tables and indexes": 100,  # all that there are, those of the catalog included
    "bytes": 512 << 10,  # what a table that was small grows by at once
    "dead rows": 2_500,  # 2,000 are there before autovacuum looks
    "queued": 50,  # what comes in a second
}
# What grows with settled payments, and why.
GROWS = {
    "settled": "the payments themselves",
    "bytes of payment_processed": "the ledgers: a row a payment, and two indexes",
    "bytes of payment_rollup": "the totals: a row a second, minute and hour that has payments, and processor",
    "bytes of payment_attempt": "a row for each attempt that failed",
    "bytes of WAL written": "all that was ever written; old segments are recycled",
    "MB of postgres in all": "the ledger in shared_buffers, until those are full",
}


def median(values):
    """The middle one, or the upper of the two; None without values."""
    values = sorted(values)
    return values[len(values) // 2] if values else None


def night(looks, begin_s, end_s):
    """The median of each value in a time."""
    within = [found for at, found in looks if begin_s <= at <= end_s]
    names = dict.fromkeys(name for found in within for name in found)
    return {name: median([found[name] for found in within if name in found]) for name in names}


def starting(table, name):
    """The entry of a table whose key a name begins with."""
    return next((value for start, value in table.items() if name.startswith(start)), None)


def allowed(name, before):
    """The most that a value may be at the end."""
    return before + max(before * TOLERANCE, starting(STEPS, name) or 0)


def judged(name):
    """Whether a value may not grow."""
    return name != OTHERS and not starting(GROWS, name)


def verdict(name, first, last):
    """On a value that may not grow: nothing if it did not."""
    return "" if last[name] <= allowed(name, first[name]) else "**grew**"


def grown(first, last):
    """What must not have grown and has, in words."""
    return [
        f"{name} grew from {number(first[name])} to {number(last[name])}"
        for name in sorted(first.keys() & last.keys())
        if judged(name) and verdict(name, first, last) == "**grew**"
    ]


def number(value):
    """A value as people read it: three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def text(notes, first, last, latencies, troubles, pictures):
    """The report as Markdown."""
    names = sorted(first.keys() & last.keys())
    lines = ["# Soak", "", *(f"- {note}" for note in notes), ""]
    if troubles:
        lines += ["## Not as it should be", "", *(f"- {trouble}" for trouble in troubles), ""]
    lines += [
        f"## Must be within {TOLERANCE:.0%}, or within a step",
        "",
        "Medians of two nights at the same rate: the one after the first tenth, and the last tenth. A step is what a value moves by without meaning anything.",
        "",
        "| what | after the first tenth | at the end | at most | |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        if judged(name):
            lines.append(
                f"| {name} | {number(first[name])} | {number(last[name])} | {number(allowed(name, first[name]))} | {verdict(name, first, last)} |"
            )
    lines += ["", *aged.text(latencies)]
    settled = max(1, last["settled"] - first["settled"])
    lines += [
        "",
        "## Grows with settled payments",
        "",
        "| what | after the first tenth | at the end | per payment settled between | why |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        if why := starting(GROWS, name):
            lines.append(
                f"| {name} | {number(first[name])} | {number(last[name])} | {(last[name] - first[name]) / settled:.3g} | {why} |"
            )
    lines += [line for file in pictures for line in ("", f"![]({file})")]
    return "\n".join(lines) + "\n"


def draw(folder, looks, steps):
    """One chart for each kind of value, over the minutes of the day."""

    def curves(title, unit, chosen, scale=1.0):
        names = dict.fromkeys(name for _, found in looks for name in found if chosen(name))
        series = {
            name: [(at / 60, found[name] / scale) for at, found in looks if name in found]
            for name in names
        }
        return ("curves", title, "minutes", unit, series)

    middle = [(step["began_s"] + step["ended_s"]) / 120 for step in steps]
    offered = list(zip(middle, (step["rate"] for step in steps), strict=True))
    queued = [(at / 60, found["queued"]) for at, found in looks]
    churning = (
        "bytes of payment_queue",
        "bytes of payment_dead_letter",
        "bytes of processor",
        "bytes of service",
        "bytes of poller",
    )
    drawn = {
        "rate": (
            "curves",
            "payments offered, and waiting",
            "minutes",
            "per second, or payments",
            {"offered": offered, "queued": queued},
        ),
        "others": curves("the machine", "%", lambda name: name == OTHERS),
        "latency": (
            "curves",
            "latency of POST",
            "minutes",
            "ms",
            {
                p: list(zip(middle, (step[f"{p}_ms"] for step in steps), strict=True))
                for p in ("p50", "p99")
            },
        ),
        "memory": curves("memory", "MB", lambda name: name.startswith("MB")),
        "descriptors": curves(
            "file descriptors and connections",
            "",
            lambda name: name.startswith(("file", "connections", "tables")),
        ),
        "dead": curves("dead rows", "rows", lambda name: name.startswith("dead rows")),
        "queue": curves(
            "tables and indexes that must not grow",
            "MB",
            lambda name: name.startswith(churning),
            1 << 20,
        ),
        "ledger": curves(
            "ledger",
            "MB",
            lambda name: name.startswith("bytes of payment_") and not name.startswith(churning),
            1 << 20,
        ),
        "wal": curves("WAL written", "MB", lambda name: name == "bytes of WAL written", 1 << 20),
    }
    return [charts.draw(folder / f"{name}.svg", chart) for name, chart in drawn.items()]
