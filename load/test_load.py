"""What the load's audit must not overlook. Run: python3 -B -m unittest discover -s load"""

import io
import json
import unittest
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import audit as auditing
import ledgers
import report
import run

START = 1_700_000_000_000
AT = START + 500


class Gateway:
    """Our ledger as a dict: id -> (processor, cents, requestedAt)."""

    def __init__(self, rows):
        self.rows = rows

    def totals(self, start, end):
        totals = {}
        for name in ("default", "fallback"):
            inside = [c for n, c, at in self.rows.values() if n == name and start <= at <= end]
            totals[name] = (len(inside), sum(inside))
        return totals

    def lookup(self, ids):
        return {
            i: {
                "state": "settled",
                "processor": n,
                "amount": Decimal(c) / 100,
                "requestedAt": ledgers.iso(at),
                "attempts": 1,
            }
            for i, (n, c, at) in self.rows.items()
            if i in ids
        }


class Processor:
    """A processor's ledger: id -> (cents, requestedAt)."""

    def __init__(self, name, rows):
        self.name, self.rows = name, rows

    def totals(self, start, end):
        inside = [c for c, at in self.rows.values() if start <= at <= end]
        return len(inside), sum(inside)

    def payments(self, ids):
        return dict(self.rows)


def audit_of(posted, ours, default, fallback=None):
    gateway, processors = (
        Gateway(ours),
        [Processor("default", default), Processor("fallback", fallback or {})],
    )
    # The load ended long ago: the drain looks once and waits for nothing.
    return auditing.audit(gateway, processors, posted, START, 0, lambda line: None)


def posted(status=202, cents=1990):
    return auditing.Posted(AT, status, 1.0, cents)


class Audit(unittest.TestCase):
    def test_what_is_in_order_is_settled(self):
        a = audit_of({"a": posted()}, {"a": ("default", 1990, AT)}, {"a": (1990, AT)})
        self.assertEqual((a.accepted, a.settled, a.lost, a.recorded_wrongly), (1, 1, [], []))
        self.assertTrue(a.totals_agree)

    def test_accepted_and_charged_nowhere_is_lost(self):
        self.assertEqual(audit_of({"a": posted()}, {}, {}).lost, ["a"])

    def test_recorded_by_us_and_charged_nowhere_is_lost(self):
        a = audit_of({"a": posted()}, {"a": ("default", 1990, AT)}, {})
        self.assertEqual(a.lost, ["a"])
        self.assertFalse(a.totals_agree)

    def test_an_id_on_both_processors_is_charged_twice(self):
        a = audit_of(
            {"a": posted()}, {"a": ("default", 1990, AT)}, {"a": (1990, AT)}, {"a": (1990, AT)}
        )
        self.assertEqual(a.charged_twice, ["a"])
        self.assertFalse(a.totals_agree)

    def test_another_stamp_processor_or_amount_in_our_books_is_recorded_wrongly(self):
        for row in (("default", 1990, AT + 1), ("fallback", 1990, AT), ("default", 1991, AT)):
            self.assertEqual(
                audit_of({"a": posted()}, {"a": row}, {"a": (1990, AT)}).recorded_wrongly, ["a"]
            )

    def test_charged_and_unknown_to_us_is_recorded_wrongly(self):
        self.assertEqual(audit_of({"a": posted()}, {}, {"a": (1990, AT)}).recorded_wrongly, ["a"])

    def test_another_amount_than_posted_is_seen(self):
        a = audit_of({"a": posted(cents=1)}, {"a": ("default", 1990, AT)}, {"a": (1990, AT)})
        self.assertEqual(a.wrong_amount, ["a"])

    def test_an_unanswered_payment_may_be_charged_once_or_not_at_all(self):
        a = audit_of(
            {"a": posted(0), "b": posted(0)}, {"a": ("default", 1990, AT)}, {"a": (1990, AT)}
        )
        self.assertEqual((a.charged_unanswered, a.lost, a.accepted), (["a"], [], 0))

    def test_a_payment_of_somebody_else_is_told_apart(self):
        self.assertEqual(audit_of({}, {"x": ("default", 1, AT)}, {"x": (1, AT)}).foreign, ["x"])


class Money(unittest.TestCase):
    def test_cents_are_exact(self):
        self.assertEqual(ledgers.cents(Decimal("90071992547409.93")), 9007199254740993)

    def test_fractions_of_a_cent_are_an_error(self):
        with self.assertRaises(ledgers.Unreadable):
            ledgers.cents(Decimal("19.901"))


def run_with(p99, agree=True):
    row = {"count": 10, "cents": 19900}
    check = {"rows": {"default": {"ours": row if agree else None, "theirs": row}}}
    return SimpleNamespace(
        end={"rows": {"default": {"theirs": row}}},
        checks=[check],
        fees={"default": Decimal("0.05")},
        k6={"http_p99_ms": p99, "http_replies": 10},
    )


