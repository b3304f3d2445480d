"""What a run came to: the contest's score, the verdict, and the report as Markdown and JSON."""

import math
from decimal import Decimal

import audit as auditing

# The contest's rule: this much of the net amount per millisecond that p99 stays below the limit.
BONUS_PER_MS = Decimal("0.02")
BONUS_BELOW_MS = Decimal(11)
# What any disagreement of the ledgers costs of the net amount.
FINE = Decimal("0.35")
# More times of checks than these are not listed one by one.
TIMES_SHOWN = 12


def percentile(values, share):
    """The smallest value that `share` of all values do not exceed; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values):
    """The figures by which a distribution is reported."""
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: percentile(values, share) for name, share in shares.items()}


def agrees(check):
    """Whether both sides could be read and say the same, per processor, count and cents."""
    return all(
        row["ours"] is not None and row["ours"] == row["theirs"] for row in check["rows"].values()
    )


def score(run):
    """The contest's figure: the net amount settled at the end of the load, plus bonus, minus fine."""
    settled = {name: row["theirs"] for name, row in run.end["rows"].items()}
    gross = sum(Decimal(t["cents"]) for t in settled.values() if t) / 100
    fees = sum(run.fees[n] * t["cents"] for n, t in settled.items() if t) / 100
    p99 = run.k6["http_p99_ms"]
    bonus = (
        max((BONUS_BELOW_MS - Decimal(str(p99))) * BONUS_PER_MS, Decimal(0))
        if p99 is not None
        else Decimal(0)
    )
    fine = Decimal(0) if all(map(agrees, run.checks)) else FINE
    net = gross - fees
    return {
        "score": net * (1 + bonus - fine),
        "gross": gross,
        "fees": fees,
        "net": net,
        "bonus": bonus,
        "fine": fine,
        "p99_ms": p99,
        "replies": run.k6["http_replies"],
    }


def troubles(run):
    """Every reason why this run is not in order, in words. None at all is a pass."""
    found, a = [], run.audit

    def check(bad, text):
        if bad:
            found.append(text)

    def listed(ids, text):
        check(ids, f"{len(ids)} {text}: " + ", ".join(sorted(ids)[: auditing.EXAMPLES]))

    refused = [p for p in run.posted.values() if not p.accepted and not p.unanswered]
    unanswered = [p for p in run.posted.values() if p.unanswered]
    check(not run.posted, "no payment was posted")
    check(refused, f"{len(refused)} requests refused")
    check(unanswered, f"{len(unanswered)} requests unanswered")
    for c in run.checks:
        check(
            not agrees(c),
            f"the {c['kind']} at {run.second(c['at']):.0f} s disagrees: {disagreement(c)}",
        )
    listed(a.lost, "payments lost")
    listed(a.charged_twice, "payments charged twice")
    listed(a.dead, "payments given up (dead letter)")
    listed(a.open, f"payments still open {auditing.DRAIN_LIMIT_S} s after the load")
    listed(a.wrong_amount, "payments charged with another amount")
    listed(a.recorded_wrongly, "payments charged and not recorded as they were")
    limit = run.scenario.get("recorded_within_s")
    check(
        limit is not None and a.drained_after_s is not None and a.drained_after_s > limit,
        f"all was recorded only {a.drained_after_s} s after the end of the load, not within {limit} s",
    )
    for name, (ours, theirs) in a.totals.items():
        check(
            ours != theirs,
            f"after the drain our summary of {name} is {ours}, the processor's {theirs} (count, cents)",
        )
    # Each turn tells one line: fewer lines than turns means payments that the audit does not know.
    check(
        run.turns < run.k6["iterations"],
        f"k6 counts {run.k6['iterations']} turns and told of {run.turns}",
    )
    return found


def disagreement(check):
    """The rows that differ, short."""
    rows = []
    for name, row in check["rows"].items():
        if row["ours"] is None or row["theirs"] is None:
            rows.append(f"{name} unreadable ({'ours' if row['ours'] is None else 'theirs'})")
        elif row["ours"] != row["theirs"]:
            rows.append(f"{name} ours {row['ours']['count']}, theirs {row['theirs']['count']}")
    return "; ".join(rows)


