"""The audit of a line: every payment, in our ledger and the processors', by load/audit.py."""

import csv
import sys
import time
from dataclasses import dataclass, field

from bench import progress
from bench.stack import REPOSITORY, TOKEN

sys.path.insert(0, str(REPOSITORY / "load"))

import audit as auditing  # noqa: E402 (found on the path that the line above extends)
import ledgers  # noqa: E402
from report import percentile  # noqa: E402, F401 (for the lines)


@dataclass
class Proof:
    """What the audit found."""

    payments: int
    # What is wrong, in words; empty when nothing is.
    troubles: list = field(default_factory=list)
    # What was looked at, where it is not payments one by one.
    what: str = ""

    def words(self):
        """For the report."""
        if self.troubles:
            return "; ".join(self.troubles)
        return self.what or f"{self.payments:,} payments, none lost or charged twice, ledgers equal"


class Ledgers(ledgers.Gateway):
    """Our ledger: the summary as everybody reads it, single payments straight from the tables.

    At some hundred thousand payments asking for each takes longer than the line itself.
    """

    def __init__(self, stack):
        super().__init__("gateway", stack.gateway)
        self.stack = stack

    def lookup(self, ids):
        iso = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        asked = "\n".join(ids)
        # Of a ledger that has grown these are few.
        rows = self.stack.sql(
            f"""SET work_mem = '128MB';
CREATE TEMPORARY TABLE asked (correlation_id uuid PRIMARY KEY);
COPY asked FROM STDIN;
{asked}
\\.
ANALYZE asked;
SELECT correlation_id, 'settled', amount, attempt, processor, {iso.format("requested_at")} FROM payment_processed JOIN asked USING (correlation_id)
UNION ALL SELECT correlation_id, 'queued', amount, attempt, processor, NULL FROM payment_queue JOIN asked USING (correlation_id)
UNION ALL SELECT correlation_id, 'dead', amount, attempt, processor, NULL FROM payment_dead_letter JOIN asked USING (correlation_id)"""
        )
        names = ("state", "amount", "attempts", "processor", "requestedAt")
        found = {}
        for row in rows:
            if row[0] in found:
                # A payment is in one table only; in two, it is shown as what cannot be right.
                row[1] = "in two tables"
            found[row[0]] = dict(zip(names, row[1:], strict=True)) | {"attempts": int(row[3])}
        return found


def read_posted(files):
    """What the load generator wrote, as the audit wants it."""
    posted = {}
    for file in files:
        with open(file, newline="") as lines:
            for i, at, status, micros, cents in csv.reader(lines):
                posted[i] = auditing.Posted(int(at), int(status), int(micros) / 1000, int(cents))
    return posted


def audit(stack, posted, started):
    """Looks at every payment. `posted` is id -> Posted, `started` milliseconds since 1970."""
    processors = [ledgers.Processor(name, url, TOKEN) for name, url in stack.processors.items()]
    result = auditing.audit(
        Ledgers(stack), processors, posted, started, time.time(), lambda line: None
    )
    kinds = {
        "lost": result.lost,
        "still open": result.open,
        "given up": result.dead,
        "charged twice": result.charged_twice,
        "charged with another amount": result.wrong_amount,
        "recorded otherwise than charged": result.recorded_wrongly,
        "charged and never posted": result.foreign,
    }
    troubles = [f"{len(ids)} {kind.upper()}, e.g. {ids[0]}" for kind, ids in kinds.items() if ids]
    troubles += [
        f"summary of {name} {ours}, its own {theirs}"
        for name, (ours, theirs) in result.totals.items()
        if ours != theirs
    ]
    proof = Proof(len(posted), troubles)
    progress.say(f"  audit: {proof.words()}")
    return proof
