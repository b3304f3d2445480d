"""The line that says where the time goes: profile."""

from bench import box
from bench.line import Value
from bench.rates import CPU_RATES, QUICK_MS, Bench
from bench.stack import INSTANCES

SETTINGS = ("shared_preload_libraries=pg_stat_statements",)
# What is in a statement of the service -> what it does.
STATEMENTS = {
    "accept_payment(": "accept one",
    "accept_payments(": "accept some",
    "WITH queued AS": "claim",
    "settle_payments(": "settle",
}
OTHERS = "all else"
SEEN = "SELECT replace(query, ',', ' '), calls, total_exec_time * 1000 FROM (SELECT regexp_replace(query, '\\s+', ' ', 'g') AS query, calls, total_exec_time FROM pg_stat_statements) s"


def profile(setting):
    """Where the CPU of the box goes: by program and kernel, and by statement, at the rates of cpu."""
    seconds, values, notes = setting.seconds or 20, [], []
    with Bench(setting, "profile", delay_ms=QUICK_MS, postgres=SETTINGS) as bench:
        stack = bench.stack
        stack.sql("CREATE EXTENSION pg_stat_statements")
        for rate in [setting.rate] if setting.rate else CPU_RATES:
            stack.sql("SELECT pg_stat_statements_reset()")
            before = box.cpu_split_s(stack.trees())
            load = bench.offer(rate, seconds)
            after = box.cpu_split_s(stack.trees())
            for part, names in (
                ("postgres", ["postgres"]),
                ("instances", INSTANCES),
                ("nginx", ["nginx"]),
            ):
                user, system = (
                    sum(after[name][mode] - before[name][mode] for name in names)
                    / load.accepted
                    * 1e6
                    for mode in (0, 1)
                )
                values += [
                    Value(f"{part} at {rate:,}/s, in the program", user, "us per payment"),
                    Value(f"{part} at {rate:,}/s, in the kernel", system, "us per payment"),
                ]
            for what, (calls, micros) in by_statement(stack.sql(SEEN)).items():
                values.append(
                    Value(
                        f"statements at {rate:,}/s: {what}",
                        micros / load.accepted,
                        f"us per payment, {load.accepted / max(1, calls):.3g} payments a call",
                    )
                )
            notes.append(load.words())
        return bench.outcome(
            values,
            notes=[
                *notes,
                "pg_stat_statements counts the time in the executor only, waits included; its own cost is in these numbers",
            ],
        )


def by_statement(rows):
    """Calls and microseconds of each kind of statement: what it does -> (calls, microseconds)."""
    found = dict.fromkeys([*STATEMENTS.values(), OTHERS], (0, 0.0))
    for query, calls, micros in rows:
        what = next((name for part, name in STATEMENTS.items() if part in query), OTHERS)
        found[what] = (found[what][0] + int(calls), found[what][1] + float(micros))
    return found
