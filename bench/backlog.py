"""The line about a deep queue: backlog."""

import subprocess
import time

from bench import progress, proof
from bench.fill import in_chunks
from bench.line import Outcome, Value, at_least
from bench.offer import charged, generate
from bench.stack import INSTANCES, Stack, programs

import ledgers  # found on the path that bench.proof extends

# Every payment of a filled queue is of this amount.
AMOUNT = "19.90"
DEEP, SHALLOW = 1_000_000, 1_000
# Payments per second that are posted meanwhile: a post is what wakes a worker that has found less
# than it had permits for, and a queue that only statements fill is looked at twice a second.
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


def feeding(stack, depth):
    """Keeps the queue at that depth until its connection is closed by :func:`stop_feeding`."""
    psql = subprocess.Popen(
        [programs() / "psql", "--no-psqlrc", "--quiet", stack.url("postgres", "payments")],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    psql.stdin.write(FEED.format(depth=depth, amount=AMOUNT))
    psql.stdin.close()
    return psql


def stop_feeding(stack, psql):
    """Ends the statement, and so psql."""
    stack.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bench feeder'"
    )
    psql.wait(10)


def settled_from(setting, depth):
    """Payments settled per second out of a queue of that depth, CPU of each, the audit, and the memory."""
    seconds, warm_s = setting.seconds or 20, 5
    with Stack(setting.groups, setting.folder / f"backlog-{depth}", delay_ms=1) as stack:
        for name in INSTANCES:
            stack.stop_instance(name)
        started = round(time.time() * 1000)
        in_chunks(
            stack,
            f"queueing {depth:,}",
            depth,
            f"INSERT INTO payment_queue (correlation_id, amount) SELECT gen_random_uuid(), {AMOUNT} FROM generate_series({{first}}, {{last}})",
        )
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
        progress.say(
            f"  out of {depth:,}: {count / passed:,.0f} settled/s, {used / count * 1e6:.0f} us of CPU each"
        )
        # What was claimed is finished before an instance ends; the rest is not needed any more.
        for name in INSTANCES:
            stack.stop_instance(name)
        troubles = []
        if (
            claimed := int(
                stack.sql("SELECT count(*) FROM payment_queue WHERE processor IS NOT NULL")[0][0]
            )
        ) > 0:
            troubles.append(f"{claimed} left claimed by instances that ended in order")
        stack.sql("TRUNCATE payment_queue")
        for name in INSTANCES:
            stack.start_instance(name)
        settled = stack.sql("SELECT correlation_id, amount FROM payment_processed")
        found = proof.audit(
            stack,
            {
                i: proof.auditing.Posted(started, 202, 0.0, ledgers.cents(amount))
                for i, amount in settled
            },
            started,
        )
        found.troubles += troubles
        return count / passed, used / count * 1e6, found, dict(stack.memory_mb)


def backlog(setting):
    """What is settled out of a deep queue, against a short one."""
    shallow, shallow_us, one, _ = settled_from(setting, SHALLOW)
    deep, deep_us, other, memory = settled_from(setting, DEEP)
    return Outcome(
        [
            at_least(
                f"settled with {DEEP:,} queued, against {SHALLOW:,}", deep / shallow, 0.9, "x"
            ),
            Value(f"of that with {DEEP:,}", deep, "/s"),
            Value(f"of that with {SHALLOW:,}", shallow, "/s"),
        ],
        [one, other],
        notes=[
            f"CPU of the box per settled payment {deep_us:.0f} us against {shallow_us:.0f} us",
            "the queue is kept at its depth by statements that add what was settled; their CPU is in these numbers",
            f"{TRICKLE}/s are posted meanwhile",
        ],
        memory_mb=memory,
    )
