"""What the load's audit must not overlook. Run: python3 -B -m unittest discover -s load"""

import unittest
from decimal import Decimal
from types import SimpleNamespace

import audit as auditing
import books
import report

START = 1_700_000_000_000
AT = START + 500


class Gateway:
    """Our books as a dict: id -> (processor, cents, requestedAt)."""

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
                "requestedAt": books.iso(at),
                "attempts": 1,
            }
            for i, (n, c, at) in self.rows.items()
            if i in ids
        }


class Processor:
    """A processor's books: id -> (cents, requestedAt)."""

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
        self.assertEqual((a.accepted, a.settled, a.lost, a.booked_wrongly), (1, 1, [], []))
        self.assertTrue(a.totals_agree)

    def test_accepted_and_charged_nowhere_is_lost(self):
        self.assertEqual(audit_of({"a": posted()}, {}, {}).lost, ["a"])

    def test_booked_by_us_and_charged_nowhere_is_lost(self):
        a = audit_of({"a": posted()}, {"a": ("default", 1990, AT)}, {})
        self.assertEqual(a.lost, ["a"])
        self.assertFalse(a.totals_agree)

    def test_an_id_on_both_processors_is_charged_twice(self):
        a = audit_of(
            {"a": posted()}, {"a": ("default", 1990, AT)}, {"a": (1990, AT)}, {"a": (1990, AT)}
        )
        self.assertEqual(a.charged_twice, ["a"])
        self.assertFalse(a.totals_agree)

    def test_another_stamp_processor_or_amount_in_our_books_is_booked_wrongly(self):
        for row in (("default", 1990, AT + 1), ("fallback", 1990, AT), ("default", 1991, AT)):
            self.assertEqual(
                audit_of({"a": posted()}, {"a": row}, {"a": (1990, AT)}).booked_wrongly, ["a"]
            )

    def test_charged_and_unknown_to_us_is_booked_wrongly(self):
        self.assertEqual(audit_of({"a": posted()}, {}, {"a": (1990, AT)}).booked_wrongly, ["a"])

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
        self.assertEqual(books.cents(Decimal("90071992547409.93")), 9007199254740993)

    def test_fractions_of_a_cent_are_an_error(self):
        with self.assertRaises(books.Unreadable):
            books.cents(Decimal("19.901"))


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


if __name__ == "__main__":
    unittest.main()
