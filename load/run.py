#!/usr/bin/env python3
"""Runs a load with k6, shows how it goes, audits every payment after it, and writes a report.

Ends with 0 when nothing was refused, lost, charged twice or recorded wrongly, with 1 when something
was, with 2 when the load could not run.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import audit as auditing
import ledgers
import report

# How often the progress is shown.
PROGRESS_EVERY_S = 2
# What k6 says by itself about each failed request; the payment's own line says it better.
K6_NOISE = "Request Failed"


class Run:
    """What k6 has told so far, and what was found afterwards."""

    def __init__(self, scenario, fees):
        self.scenario, self.fees = scenario, fees
        self.run_id = uuid.uuid4().hex[:12]
        self.posted, self.errors = {}, {}
        self.checks, self.stage_times = [], {}
        self.started = self.end = self.k6 = self.audit = None
        self.stage = "before the first stage"
        self.turns = 0
        self.about = {}
        # What the simulated processors injected: name -> fault -> count.
        self.faults = {}

    def second(self, ms):
        """Seconds since the start of the load."""
        return (ms - self.started) / 1000

    def hear(self, event):
        """Takes in one line of load/scenario.js."""
        kind = event["event"]
        self.turns += kind in ("payment", "stage") or event.get("kind") == "check"
        if kind == "payment":
            amounts = self.scenario["amounts"]
            amount = ledgers.cents(amounts[(event["user"] + event["turn"]) % len(amounts)])
            payment = auditing.Posted(event["at"], event["status"], event["ms"], amount)
            self.posted[auditing.correlation_id(self.run_id, event["user"], event["turn"])] = (
                payment
            )
            if payment.unanswered:
                self.errors[id(payment)] = event["error"]
        elif kind == "start":
            self.started = event["at"]
        elif kind == "stage":
            self.stage_times[event["index"]] = event["at"]
            setting = self.scenario["stages"][event["index"]]
            self.stage = ", ".join(
                f"{n} {report.behaviour(setting[n])}" for n in self.fees if n in setting
            )
            say(f"{self.second(event['at']):4.0f} s  stage: {self.stage}")
        elif kind == "check":
            if event["kind"] == "end":
                self.end = event
            else:
                self.checks.append(event)
                verdict = (
                    "agree" if report.agrees(event) else "DISAGREE: " + report.disagreement(event)
                )
                say(f"{self.second(event['at']):4.0f} s  {event['kind']}: the ledgers {verdict}")
        elif kind == "k6":
            self.k6 = event


class Screen:
    """A terminal, whose last line shows how far the load is; elsewhere there is no such line."""

    # Columns of the bar.
    WIDTH = 20
    # Back to the begin of the line, and nothing in it.
    CLEAR = "\r\x1b[K"

    def __init__(self, out):
        self.out, self.shows, self.last = out, out.isatty(), ""
        self.lock = threading.Lock()

    def say(self, line):
        """A line that stays."""
        with self.lock:
            # The last line again, below it.
            text = f"{self.CLEAR}{line}\n{self.last}" if self.last else f"{line}\n"
            print(text, end="", file=self.out, flush=True)

    def at(self, done_s, of_s, text):
        """Shows so many of so many seconds."""
        if not self.shows:
            return
        full = round(self.WIDTH * min(1, done_s / of_s))
        bar = "█" * full + "░" * (self.WIDTH - full)
        columns = shutil.get_terminal_size().columns
        with self.lock:
            self.last = f"{bar} {done_s:.0f} of {of_s:.0f} s  {text}"[: columns - 1]
            print(f"{self.CLEAR}{self.last}", end="", file=self.out, flush=True)

    def end(self):
        """Takes the line away."""
        with self.lock:
            if self.last:
                print(self.CLEAR, end="", file=self.out, flush=True)
            self.last = ""


SCREEN = Screen(sys.stdout)
say = SCREEN.say


def arguments():
    """What can be set; the environment variables are for `make load`."""
    env = os.environ.get
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scenario",
        default=env("SCENARIO", "public"),
        help="name of a file in load/scenarios, or a path (SCENARIO, public)",
    )
    parser.add_argument(
        "--gateway",
        default=env("GATEWAY_URL", "http://127.0.0.1:9999"),
        help="(GATEWAY_URL, http://127.0.0.1:9999)",
    )
    parser.add_argument(
        "--processors",
        default=env(
            "LOAD_PROCESSORS", "default,http://127.0.0.1:8001 fallback,http://127.0.0.1:8002"
        ),
        help="name,url of each, separated by white space (LOAD_PROCESSORS, default,http://127.0.0.1:8001 fallback,http://127.0.0.1:8002)",
    )
    parser.add_argument(
        "--token",
        default=env("PROCESSOR_TOKEN", "123"),
        help="of the processors' admin endpoints (PROCESSOR_TOKEN, 123)",
    )
    parser.add_argument(
        "--reports",
        default=env("REPORTS", str(here.parent / "reports")),
        help="folder of the reports (REPORTS, reports/)",
    )
    parser.add_argument("--k6", default="k6", help="the k6 program")
    given = parser.parse_args()
    path = Path(given.scenario)
    given.file = (
        path if path.suffix == ".json" else here / "scenarios" / f"{given.scenario}.json"
    ).resolve()
    return given


def processors_of(given, scenario):
    """The processors, reachable, with the fees that the scenario is made for."""
    addresses = dict(entry.split(",", 1) for entry in given.processors.split())
    named = set(scenario["fees"]).union(*(set(s) - {"at_s"} for s in scenario["stages"]))
    if named != set(addresses):
        raise ledgers.Unreadable(
            f"the scenario is about the processors {sorted(named)}, and the addresses given are those of {sorted(addresses)}"
        )
    processors = [ledgers.Processor(n, addresses[n], given.token) for n in scenario["fees"]]
    for p in processors:
        if p.fee() != Decimal(scenario["fees"][p.name]):
            raise ledgers.Unreadable(
                f"{p.name} at {p.url} takes a fee of {p.fee()}, and the scenario is made for {scenario['fees'][p.name]}"
            )
    return processors


def faults_of(processors, scenario):
    """How often each processor has injected each fault; nothing where the scenario has none."""
    stages = [stage[p.name] for stage in scenario["stages"] for p in processors if p.name in stage]
    if not any("faults" in setting for setting in stages):
        return {}
    faults = {p.name: p.faults() for p in processors}
    for name, injected in faults.items():
        if injected is None:
            raise ledgers.Unreadable(f"the scenario has faults, and {name} is not simulated")
    return faults


def read_lines(child, run):
    """Takes in what k6 writes, until it ends."""
    for line in child.stderr:
        line = line.strip()
        if line.startswith('{"event"'):
            run.hear(json.loads(line))
        elif line and line != K6_NOISE:
            say(f"k6: {line}")


def show_progress(run, processors, done):
    """How far it is every few seconds, from another thread."""
    seen, length_s = 0, run.scenario["duration_s"]
    while not done.wait(PROGRESS_EVERY_S):
        if run.started is None:
            continue
        posted = list(run.posted.values())
        fresh, seen = posted[seen:], len(posted)
        accepted = sum(p.accepted for p in posted)
        bad = len(posted) - accepted
        p99 = report.percentile([p.ms for p in fresh if not p.unanswered], 0.99)
        try:
            counts = {p.name: p.summary()["totalRequests"] for p in processors}
        except ledgers.Unreadable:
            counts = {}
        settled = ", ".join(f"{n} {c:,}" for n, c in counts.items()) or "unknown"
        # A payment can be settled before its client has read the reply, hence the bound.
        unsettled = max(0, accepted - sum(counts.values()))
        SCREEN.at(
            time.time() - run.started / 1000,
            length_s,
            f"{len(fresh) / PROGRESS_EVERY_S:,.0f} payments/s, p99 {report.ms(p99)}; "
            f"accepted {accepted:,}, refused or unanswered {bad:,}; settled {settled}; open {unsettled:,}",
        )
    SCREEN.end()


def run_k6(given, run, processors):
    """The load itself."""
    environment = {
        **os.environ,
        "SCENARIO_FILE": str(given.file),
        "GATEWAY_URL": given.gateway.rstrip("/"),
        "PROCESSOR_URLS": json.dumps({p.name: p.url for p in processors}),
        "PROCESSOR_TOKEN": given.token,
        "RUN_ID": run.run_id,
        "K6_NO_USAGE_REPORT": "true",
    }
    script = Path(__file__).with_name("scenario.js")
    # Port 0: k6 would otherwise open its control API at a fixed one, which may be taken.
    command = [
        given.k6,
        "run",
        "--quiet",
        "--address",
        "127.0.0.1:0",
        "--log-output",
        "stderr",
        "--log-format",
        "raw",
        str(script),
    ]
    done = threading.Event()
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as child:
        progress = threading.Thread(target=show_progress, args=(run, processors, done), daemon=True)
        if SCREEN.shows:
            progress.start()
        try:
            read_lines(child, run)
        except KeyboardInterrupt:
            # k6 got the same signal and calms the processors before it ends.
            for line in child.stderr:
                pass
            child.wait()
            raise
        finally:
            done.set()
            if SCREEN.shows:
                progress.join()
        if child.wait() != 0 or run.end is None or run.k6 is None:
            raise ledgers.Unreadable(f"k6 ended with {child.returncode} before the load was over")


def machine():
    """The processor and how many of it."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}"


