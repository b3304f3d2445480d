"""The line about old ledgers: summary."""

import time
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from random import Random

import numpy

from bench import progress, proof
from bench.fill import in_chunks
from bench.line import Outcome, Value, at_most
from bench.stack import Stack

import ledgers  # found on the path that bench.proof extends

OLD, FEW = 10_000_000, 100_000
# Ranges that are asked for and checked, after some that only warm up.
RANGES, WARM_RANGES = 1_000, 50
# The ledgers of this line: a payment each millisecond from here on, a thousand a second.
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
    """The totals of any range of that ledger, from running sums."""

    def __init__(self, rows):
        n = numpy.arange(1, rows + 1, dtype=numpy.int64)
        cents = 1 + n * CENTS_OF_N[0] % CENTS_OF_N[1]
        fallback = n % FALLBACK_OF_N == 0
        self.rows, self.sums = rows, {}
        for name, mask in (("default", ~fallback), ("fallback", fallback)):
            self.sums[name] = [
                numpy.concatenate(([0], numpy.cumsum(numpy.where(mask, what, 0))))
                for what in (1, cents)
            ]

    def totals(self, first_us, last_us):
        """Count and cents per processor from one microsecond after FIRST to another, both included."""
        low = min(max(-(-first_us // 1000), 1), self.rows + 1)
        high = max(min(last_us // 1000, self.rows), low - 1)
        return {
            name: tuple(int(sums[high] - sums[low - 1]) for sums in both)
            for name, both in self.sums.items()
        }


def moment(micros):
    """A microsecond after FIRST, as the API wants it."""
    return (FIRST + timedelta(microseconds=micros)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def summary_times(setting, rows):
    """Milliseconds that each summary took, how many were wrong, and the memory of the instances."""
    with Stack(setting.groups, setting.folder / f"summary-{rows}") as stack:
        in_chunks(stack, f"booking {rows:,}", rows, FILL)
        with stack.groups.lifted():
            stack.sql(
                "VACUUM (ANALYZE) payment_processed; VACUUM (ANALYZE) payment_rollup; CHECKPOINT"
            )
        expected, choose = Expected(rows), Random(2026)
        gateway, times, wrong = ledgers.Service("gateway", stack.gateway), [], []
        with progress.bar(f"summaries over {rows:,}", RANGES) as to:
            for index in range(-WARM_RANGES, RANGES):
                first, last = sorted(
                    choose.randrange(-1_000_000, (rows + 1_000) * 1000) for _ in range(2)
                )
                begin = time.perf_counter()
                answer = gateway.json(f"/payments-summary?from={moment(first)}&to={moment(last)}")
                if index >= 0:
                    times.append((time.perf_counter() - begin) * 1000)
                    got = {
                        name: (t["totalRequests"], ledgers.cents(Decimal(t["totalAmount"])))
                        for name, t in answer.items()
                    }
                    if got != expected.totals(first, last):
                        wrong.append(
                            f"from {moment(first)} to {moment(last)}: {got}, expected {expected.totals(first, last)}"
                        )
                    to(index)
        stack.note_memory()
        progress.say(
            f"  {rows:,} settled: p50 {proof.percentile(times, 0.5):.2f} p99 {proof.percentile(times, 0.99):.2f} max {max(times):.2f} ms, {len(wrong)} wrong of {RANGES}"
        )
        return times, wrong, dict(stack.memory_mb)


def summary(setting):
    """Summaries of random ranges over ten million settled payments."""
    rows = setting.rows or OLD
    few, few_wrong, _ = summary_times(setting, FEW)
    old, old_wrong, memory = summary_times(setting, rows)
    found = proof.Proof(
        2 * RANGES,
        [
            f"{len(wrong)} SUMMARIES WRONG, e.g. {wrong[0]}"
            for wrong in (few_wrong, old_wrong)
            if wrong
        ],
    )
    found.what = f"{2 * RANGES:,} summaries of random ranges exact to the cent"
    return Outcome(
        [
            at_most(
                f"GET /payments-summary p99 at {rows:,} settled",
                proof.percentile(old, 0.99),
                10,
                "ms",
            ),
            at_most(
                f"of that p99 over its p99 at {FEW:,}",
                proof.percentile(old, 0.99) / proof.percentile(few, 0.99),
                2,
                "x",
            ),
            Value(f"p50 at {rows:,} settled", proof.percentile(old, 0.5), "ms"),
            Value(f"p50 at {FEW:,} settled", proof.percentile(few, 0.5), "ms"),
        ],
        [found],
        notes=[
            "ranges with both ends at random microseconds, one GET at a time through nginx, a thousand payments in each second of the ledgers"
        ],
        memory_mb=memory,
    )
