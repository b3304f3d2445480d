"""The line that runs the contest's minute: public."""

import json
from decimal import Decimal
from statistics import median
from types import SimpleNamespace

from bench import pairs, progress, proof
from bench.child import Broken
from bench.line import Outcome, Value, at_most
from bench.stack import REPOSITORY, Stack
from bench.stand_in import bare_nginx, least_program, replace_instances

# Found on the path that bench.proof extends: the scripts of `make load`.
import audit as auditing
import ledgers
import report as load_report
import run as loading

# Loads shorter than this use the short scenario.
PUBLIC_S = 60
# How often each has the minute, one right after the other: one and the same has a p99 of 1.6 and of
# 3.1 ms in two minutes. k6 starts its 550 users 60/550 s apart, and each posts once a second and
# what its reply took, so they come in 55 groups; how close those of a group are depends on all
# replies so far.
TURNS = 5


def chosen(setting):
    """The contest's minute, or less where less is asked for: the file, and what it says."""
    name = "public" if (setting.seconds or PUBLIC_S) >= PUBLIC_S else "short"
    file = REPOSITORY / "load" / "scenarios" / f"{name}.json"
    return file, json.loads(file.read_text())


def play(setting, stack, address):
    """Runs the scenario against that address."""
    file, scenario = chosen(setting)
    processors = [
        ledgers.Processor(name, url, proof.TOKEN) for name, url in stack.processors.items()
    ]
    run = loading.Run(scenario, {n: Decimal(fee) for n, fee in scenario["fees"].items()})
    loading.run_k6(
        SimpleNamespace(file=file, gateway=address, token=proof.TOKEN, k6=setting.k6),
        run,
        processors,
    )
    return run, processors


def answered(run):
    """The POSTs that were answered."""
    return [post for post in run.posted.values() if not post.unanswered]


class Latencies:
    """Those of one in all its turns, in ms."""

    def __init__(self):
        self.p50, self.p99 = [], []

    def add(self, run):
        """Those of one more turn: of the POSTs that were answered."""
        ms = [post.ms for post in answered(run)]
        self.p50.append(load_report.percentile(ms, 0.5))
        self.p99.append(load_report.percentile(ms, 0.99))

    def over(self, others):
        """How many times the p99 of others this one's is, turn by turn, and between what that is in 95 of 100 draws."""
        return pairs.times(list(zip(others.p99, self.p99, strict=True)))

    def words(self, what):
        """For the report."""
        turns = ", ".join(f"{ms:.2f}" for ms in self.p99)
        return f"{what}: POST p99 {turns} ms in its turns, p50 {median(self.p50):.2f} ms"


def least(setting, stack, program):
    """The least that commits before it answers, in the place of both instances."""
    replace_instances(stack, program)
    run, _ = play(setting, stack, stack.gateway)
    accepted, inserted = (
        len(answered(run)),
        int(stack.sql("SELECT count(*) FROM payment_queue")[0][0]),
    )
    if accepted > inserted:
        raise Broken(
            f"of {accepted} payments that the least program accepted {inserted} are in the queue"
        )
    stack.sql("TRUNCATE payment_queue")
    replace_instances(stack)
    return run


def service(setting, stack):
    """The service, with its audit."""
    run, processors = play(setting, stack, stack.gateway)
    run.audit = auditing.audit(
        ledgers.Gateway("gateway", stack.gateway),
        processors,
        run.posted,
        run.started,
        run.end["at"] / 1000,
        progress.say,
    )
    return run


def public(setting):
    """The contest's minute in turns: of a bare nginx, of the least that commits before it answers, of the service."""
    turns = setting.turns or TURNS
    with Stack(setting.groups, setting.folder / "public") as stack:
        address, program = bare_nginx(stack), least_program(stack.folder)
        bare, lowest, ours, runs = Latencies(), Latencies(), Latencies(), []
        for turn in range(1, turns + 1):
            progress.say(f"  turn {turn} of {turns}: a bare nginx that answers 202")
            bare.add(play(setting, stack, address)[0])
            progress.say(
                "  the least that commits before it answers, in the place of the instances"
            )
            lowest.add(least(setting, stack, program))
            progress.say("  the service")
            runs.append(service(setting, stack))
            ours.add(runs[-1])
        stack.note_memory()
        stack.stop_nginx("bare")
        checks = [load_report.agrees(check) for run in runs for check in run.checks]
        score = median(load_report.score(run)["score"] for run in runs)
        (times, *within), (least_times, *least_within) = ours.over(bare), lowest.over(bare)
        return Outcome(
            [
                at_most(
                    f"POST p99, the public minute, over a bare nginx's, in {turns} pairs",
                    times,
                    1.5,
                    "x",
                ),
                Value("of that ours, the median", median(ours.p99), "ms"),
                Value("of that the bare nginx, the median", median(bare.p99), "ms"),
                Value(
                    "of that the least that commits before it answers, in the place of the instances, the median",
                    median(lowest.p99),
                    "ms",
                ),
                Value("of that over the bare nginx's", least_times, "x"),
                Value("checks that agree", sum(checks), f"of {len(checks)}", "all", all(checks)),
                Value("score as the contest computes it, the median", float(score), ""),
            ],
            [
                proof.Proof(
                    sum(len(run.posted) for run in runs),
                    [trouble for run in runs for trouble in load_report.troubles(run)],
                )
            ],
            memory_mb=dict(stack.memory_mb),
            notes=[
                ours.words("the service"),
                bare.words("the bare nginx"),
                lowest.words("the least that commits"),
                "95 in 100 times the service is {:.2f} to {:.2f} x the bare nginx, the least {:.2f} to {:.2f} x".format(
                    *within, *least_within
                ),
            ],
        )
