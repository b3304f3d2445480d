"""The lines about what the database has to carry: backlog, summary, logged, bound."""

import re
import subprocess
import time
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from random import Random

import numpy

from bench import proof, progress
from bench.child import Broken, run
from bench.line import Outcome, Value, at_least, at_most
from bench.offer import charged, generate
from bench.stack import INSTANCES, RELEASE, REPOSITORY, Stack

import books  # found on the path that bench.proof extends

# Rows that are written at once where books or queue are filled.
CHUNK = 100_000
# Every payment of a filled queue is of this amount.
AMOUNT = "19.90"

# --- backlog ---------------------------------------------------------------------------------------

DEEP, SHALLOW = 1_000_000, 1_000
# Payments per second that are posted meanwhile: a post is what wakes a worker that has found less than it
# had permits for, and a queue that only statements fill is looked at twice a second.
TRICKLE = 200
# Keeps a queue as deep as it was: puts in what has been settled, again and again.
FEED = """
SET application_name = 'bench feeder';
DO $$
DECLARE
    fed bigint := {depth};
    wanted bigint;
BEGIN
    LOOP
        SELECT {depth} + coalesce(sum(requests), 0) INTO wanted FROM payment_rollup WHERE unit = 'hour';
        INSERT INTO payment_queue (correlation_id, amount)
        SELECT gen_random_uuid(), {amount} FROM generate_series(fed + 1, wanted);
        fed := greatest(fed, wanted);
        COMMIT;
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$
"""


def in_chunks(stack, what, rows, statement):
    """Runs a statement for 1..rows in chunks; {first} and {last} stand in it."""
    with stack.groups.lifted(), progress.bar(what, rows) as to:
        for first in range(1, rows + 1, CHUNK):
            last = min(rows, first + CHUNK - 1)
            stack.sql("SET synchronous_commit = off;" + statement.format(first=first, last=last))
            to(last)


