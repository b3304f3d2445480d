"""The line about what a logged queue costs: logged."""

import re

from bench import progress, proof
from bench.child import Broken, run
from bench.line import Outcome, Value, at_least
from bench.stack import INSTANCES, PROGRAMS, Stack


def logged(setting):
    """What is accepted and settled with a logged queue, against an unlogged one."""
    with Stack(setting.groups, setting.folder / "logged") as stack:
        for name in INSTANCES:
            stack.stop_instance(name)
        progress.say("  durability_bench, its database in the box")
        printed = run(
            [PROGRAMS / "examples" / "durability_bench"],
            env={"TEST_DATABASE_URL": stack.url("postgres", "postgres")},
        )
    values = []
    for what, unlogged, with_log, ratio in durability_rows(printed):
        target = (
            at_least
            if what.startswith("accepted")
            else lambda what, value, limit, unit: Value(what, value, unit)
        )
        values += [
            target(f"{what}, logged queue against unlogged", ratio, 0.7, "x"),
            Value("of that unlogged", unlogged, "/s"),
            Value("of that logged", with_log, "/s"),
        ]
    found = proof.Proof(0)
    found.what = printed.strip().splitlines()[-1]
    return Outcome(values, [found])


def durability_rows(printed):
    """The rows of the table that durability_bench prints."""
    rows = re.findall(r"^\| ([a-z ]+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", printed, re.MULTILINE)
    if len(rows) != 2:
        raise Broken(f"durability_bench printed no table: {printed[-300:]}")
    return [
        (what, float(unlogged), float(with_log), float(ratio))
        for what, unlogged, with_log, ratio in rows
    ]
