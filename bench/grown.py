"""The line about a ledger that has grown: grown."""

import os
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from statistics import median

import numpy

from bench import progress, proof
from bench.child import Broken
from bench.line import Outcome, Value, at_most
from bench.rates import QUICK_MS, Bench
from bench.stack import BINARY, INSTANCES, WHOLE
from bench.summary import CENTS_OF_N, FALLBACK_OF_N, FIRST, moment

import ledgers  # found on the path that bench.proof extends

ROWS = 100_000_000
# Rows that one statement loads, and how many do so at once.
CHUNK, LOADERS = 250_000, os.cpu_count()
# Memory of the box, its page cache included: a tenth of what 100,000,000 payments take.
MEMORY_MB = 1024
# Settings of both servers, for that memory. The WAL between two checkpoints has to hold each page
# of the primary key once: with less, checkpoints follow one another, and each has these pages
# written whole again.
SETTINGS = ("shared_buffers=256MB", "effective_cache_size=768MB", "max_wal_size=8GB")
# Payments a second in that memory, and in all that the machine has.
RATES, FREE_RATE = (12_000, 7_000), 3_000
TURNS, TURN_S = 3, 20
# p99 of the grown ledger over that of an empty one, at that rate.
GOAL_RATE, GOAL_X = 7_000, 2
# Bytes a payment takes in the ledger and its indexes.
GOAL_BYTES = 100
# Ranges, ids and states that are asked for, after some that only warm up.
ASKED, STATES, WARM = 500, 10, 20
# What is loaded: row n, counted from 1, 300 of them in each second after FIRST, so that what is
# posted now is newer. The ids are of version 4.
LOAD = f"""
SET synchronous_commit = off;
INSERT INTO payment_processed
    (correlation_id, amount, processor, requested_at, accepted_at, settled_at, attempt)
SELECT gen_random_uuid(), (1 + n * {CENTS_OF_N[0]} % {CENTS_OF_N[1]}) / 100.0,
    CASE WHEN n % {FALLBACK_OF_N} = 0 THEN 'fallback' ELSE 'default' END,
    t.at, t.at - n % 3000 * interval '1 us', t.at + (20000 + n % 90000) * interval '1 us', 1
FROM generate_series({{first}}::bigint, {{last}}) AS n
CROSS JOIN LATERAL (
    SELECT '{FIRST:%Y-%m-%d}Z'::timestamptz + n * 10 / 3 * interval '1 ms'
) AS t (at)
"""
# Indexes, that of the primary key first, each with the statement that makes it again, in
# hexadecimal for the sake of its commas.
INDEXES = """
SELECT c.relname, i.indisprimary, encode(convert_to(
    CASE WHEN i.indisprimary
        THEN format('ALTER TABLE payment_processed ADD CONSTRAINT %I %s', c.relname,
            pg_get_constraintdef(k.oid))
        ELSE pg_get_indexdef(c.oid) END, 'UTF8'), 'hex')
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = c.oid
WHERE i.indrelid = 'payment_processed'::regclass ORDER BY i.indisprimary DESC, c.relname
"""
# The totals of what was posted to warm up are there already.
TOTALS = f"""
INSERT INTO payment_rollup (unit, starts_at, processor, requests, amount)
SELECT u.unit, date_bin(u.width, s.starts_at, 'epoch'), s.processor, sum(s.requests), sum(s.amount)
FROM (
    SELECT date_bin('1 second', requested_at, 'epoch') AS starts_at, processor,
        count(*) AS requests, sum(amount) AS amount
    FROM payment_processed WHERE requested_at < '{FIRST:%Y-%m-%d}Z'::timestamptz
        + ({{rows}}::bigint + 1) * 10 / 3 * interval '1 ms' GROUP BY 1, 2
) s CROSS JOIN (
    VALUES ('hour', interval '1 hour'), ('minute', interval '1 minute'),
        ('second', interval '1 second')
) AS u (unit, width)
GROUP BY 1, 2, 3
"""
SIZES = """
SELECT 'row', pg_relation_size('payment_processed')
UNION ALL SELECT c.relname, pg_relation_size(c.oid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = 'payment_processed'::regclass
UNION ALL SELECT 'totals', pg_total_relation_size('payment_rollup')
"""
# Ids of as many payments as are looked up, from pages all over the ledger.
SAMPLE = f"""
SELECT correlation_id FROM payment_processed
TABLESAMPLE SYSTEM ((
    SELECT least(100, 100.0 * 100000 / sum(requests)) FROM payment_rollup WHERE unit = 'hour'
)) ORDER BY random() LIMIT {ASKED + WARM}
"""
WAL = "SELECT wal_bytes, wal_fpi FROM pg_stat_wal"


