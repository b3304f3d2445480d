"""The audit after the drain: every payment that was posted, one by one, in all ledgers."""

import hashlib
import time
from dataclasses import dataclass, field

from ledgers import cents, instant

# How long after the load the queue may take to drain. What is open then is reported as such.
DRAIN_LIMIT_S = 120
# Pause between two looks at the ledgers while it drains.
DRAIN_POLL_S = 1
# Ids shown of each kind of trouble.
EXAMPLES = 5
# The ledgers are compared from the start of the run to this long after now, so that nothing is cut
# off.
RANGE_MARGIN_MS = 60_000


def correlation_id(run_id, user, turn):
    """The id of a payment; load/scenario.js derives it in the same way."""
    h = hashlib.md5(f"{run_id}:{user}:{turn}".encode()).hexdigest()
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-8{h[17:20]}-{h[20:]}"


@dataclass
class Posted:
    """One payment as its client saw it."""

    at: int
    status: int
    ms: float
    cents: int

    @property
    def accepted(self):
        return 200 <= self.status <= 299

    @property
    def unanswered(self):
        return self.status == 0


@dataclass
class Audit:
    """What the ledgers say. Each list holds ids."""

    accepted: int = 0
    settled: int = 0
    lost: list = field(default_factory=list)
    open: list = field(default_factory=list)
    dead: list = field(default_factory=list)
    charged_twice: list = field(default_factory=list)
    wrong_amount: list = field(default_factory=list)
    # Charged by a processor, while our ledger say nothing of it, or another processor or time.
    recorded_wrongly: list = field(default_factory=list)
    # No 2xx came back, and yet it was charged: allowed (the client may repeat it), but worth a
    # line.
    charged_unanswered: list = field(default_factory=list)
    charged_refused: list = field(default_factory=list)
    # On a processor and not posted by this run: left over from before.
    foreign: list = field(default_factory=list)
    # Per processor: ours and theirs as (count, cents).
    totals: dict = field(default_factory=dict)
    # Milliseconds from the POST to the requestedAt of the call that was charged.
    waits_ms: list = field(default_factory=list)
    # Claims beyond the first, of all settled payments: attempts that failed, were not sent or were
    # in doubt.
    failed_attempts: int = 0
    # requestedAt and processor of all that is charged.
    charges: list = field(default_factory=list)
    drained_after_s: float = None

    @property
    def totals_agree(self):
        return all(ours == theirs for ours, theirs in self.totals.values())


def compare_totals(gateway, processors, start):
    """Per processor: ours and theirs over the whole run."""
    end = round(time.time() * 1000) + RANGE_MARGIN_MS
    ours = gateway.totals(start, end)
    return {p.name: (ours.get(p.name), p.totals(start, end)) for p in processors}


def drain(gateway, processors, start, accepted, ended, show):
    """Waits until all that was accepted is in all ledgers, at most DRAIN_LIMIT_S after the load."""
    shown = None
    while True:
        totals = compare_totals(gateway, processors, start)
        ours = sum(o[0] for o, _ in totals.values() if o)
        theirs = sum(t[0] for _, t in totals.values())
        after = time.time() - ended
        if ours == theirs and ours >= accepted:
            return totals, after
        if after > DRAIN_LIMIT_S:
            return totals, None
        line = f"{accepted} accepted, {theirs} charged, {ours} in our summary"
        if line != shown:
            show(f"draining for {after:.0f} s: {line}")
            shown = line
        time.sleep(DRAIN_POLL_S)


def audit(gateway, processors, posted, start, ended, show):
    """Looks at every payment in all ledgers. `posted` is id -> Posted."""
    result = Audit()
    accepted = [i for i, p in posted.items() if p.accepted]
    result.accepted = len(accepted)
    result.totals, result.drained_after_s = drain(
        gateway, processors, start, len(accepted), ended, show
    )

    show(f"auditing {len(posted)} payments one by one")
    ours = gateway.lookup(posted)
    theirs = {p.name: p.payments(posted) for p in processors}

    charged = {}
    for name, payments in theirs.items():
        for i, (amount, at) in payments.items():
            charged.setdefault(i, []).append((name, amount, at))
            result.charges.append((at, name))

    for i, payment in posted.items():
        charges, book = charged.get(i, []), ours.get(i)
        state = book["state"] if book else None
        if len(charges) > 1:
            result.charged_twice.append(i)
        if charges:
            name, amount, at = charges[0]
            result.waits_ms.append(at - payment.at)
            if amount != payment.cents:
                result.wrong_amount.append(i)
            if len(charges) == 1 and not is_recorded(book, name, amount, at):
                result.recorded_wrongly.append(i)
            if payment.unanswered:
                result.charged_unanswered.append(i)
            elif not payment.accepted:
                result.charged_refused.append(i)
        if payment.accepted:
            if charges:
                result.settled += 1
                result.failed_attempts += max(0, book["attempts"] - 1) if book else 0
            elif state == "dead":
                result.dead.append(i)
            elif state is None or state == "settled":
                # Unknown to us, or settled in our ledger and charged nowhere.
                result.lost.append(i)
            else:
                result.open.append(i)
    result.foreign = [i for i in charged if i not in posted]
    return result


def is_recorded(book, name, amount, at):
    """Whether our ledger show the charge as it happened."""
    return (
        book is not None
        and book["state"] == "settled"
        and book["processor"] == name
        and cents(book["amount"]) == amount
        and instant(book["requestedAt"]) == at
    )