def stages(run):
    """What happened from one change of the processors to the next."""
    rows = []
    begins = [(0, None, run.started)] + [
        (s["at_s"], s, run.stage_times.get(i)) for i, s in enumerate(run.scenario["stages"])
    ]
    begins = [b for b in begins if b[2] is not None]
    for n, (at_s, setting, begin) in enumerate(begins):
        last = n + 1 == len(begins)
        until = None if last else begins[n + 1][2]
        inside = [
            p for p in run.posted.values() if begin <= p.at and (until is None or p.at < until)
        ]
        charges = [
            name for at, name in run.audit.charges if begin <= at and (until is None or at < until)
        ]
        rows.append(
            {
                "from_s": at_s,
                "setting": {n: setting[n] for n in run.fees if n in setting} if setting else {},
                "accepted": sum(p.accepted for p in inside),
                "p99_ms": percentile([p.ms for p in inside if not p.unanswered], 0.99),
                "settled": {name: charges.count(name) for name in run.fees},
            }
        )
    return rows


def figures(run):
    """Everything as data: this is the JSON report."""
    a = run.audit
    by_status = {}
    for p in run.posted.values():
        key = run.errors.get(id(p), str(p.status)) if p.unanswered else str(p.status)
        by_status[key] = by_status.get(key, 0) + 1
    answered = [p.ms for p in run.posted.values() if not p.unanswered]
    end = {n: row["theirs"] for n, row in run.end["rows"].items()}
    return {
        "scenario": run.scenario["name"],
        "run": run.run_id,
        "about": run.about,
        "passed": not troubles(run),
        "troubles": troubles(run),
        "score": score(run),
        "posts": {
            "sent": len(run.posted),
            "accepted": a.accepted,
            "refused": sum(not p.accepted and not p.unanswered for p in run.posted.values()),
            "unanswered": sum(p.unanswered for p in run.posted.values()),
            "by_status": by_status,
            "ms": spread(answered),
        },
        "checks": [{**c, "agrees": agrees(c), "at_s": run.second(c["at"])} for c in run.checks],
        "settled_at_end": {"count": sum(t["count"] for t in end.values() if t), "of": a.accepted},
        "drained_after_s": a.drained_after_s,
        "failed_attempts_per_payment": a.failed_attempts / a.settled if a.settled else None,
        "wait_ms": spread(a.waits_ms),
        "processors": {
            n: {
                "fee": run.fees[n],
                "count": theirs[0],
                "amount": Decimal(theirs[1]) / 100,
                "fees": run.fees[n] * theirs[1] / 100,
                "ours": {"count": ours[0], "amount": Decimal(ours[1]) / 100} if ours else None,
            }
            for n, (ours, theirs) in a.totals.items()
        },
        "stages": stages(run),
        "faults": run.faults,
        "audit": {
            "accepted": a.accepted,
            "settled": a.settled,
            "lost": a.lost,
            "charged_twice": a.charged_twice,
            "open": a.open,
            "dead": a.dead,
            "wrong_amount": a.wrong_amount,
            "recorded_wrongly": a.recorded_wrongly,
            "charged_though_unanswered": a.charged_unanswered,
            "charged_though_refused": a.charged_refused,
            "foreign": a.foreign,
        },
    }


def ms(value):
    """Milliseconds for people."""
    if value is None:
        return "-"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.2f} ms"