class Expected:
    """The totals of any range of what is loaded. What a row has comes again after a period."""

    def __init__(self, rows):
        self.rows, self.period = rows, CENTS_OF_N[1] * FALLBACK_OF_N
        n = numpy.arange(1, self.period + 1, dtype=numpy.int64)
        cents = 1 + n * CENTS_OF_N[0] % CENTS_OF_N[1]
        fallback = n % FALLBACK_OF_N == 0
        self.sums = {
            name: [
                numpy.concatenate(([0], numpy.cumsum(numpy.where(mask, what, 0))))
                for what in (1, cents)
            ]
            for name, mask in (("default", ~fallback), ("fallback", fallback))
        }

    def until(self, micros):
        """How many rows are not after that microsecond after FIRST."""
        # Row n is n * 10 / 3 ms after it, rounded down.
        return min(max((3 * (micros // 1000 + 1) - 1) // 10, 0), self.rows)

    def totals(self, first_us, last_us):
        """Count and cents per processor from one microsecond to another, both included."""

        def up_to(sums, n):
            periods, rest = divmod(n, self.period)
            return periods * int(sums[-1]) + int(sums[rest])

        low, high = self.until(first_us - 1), self.until(last_us)
        return {
            name: tuple(up_to(sums, high) - up_to(sums, low) for sums in both)
            for name, both in self.sums.items()
        }


def load(stack, rows):
    """Fills the ledger: rows without indexes, by several connections, then indexes and totals."""
    for name in INSTANCES:
        stack.stop_instance(name)
    indexes, began = stack.sql(INDEXES), time.monotonic()
    stack.sql(
        "ALTER TABLE payment_processed DISABLE TRIGGER USER;"
        + "".join(
            f"ALTER TABLE payment_processed DROP CONSTRAINT {name};"
            if primary == "t"
            else f"DROP INDEX {name};"
            for name, primary, _ in indexes
        )
    )
    in_parallel(stack, rows)
    progress.say(f"  {rows:,} rows after {time.monotonic() - began:.0f} s")
    memory = "SET maintenance_work_mem = '512MB'; SET work_mem = '256MB';"
    steps = {name: bytes.fromhex(make).decode() for name, _, make in indexes}
    steps["totals"] = TOTALS.format(rows=rows)
    with progress.bar("indexes and totals", len(steps)) as to:
        for done, (name, statement) in enumerate(steps.items()):
            to(done, name)
            stack.sql(memory + statement)
            progress.say(f"  {name} after {time.monotonic() - began:.0f} s")
    stack.sql("ALTER TABLE payment_processed ENABLE TRIGGER USER")
    for table in ("payment_processed", "payment_rollup"):
        stack.sql(f"VACUUM (FREEZE, ANALYZE) {table}")
    stack.sql("CHECKPOINT")
    for name in INSTANCES:
        stack.start_instance(name)


def in_parallel(stack, rows):
    """Loads the rows, each connection a chunk at a time."""
    chunks = [(n, min(rows, n + CHUNK - 1)) for n in range(1, rows + 1, CHUNK)]
    todo, loaded, broken, lock = iter(chunks), [0], [], threading.Lock()

    def loader():
        while not broken:
            with lock:
                first, last = next(todo, (0, -1))
            if not first:
                return
            try:
                stack.sql(LOAD.format(first=first, last=last))
            except Exception as error:  # noqa: BLE001 (it is raised by the thread that waits)
                broken.append(error)
            with lock:
                loaded[0] += last - first + 1

    threads = [threading.Thread(target=loader) for _ in range(LOADERS)]
    for thread in threads:
        thread.start()
    with progress.bar(f"loading {rows:,}", rows) as to:
        while any(thread.is_alive() for thread in threads):
            to(loaded[0])
            time.sleep(0.2)
    if broken:
        raise broken[0]


@dataclass
class Turn:
    """A load, and the WAL of it."""

    load: object
    wal_bytes: float
    whole_pages: float

    @property
    def postgres_us(self):
        """CPU of the database per payment."""
        return self.load.us_per_payment["postgres"]


def turn(bench, rate, seconds):
    """Offers a load."""
    before = [int(value) for value in bench.stack.sql(WAL)[0]]
    offered = bench.offer(rate, seconds)
    after = [int(value) for value in bench.stack.sql(WAL)[0]]
    return Turn(
        offered, *((now - then) / offered.accepted for then, now in zip(before, after, strict=True))
    )


def in_turns(benches, rates, turns, seconds):
    """Each rate, each ledger, one after the other, again and again: (rate, name) -> turns."""
    done = {}
    for number in range(1, turns + 1):
        for rate in rates:
            for name, bench in benches.items():
                progress.say(f"  turn {number} of {turns}, {name}")
                done.setdefault((rate, name), []).append(turn(bench, rate, seconds))
    return done


def milliseconds(count, ask):
    """What each call took, after some that only warm up."""
    taken = []
    for index in range(-WARM, count):
        begin = time.perf_counter()
        ask()
        if index >= 0:
            taken.append((time.perf_counter() - begin) * 1000)
    return taken


def questions(stack, rows):
    """Summaries of random ranges, look-ups of ids and the state of the deployment: p50 and p99 of each in ms, and what was wrong."""
    choose, expected, wrong = Random(2026), Expected(rows), []
    ids = [row[0] for row in stack.sql(SAMPLE)]
    gateway, span_us = ledgers.Service("gateway", stack.gateway), rows * 10_000 // 3

    def summary():
        first, last = sorted(choose.randrange(-1_000_000, span_us + 1_000_000) for _ in range(2))
        begin, end = moment(first), moment(last)
        answer = gateway.json(f"/payments-summary?from={begin}&to={end}")
        got = {
            name: (t["totalRequests"], ledgers.cents(Decimal(t["totalAmount"])))
            for name, t in answer.items()
        }
        if got != expected.totals(first, last):
            wrong.append(f"{begin} to {end}: {got}, expected {expected.totals(first, last)}")

    def known():
        if gateway.json(f"/payments/{ids.pop()}") is None:
            wrong.append("a payment of the ledger is not known")

    def unknown():
        if gateway.json(f"/payments/{uuid.UUID(int=choose.getrandbits(128), version=4)}"):
            wrong.append("a payment is known that nobody posted")

    def status():
        told = subprocess.run(
            [BINARY, "status", "--json"],
            env={**os.environ, **stack.environment},
            capture_output=True,
            check=False,
        )
        # Its exit code says whether something wants attention.
        if not told.stdout:
            raise Broken(f"status told nothing: {told.stderr.decode()[-500:]}")

    asked = {
        "summary of a random range": milliseconds(ASKED, summary),
        "look-up of an id": milliseconds(ASKED, known),
        "look-up of an id that is not there": milliseconds(ASKED, unknown),
        "payment-proxy status": milliseconds(STATES, status),
    }
    return asked, wrong


def middle(turns, what):
    """The median of a value of several turns."""
    return median(what(one) for one in turns)


def against(what, unit, empty, grown):
    """A value of both."""
    return [Value(f"{what}, empty", empty, unit), Value(f"{what}, grown", grown, unit)]


def rate_values(turns, rate, where):
    """What the turns of a rate came to."""
    empty, grown = turns[rate, "empty"], turns[rate, "grown"]
    values = []
    for what, unit, of in (
        ("settled meanwhile", "/s", lambda one: one.load.settled / one.load.seconds),
        ("POST p50", "ms", lambda one: one.load.result["p50_ms"]),
        ("POST p99", "ms", lambda one: one.load.p99_ms),
        ("CPU of the database per payment", "us", lambda one: one.postgres_us),
        ("WAL per payment", "bytes", lambda one: one.wal_bytes),
        ("whole pages in the WAL per payment", "", lambda one: one.whole_pages),
    ):
        values += against(
            f"{rate:,}/s{where}: {what}", unit, middle(empty, of), middle(grown, of)
        )
    return values


def times(done):
    """How many times the p99 of an empty ledger that of the grown one is at the rate of the goal; None where that was not offered."""
    if (GOAL_RATE, "grown") not in done:
        return None
    of = [middle(done[GOAL_RATE, name], lambda one: one.load.p99_ms) for name in ("grown", "empty")]
    return of[0] / of[1]


def sizes(stack, rows):
    """Bytes of each part for a payment."""
    return {name: int(size) / rows for name, size in stack.sql(SIZES)}


def grown(setting):
    """A ledger of 100,000,000 payments against an empty one, in 1 GB of memory: latency, CPU, WAL, questions, sizes."""
    rows, turns, seconds = setting.rows or ROWS, setting.turns or TURNS, setting.seconds or TURN_S
    rates = [setting.rate] if setting.rate else list(RATES)
    groups, options = setting.groups, {"delay_ms": QUICK_MS, "postgres": SETTINGS}
    with groups.lifted():
        with (
            Bench(setting, "grown-empty", **options) as empty,
            Bench(setting, "grown", **options) as full,
        ):
            benches = {"empty": empty, "grown": full}
            load(full.stack, rows)
            per_payment = sizes(full.stack, rows)
            with groups.limited(MEMORY_MB):
                done = in_turns(benches, rates, turns, seconds)
                asked = {name: questions(bench.stack, rows if bench is full else 0)
                         for name, bench in benches.items()}
            free = [] if setting.rate else [FREE_RATE]
            unlimited = in_turns(benches, free, turns, seconds)
            values = []
            for rate in rates:
                values += rate_values(done, rate, "")
            for rate in free:
                values += rate_values(unlimited, rate, ", memory for all")
            if (x := times(done)) is not None:
                values.append(at_most(f"p99 at {GOAL_RATE:,}/s, grown against empty", x, GOAL_X, "x"))
            for what in asked["grown"][0]:
                of = [proof.percentile(asked[name][0][what], 0.99) for name in benches]
                values += against(f"{what}, p99", "ms", *of)
            ledger = sum(size for name, size in per_payment.items() if name != "totals")
            values.append(
                at_most("bytes per payment, ledger and indexes", ledger, GOAL_BYTES, "bytes")
            )
            values += [Value(f"of that {name}", size, "bytes")
                       for name, size in per_payment.items() if name != "totals"]
            values.append(Value("and totals", per_payment["totals"], "bytes"))
            outcomes = [empty.outcome([]), full.outcome(values)]
    memory = f"{MEMORY_MB} MB, page cache included, unless it says otherwise"
    if "memory" in groups.missing:
        memory = f"ALL MEMORY, for {MEMORY_MB} MB could not be had: {groups.missing['memory']}"
    answers = proof.Proof(
        2 * ASKED, [f"WRONG: {each}" for _, wrong in asked.values() for each in wrong[:1]]
    )
    answers.what = f"{2 * ASKED:,} summaries exact to the cent, {4 * ASKED:,} look-ups as they must be"
    return Outcome(
        values,
        [found for outcome in outcomes for found in outcome.proofs] + [answers],
        notes=[
            f"{rows:,} payments in the grown ledger, 300 in each second, ids of version 4",
            f"each value the median of {turns} turns of {seconds} s; the box had {memory}, and all CPUs",
            f"PostgreSQL with {', '.join(SETTINGS)}",
            *(one.load.words() for each in (done, unlimited) for turns in each.values() for one in turns),
        ],
        # The box of this line is another one.
        memory_mb={name: mb for name, mb in outcomes[1].memory_mb.items() if name != WHOLE},
    )