class Score(unittest.TestCase):
    def test_each_millisecond_below_eleven_is_worth_two_percent(self):
        self.assertEqual(report.score(run_with(1.0))["score"], Decimal("189.05") * Decimal("1.2"))

    def test_a_slow_p99_costs_nothing(self):
        self.assertEqual(report.score(run_with(500.0))["score"], Decimal("189.05"))

    def test_a_disagreement_or_an_unreadable_summary_costs_35_percent(self):
        self.assertEqual(
            report.score(run_with(11.0, agree=False))["score"], Decimal("189.05") * Decimal("0.65")
        )

    def test_percentiles_are_values_that_occurred(self):
        self.assertEqual(report.percentile(list(range(1, 101)), 0.99), 99)
        self.assertEqual(report.percentile([7], 0.99), 7)
        self.assertIsNone(report.percentile([], 0.99))


FAULTS = {
    "replyLost": 0.05,
    "requestLost": 0.05,
    "failAfter": 0.03,
    "failBefore": 0.05,
    "replyHangs": 0.01,
}


class Simulated:
    """A processor that injects faults, or the real one, which does not."""

    def __init__(self, name, injected):
        self.name, self.injected = name, injected

    def faults(self):
        return self.injected


def run_of(scenario, drained_after_s=1.0):
    """A run in which one payment was settled."""
    found = run.Run(scenario, {n: Decimal(f) for n, f in scenario["fees"].items()})
    row = {"count": 1, "cents": 1990}
    rows = {n: {"ours": row, "theirs": row} for n in found.fees}
    found.started, found.posted = START, {"a": posted()}
    found.end, found.k6 = {"rows": rows}, {"http_p99_ms": 1.0, "http_replies": 1, "iterations": 0}
    found.checks = [{"kind": "check", "at": START + n * 1000, "rows": rows} for n in range(30)]
    found.audit = auditing.Audit(accepted=1, settled=1, drained_after_s=drained_after_s)
    found.audit.totals = {n: ((1, 1990), (1, 1990)) for n in found.fees}
    found.about = dict.fromkeys(("what", "machine", "commit", "when", "command"), "-")
    return found


class Unreliable(unittest.TestCase):
    """The scenario in which replies are lost, late or wrong."""

    def setUp(self):
        file = Path(run.__file__).parent / "scenarios" / "unreliable.json"
        self.scenario = json.loads(file.read_text())

    def test_its_processors_lose_fail_and_hang_as_often_as_it_says(self):
        (stage,) = self.scenario["stages"]
        for name in self.scenario["fees"]:
            self.assertEqual(stage[name]["faults"], FAULTS)
        self.assertEqual(self.scenario["users"], {"first": 280, "last": 280})
        self.assertEqual(self.scenario["checks"]["to_ago_ms"], 1500)
        self.assertEqual(self.scenario["checks"]["final_to_ago_ms"], 1500)

    def test_what_is_recorded_late_fails_the_run(self):
        self.assertEqual(report.troubles(run_of(self.scenario, 2.9)), [])
        (late,) = report.troubles(run_of(self.scenario, 3.1))
        self.assertIn("not within 3 s", late)

    def test_processors_that_cannot_inject_faults_are_refused_before_the_load(self):
        processors = [Simulated("default", {"replyLost": 7}), Simulated("fallback", None)]
        with self.assertRaisesRegex(ledgers.Unreadable, "fallback is not simulated"):
            run.faults_of(processors, self.scenario)
        calm = {"stages": [{"at_s": 0, "fallback": {"delay_ms": 0, "failing": False}}]}
        self.assertEqual(run.faults_of(processors, calm), {})

    def test_faults_and_many_checks_are_reported_in_few_lines(self):
        found = run_of(self.scenario)
        found.faults = {"default": {"replyHangs": 84, "replyLost": 420}, "fallback": {}}
        figures = report.figures(found)
        text = report.text(figures)
        self.assertIn("| replyHangs |      84 |        0 |", text)
        self.assertIn("30 of 30", text)
        self.assertIn("from 0 to 29 s", text)
        self.assertEqual(json.loads(json.dumps(figures["faults"])), found.faults)


class Shown(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


class Progress(unittest.TestCase):
    def shown(self, terminal):
        screen = run.Screen(Shown(terminal))
        screen.say("begin")
        screen.at(15, 60, "300 payments/s")
        screen.say("a stage")
        screen.end()
        return screen.out.getvalue()

    def test_a_terminal_shows_how_far_the_load_is_below_what_stays(self):
        text = self.shown(terminal=True)
        bar = f"{'█' * 5}{'░' * 15} 15 of 60 s  300 payments/s"
        clear = run.Screen.CLEAR
        self.assertEqual(text, f"begin\n{clear}{bar}{clear}a stage\n{bar}{clear}")

    def test_a_file_gets_lines_that_stay_and_nothing_else(self):
        self.assertEqual(self.shown(terminal=False), "begin\na stage\n")


if __name__ == "__main__":
    unittest.main()