def share(part, whole):
    """A percentage for people."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def table(head, rows):
    """A Markdown table whose columns also line up in a terminal."""
    cells = [head] + [[str(c) for c in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| "
        + " | ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))
        )
        + " |"
        for row in cells
    ]
    lines.insert(
        1,
        "|"
        + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths))
        + "|",
    )
    return lines


def checked_at(checks):
    """When the ledgers were compared: each time, or the first and the last of many."""
    seconds = [f"{c['at_s']:.0f}" for c in checks]
    if len(seconds) > TIMES_SHOWN:
        return f"from {seconds[0]} to {seconds[-1]} s"
    return "at " + ", ".join(seconds) + " s"


def behaviour(setting):
    """A processor in one stage."""
    if not setting:
        return ""
    failing = " failing" if setting["failing"] else ""
    faults = " with faults" if setting.get("faults") else ""
    return f"{setting['delay_ms']} ms{failing}{faults}"


def text(f):
    """The report for people: Markdown that reads well in a terminal too."""
    names = list(f["processors"])
    s, posts, a = f["score"], f["posts"], f["audit"]
    agreed = sum(c["agrees"] for c in f["checks"])
    out = [f"# Load `{f['scenario']}`: {'passed' if f['passed'] else 'FAILED'}", ""]
    out += [f"- {t}" for t in f["troubles"]] + ([""] if f["troubles"] else [])
    out += [f"{f['about']['what']}", ""]
    out += [
        f"{f['about']['machine']}; commit {f['about']['commit']}; {f['about']['when']}; `{f['about']['command']}`",
        "",
    ]
    out += table(
        ["", "value", "how"],
        [
            [
                "score",
                f"{s['score']:,.2f}",
                f"net {s['net']:,.2f} x (1 + bonus {s['bonus'] * 100:.2f} % - fine {s['fine'] * 100:.0f} %)",
            ],
            [
                "p99 of all replies",
                ms(s["p99_ms"]),
                f"{s['replies']:,} replies, as the contest counts",
            ],
            [
                "checks that agree",
                f"{agreed} of {len(f['checks'])}",
                checked_at(f["checks"]),
            ],
            [
                "settled at the end",
                share(f["settled_at_end"]["count"], f["settled_at_end"]["of"]),
                f"{f['settled_at_end']['count']:,} of {f['settled_at_end']['of']:,}",
            ],
            [
                "failed attempts",
                "-"
                if f["failed_attempts_per_payment"] is None
                else f"{f['failed_attempts_per_payment']:.3f}",
                "per settled payment",
            ],
            [
                "drained",
                "no" if f["drained_after_s"] is None else f"{f['drained_after_s']:.1f} s",
                f"after the end of the load; waits at most {auditing.DRAIN_LIMIT_S} s",
            ],
        ],
    )
    out += ["", "## POST /payments", ""]
    out += table(
        ["sent", "accepted", "refused", "unanswered", *posts["ms"]],
        [
            [
                f"{posts['sent']:,}",
                f"{posts['accepted']:,}",
                posts["refused"],
                posts["unanswered"],
                *map(ms, posts["ms"].values()),
            ]
        ],
    )
    if posts["refused"] or posts["unanswered"]:
        out += [""] + table(["reply", "count"], sorted(posts["by_status"].items()))
    out += ["", "From a POST to the call that was charged (`requestedAt`):", ""]
    out += table(list(f["wait_ms"]), [list(map(ms, f["wait_ms"].values()))])
    out += ["", "## Processors, after the drain", ""]
    whole = sum(p["count"] for p in f["processors"].values())
    out += table(
        ["processor", "payments", "share", "amount", "fees", "our summary"],
        [
            [
                n,
                f"{p['count']:,}",
                share(p["count"], whole),
                f"{p['amount']:,.2f}",
                f"{p['fees']:,.2f}",
                "equal"
                if p["ours"] == {"count": p["count"], "amount": p["amount"]}
                else f"{p['ours']}",
            ]
            for n, p in f["processors"].items()
        ],
    )
    out += ["", "## Stages", ""]
    dearest = max(names, key=lambda n: f["processors"][n]["fee"])
    out += table(
        [
            "from",
            *names,
            "accepted",
            "POST p99",
            *(f"settled by {n}" for n in names),
            f"on {dearest}",
        ],
        [
            [
                f"{r['from_s']} s",
                *(behaviour(r["setting"].get(n)) for n in names),
                f"{r['accepted']:,}",
                ms(r["p99_ms"]),
                *(f"{r['settled'][n]:,}" for n in names),
                share(r["settled"][dearest], sum(r["settled"].values())),
            ]
            for r in f["stages"]
        ],
    )
    if f["faults"]:
        kinds = sorted({kind for injected in f["faults"].values() for kind in injected})
        out += ["", "## Faults that calls met", ""]
        out += table(
            ["fault", *names],
            [[kind, *(f"{f['faults'][n].get(kind, 0):,}" for n in names)] for kind in kinds],
        )
    out += ["", "## Audit, payment by payment, after the drain", ""]
    out += table(
        ["", "payments"],
        [
            ["accepted", f"{a['accepted']:,}"],
            ["settled", f"{a['settled']:,}"],
            ["lost", len(a["lost"])],
            ["charged twice", len(a["charged_twice"])],
            ["still open", len(a["open"])],
            ["given up (dead letter)", len(a["dead"])],
            ["charged with another amount", len(a["wrong_amount"])],
            ["charged, not recorded as it was", len(a["recorded_wrongly"])],
            ["unanswered, yet charged once", len(a["charged_though_unanswered"])],
            ["refused, yet charged once", len(a["charged_though_refused"])],
            ["on a processor, not of this run", len(a["foreign"])],
        ],
    )
    return "\n".join(out) + "\n"