def commit():
    """The commit of this checkout, marked where files differ from it."""
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=10",
    ]
    found = subprocess.run(git, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def write(given, figures):
    """Markdown and JSON under one name."""
    folder = Path(given.reports)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"load-{figures['scenario']}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=2, default=str) + "\n")
    (folder / f"{name}.md").write_text(report.text(figures))
    return folder / f"{name}.md"


def main():
    given = arguments()
    try:
        scenario = json.loads(given.file.read_text())
        processors = processors_of(given, scenario)
        gateway = ledgers.Gateway("gateway", given.gateway)
        gateway.totals(0, 0)
        faults_before = faults_of(processors, scenario)
    except (OSError, ValueError, ledgers.Unreadable) as error:
        print(f"load: {error}", file=sys.stderr)
        return 2

    run = Run(scenario, {n: Decimal(f) for n, f in scenario["fees"].items()})
    users = scenario["users"]
    run.about = {
        "what": f"{scenario['about']} {scenario['duration_s']} s, users {users['first']} to {users['last']}, "
        f"a payment each, then {scenario['pause_ms']} ms of pause; amounts {', '.join(scenario['amounts'])}.",
        "machine": machine(),
        "commit": commit(),
        "when": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "command": f"make load SCENARIO={given.scenario}",
    }
    say(f"load {scenario['name']}: {run.about['what']} Gateway {gateway.url}.")
    try:
        run_k6(given, run, processors)
        run.audit = auditing.audit(
            gateway, processors, run.posted, run.started, run.end["at"] / 1000, say
        )
        for name, injected in faults_of(processors, scenario).items():
            before = faults_before[name]
            run.faults[name] = {f: n - before[f] for f, n in injected.items() if n > before[f]}
        figures = report.figures(run)
    except ledgers.Unreadable as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("load: interrupted, so there is no report", file=sys.stderr)
        return 128 + signal.SIGINT
    path = write(given, figures)
    print("\n" + report.text(figures) + f"\nwritten to {path} (and .json)")
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