def feeding(stack, depth):
    """Keeps the queue at that depth until its connection is closed by :func:`stop_feeding`."""
    psql = subprocess.Popen(["psql", "--no-psqlrc", "--quiet", stack.url("postgres", "payments")], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    psql.stdin.write(FEED.format(depth=depth, amount=AMOUNT))
    psql.stdin.close()
    return psql


def stop_feeding(stack, psql):
    """Ends the statement, and so psql."""
    stack.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bench feeder'")
    psql.wait(10)


def settled_from(setting, depth):
    """Payments settled per second out of a queue of that depth, CPU of each, the audit, and the memory."""
    seconds, warm_s = setting.seconds or 20, 5
    with Stack(setting.groups, setting.folder / f"backlog-{depth}", delay_ms=1) as stack:
        for name in INSTANCES:
            stack.stop_instance(name)
        started = round(time.time() * 1000)
        in_chunks(stack, f"queueing {depth:,}", depth, f"INSERT INTO payment_queue (correlation_id, amount) SELECT gen_random_uuid(), {AMOUNT} FROM generate_series({{first}}, {{last}})")
        stack.sql("VACUUM ANALYZE payment_queue")
        for name in INSTANCES:
            stack.start_instance(name)
        feeder = feeding(stack, depth)
        with generate(stack, TRICKLE, warm_s + seconds) as posting:
            progress.wait("warming up", warm_s)
            begin, before, cpu = time.monotonic(), stack.settled(), stack.cpu_s()
            progress.wait(f"settling out of {depth:,}", seconds)
            count, passed = charged(before, stack.settled()), time.monotonic() - begin
            used = sum(stack.cpu_s().values()) - sum(cpu.values())
            posting.communicate()
        stop_feeding(stack, feeder)
        progress.say(f"  out of {depth:,}: {count / passed:,.0f} settled/s, {used / count * 1e6:.0f} us of CPU each")
        # What was claimed is finished before an instance ends; the rest is not needed any more.
        for name in INSTANCES:
            stack.stop_instance(name)
        troubles = []
        if (claimed := int(stack.sql("SELECT count(*) FROM payment_queue WHERE processor IS NOT NULL")[0][0])) > 0:
            troubles.append(f"{claimed} left claimed by instances that ended in order")
        stack.sql("TRUNCATE payment_queue")
        for name in INSTANCES:
            stack.start_instance(name)
        settled = stack.sql("SELECT correlation_id, amount FROM payment_processed")
        found = proof.audit(stack, {i: proof.auditing.Posted(started, 202, 0.0, books.cents(amount)) for i, amount in settled}, started)
        found.troubles += troubles
        return count / passed, used / count * 1e6, found, dict(stack.memory_mb)


def backlog(setting):
    """What is settled out of a deep queue, against a short one."""
    shallow, shallow_us, one, _ = settled_from(setting, SHALLOW)
    deep, deep_us, other, memory = settled_from(setting, DEEP)
    return Outcome(
        [
            at_least(f"settled with {DEEP:,} queued, against {SHALLOW:,}", deep / shallow, 0.9, "x"),
            Value(f"of that with {DEEP:,}", deep, "/s"),
            Value(f"of that with {SHALLOW:,}", shallow, "/s"),
        ],
        [one, other],
        notes=[f"CPU of the box per settled payment {deep_us:.0f} us against {shallow_us:.0f} us", "the queue is kept at its depth by statements that add what was settled; their CPU is in these numbers", f"{TRICKLE}/s are posted meanwhile"],
        memory_mb=memory,
    )


# --- summary ---------------------------------------------------------------------------------------

OLD, FEW = 10_000_000, 100_000
# Ranges that are asked for and checked, after some that only warm up.
RANGES, WARM_RANGES = 1_000, 50
# The books of this line: a payment each millisecond from here on, a thousand a second.
FIRST = datetime(2026, 1, 1, tzinfo=timezone.utc)
# Payment n, counted from 1: its amount in cents and its processor, here and in SQL.
CENTS_OF_N, FALLBACK_OF_N = (7_919, 50_000), 7
FILL = f"""
INSERT INTO payment_processed (correlation_id, amount, processor, requested_at, accepted_at, attempt)
SELECT lpad(to_hex(n), 32, '0')::uuid, (1 + n * {CENTS_OF_N[0]} % {CENTS_OF_N[1]}) / 100.0,
    CASE WHEN n % {FALLBACK_OF_N} = 0 THEN 'fallback' ELSE 'default' END,
    '{FIRST:%Y-%m-%d}Z'::timestamptz + n * interval '1 ms', now(), 1
FROM generate_series({{first}}::bigint, {{last}}) AS n
"""


class Expected:
    """The totals of any range of those books, from running sums."""

    def __init__(self, rows):
        n = numpy.arange(1, rows + 1, dtype=numpy.int64)
        cents = 1 + n * CENTS_OF_N[0] % CENTS_OF_N[1]
        fallback = n % FALLBACK_OF_N == 0
        self.rows, self.sums = rows, {}
        for name, mask in (("default", ~fallback), ("fallback", fallback)):
            self.sums[name] = [numpy.concatenate(([0], numpy.cumsum(numpy.where(mask, what, 0)))) for what in (1, cents)]

    def totals(self, first_us, last_us):
        """Count and cents per processor from one microsecond after FIRST to another, both included."""
        low = min(max(-(-first_us // 1000), 1), self.rows + 1)
        high = max(min(last_us // 1000, self.rows), low - 1)
        return {name: tuple(int(sums[high] - sums[low - 1]) for sums in both) for name, both in self.sums.items()}


def moment(micros):
    """A microsecond after FIRST, as the API wants it."""
    return (FIRST + timedelta(microseconds=micros)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def summary_times(setting, rows):
    """Milliseconds that each summary took, how many were wrong, and the memory of the instances."""
    with Stack(setting.groups, setting.folder / f"summary-{rows}") as stack:
        in_chunks(stack, f"booking {rows:,}", rows, FILL)
        with stack.groups.lifted():
            stack.sql("VACUUM (ANALYZE) payment_processed; VACUUM (ANALYZE) payment_rollup; CHECKPOINT")
        expected, choose = Expected(rows), Random(2026)
        gateway, times, wrong = books.Service("gateway", stack.gateway), [], []
        with progress.bar(f"summaries over {rows:,}", RANGES) as to:
            for index in range(-WARM_RANGES, RANGES):
                first, last = sorted(choose.randrange(-1_000_000, (rows + 1_000) * 1000) for _ in range(2))
                begin = time.perf_counter()
                answer = gateway.json(f"/payments-summary?from={moment(first)}&to={moment(last)}")
                if index >= 0:
                    times.append((time.perf_counter() - begin) * 1000)
                    got = {name: (t["totalRequests"], books.cents(Decimal(t["totalAmount"]))) for name, t in answer.items()}
                    if got != expected.totals(first, last):
                        wrong.append(f"from {moment(first)} to {moment(last)}: {got}, expected {expected.totals(first, last)}")
                    to(index)
        stack.note_memory()
        progress.say(f"  {rows:,} settled: p50 {at(times, 0.5):.2f} p99 {at(times, 0.99):.2f} max {max(times):.2f} ms, {len(wrong)} wrong of {RANGES}")
        return times, wrong, dict(stack.memory_mb)


def at(values, share):
    """The smallest value that this share of all do not exceed."""
    return proof.percentile(values, share)


def summary(setting):
    """Summaries of random ranges over ten million settled payments."""
    rows = setting.rows or OLD
    few, few_wrong, _ = summary_times(setting, FEW)
    old, old_wrong, memory = summary_times(setting, rows)
    found = proof.Proof(2 * RANGES, [f"{len(wrong)} SUMMARIES WRONG, e.g. {wrong[0]}" for wrong in (few_wrong, old_wrong) if wrong])
    found.what = f"{2 * RANGES:,} summaries of random ranges exact to the cent"
    return Outcome(
        [
            at_most(f"GET /payments-summary p99 at {rows:,} settled", at(old, 0.99), 10, "ms"),
            at_most(f"of that p99 over its p99 at {FEW:,}", at(old, 0.99) / at(few, 0.99), 2, "x"),
            Value(f"p50 at {rows:,} settled", at(old, 0.5), "ms"),
            Value(f"p50 at {FEW:,} settled", at(few, 0.5), "ms"),
        ],
        [found],
        notes=["ranges with both ends at random microseconds, one GET at a time through nginx, a thousand payments in each second of the books"],
        memory_mb=memory,
    )


# --- logged and bound ------------------------------------------------------------------------------


def logged(setting):
    """What is accepted and settled with a logged queue, against an unlogged one."""
    with Stack(setting.groups, setting.folder / "logged") as stack:
        for name in INSTANCES:
            stack.stop_instance(name)
        progress.say("  durability_bench, its database in the box")
        printed = run([RELEASE / "examples" / "durability_bench"], env={"TEST_DATABASE_URL": stack.url("postgres", "postgres")})
    values = []
    for what, unlogged, with_log, ratio in durability_rows(printed):
        target = at_least if what.startswith("accepted") else lambda what, value, limit, unit: Value(what, value, unit)
        values += [target(f"{what}, logged queue against unlogged", ratio, 0.7, "x"), Value("of that unlogged", unlogged, "/s"), Value("of that logged", with_log, "/s")]
    found = proof.Proof(0)
    found.what = printed.strip().splitlines()[-1]
    return Outcome(values, [found])


def durability_rows(printed):
    """The rows of the table that durability_bench prints."""
    rows = re.findall(r"^\| ([a-z ]+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", printed, re.MULTILINE)
    if len(rows) != 2:
        raise Broken(f"durability_bench printed no table: {printed[-300:]}")
    return [(what, float(unlogged), float(with_log), float(ratio)) for what, unlogged, with_log, ratio in rows]


# pgbench's clients and threads: as many connections as two instances use at once.
CLIENTS, THREADS = 8, 1
# Rows that a script with "batch" or "life" in its name handles each time; it says so itself, too.
BATCH = 100
SCRIPTS = (("insert-one", 1), ("insert-batch", BATCH), ("life-batch", BATCH))


def bound(setting):
    """What this PostgreSQL does in this box when nothing but pgbench asks it."""
    seconds, values = setting.seconds or 10, []
    with Stack(setting.groups, setting.folder / "bound") as stack:
        for name in INSTANCES:
            stack.stop_instance(name)
        for name, rows in SCRIPTS:
            file = REPOSITORY / "bench" / "pgbench" / f"{name}.sql"
            cpu = stack.cpu_s()["postgres"]
            command = ["pgbench", "--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}", f"--jobs={THREADS}", f"--time={seconds}", f"--file={file}"]
            printed = run([*command, stack.url("postgres", "payments")])
            done = transactions(printed) * rows
            used = (stack.cpu_s()["postgres"] - cpu) / done * 1e6
            about = next(line.removeprefix("-- ") for line in file.read_text().splitlines())
            values += [Value(about, done / seconds, "/s"), Value("of that CPU of PostgreSQL", used, "us each")]
            progress.say(f"  {about}: {done / seconds:,.0f}/s, {used:.0f} us each")
            stack.sql("TRUNCATE payment_queue, payment_processed")
    return Outcome(values, notes=[f"pgbench, {CLIENTS} clients, prepared statements, our own tables with their indexes and triggers"])


def transactions(printed):
    """How many pgbench says it has done."""
    found = re.search(r"number of transactions actually processed: (\d+)", printed)
    if not found or int(found[1]) == 0:
        raise Broken(f"pgbench did nothing: {printed[-300:]}")
    return int(found[1])
