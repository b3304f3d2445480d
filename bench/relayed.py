"""The messages of the service without anything of ours: nginx, two nginx that call a processor, and pgbench."""

import time
from contextlib import contextmanager

from bench import postgres, progress
from bench.child import Broken
from bench.offer import measured
from bench.stack import INSTANCES, Stack
from bench.stand_in import hollow

# How long pgbench may take until it is at work.
AT_WORK_S = 1
# The share of posts that may fail: where all connections to the processor are taken for a moment, nginx makes others, which the
# processor lets wait.
FAILED = 0.001
# nginx takes no body apart: each payment has an id and a time of nginx's own.
CALL = """proxy_pass http://processor/payments;
            proxy_set_header Content-Type application/json;
            proxy_set_body '{"correlationId":"$request_id","amount":19.90,"requestedAt":"2026-01-01T00:00:00.000Z"}';"""
PROCESSOR = "upstream processor { server %s; keepalive 512; keepalive_requests 1000000; }"


@contextmanager
def started(setting, delay_ms):
    """A stack in which each payment goes through nginx and one of two more to a processor. None is looked for, claimed, settled or
    added up."""
    with Stack(setting.groups, setting.folder / "relayed", delay_ms=delay_ms) as stack:
        processor = next(iter(stack.processors.values())).removeprefix("http://")
        stack.port = int(hollow(stack, CALL, PROCESSOR % processor).rpartition(":")[2])
        for name in INSTANCES:
            stack.stop_instance(name)
        yield stack


def cost(stack, rate, seconds):
    """What a payment costs there at that rate, while pgbench puts as many into the queue, in us of the box's CPU: what by -> us."""
    stack.child("pgbench", postgres.command(stack, postgres.PACED, seconds + 2 * AT_WORK_S, rate))
    time.sleep(AT_WORK_S)
    before, file = sum(stack.settled().values()), stack.folder / "posted.csv"
    result = measured(stack, rate, seconds, file)
    charged = sum(stack.settled().values()) - before
    stack.children.pop("pgbench").stop()
    inserted = int(stack.sql("SELECT count(*) FROM payment_queue")[0][0])
    stack.sql("TRUNCATE payment_queue")
    file.unlink()
    if not result["posted"] * (1 - FAILED) <= charged <= inserted or result["accepted"] > charged:
        raise Broken(f"of {result['posted']} payments {charged} were charged and {inserted} inserted: {result['statuses']}")
    used = result["cpu_us_by"]
    parts = {
        "nginx": used["hollow"],
        "two nginx that call a processor": sum(used[f"hollow-{name}"] for name in INSTANCES),
        "pgbench": used["pgbench"],
        "PostgreSQL": used["postgres"],
    }
    progress.say("  with nothing of ours, us each: " + ", ".join(f"{part} {us:.0f}" for part, us in parts.items()))
    return parts
