"""The line that runs the contest's minute: public."""

import json
from decimal import Decimal
from types import SimpleNamespace

from bench import proof, progress
from bench.child import Broken
from bench.child import run as run_program
from bench.line import Outcome, Value, at_most
from bench.stack import INSTANCES, REPOSITORY, SCRIPTS, Stack, free_port

# Found on the path that bench.proof extends: the scripts of `make load`.
import audit as auditing
import books
import report as load_report
import run as loading

# What an nginx does with a POST that answers it by itself.
ANSWER = "return 202;"
# Loads shorter than this use the short scenario.
PUBLIC_S = 60


def bare_nginx(stack):
    """An nginx with our configuration that answers a POST by itself. Returns its address."""
    return answering(stack, "bare")


def hollow(stack, answer=ANSWER, beside=""):
    """Two nginx in the place of the instances that answer a POST by themselves, or as is said, and ours before them. Returns its address."""
    name, folder = "hollow", stack.folder / "hollow"
    port, configuration = placed(folder)
    for instance in INSTANCES:
        answering(stack, f"{name}-{instance}", f"{folder}/{instance}.sock", answer, beside)
    stack.start_nginx(name, configuration, port, "/readyz")
    return f"http://127.0.0.1:{port}"


def answering(stack, name, socket=None, answer=ANSWER, beside=""):
    """One that answers by itself, or as is said, with what that needs beside it; at a socket too. Returns its address."""
    port, ours = placed(stack.folder / name)
    bare = ours.replace("proxy_pass http://$turn/payments;", answer).replace(f"unix:{stack.folder / name}/", f"unix:{stack.folder}/")
    assert bare.count(answer) == 1, "nginx.conf has the line that passes a POST on, once"
    bare = bare.replace("http {", f"http {{ {beside}", 1)
    if socket:
        bare = bare.replace("listen 127.0.0.1:", f"listen unix:{socket} backlog=4096; listen 127.0.0.1:")
    stack.start_nginx(name, bare, port, "/readyz")
    return f"http://127.0.0.1:{port}"


def placed(folder):
    """Our configuration with its files in that folder, which it makes. Returns its port, too."""
    port = free_port()
    folder.mkdir()
    return port, run_program([SCRIPTS / "nginx-config.sh", port, folder])


def chosen(setting):
    """The contest's minute, or less where less is asked for: the file, and what it says."""
    name = "public" if (setting.seconds or PUBLIC_S) >= PUBLIC_S else "short"
    file = REPOSITORY / "load" / "scenarios" / f"{name}.json"
    return file, json.loads(file.read_text())


def play(setting, stack, address):
    """Runs the scenario against that address."""
    file, scenario = chosen(setting)
    processors = [books.Processor(name, url, proof.TOKEN) for name, url in stack.processors.items()]
    run = loading.Run(scenario, {n: Decimal(fee) for n, fee in scenario["fees"].items()})
    loading.run_k6(SimpleNamespace(file=file, gateway=address, token=proof.TOKEN, k6=setting.k6), run, processors)
    return run, processors


def answered(run):
    """The POSTs that were answered."""
    return [post for post in run.posted.values() if not post.unanswered]


def latency(run, share):
    """Of the POSTs that were answered, in ms."""
    return load_report.percentile([post.ms for post in answered(run)], share)


def least(setting, stack):
    """The least that commits before it answers (least.c) in the place of both instances. Returns the run."""
    program = built(stack.folder)
    for name in INSTANCES:
        stack.stop_instance(name)
        stack.start_instance(name, [program, stack.socket(name), stack.url("payment_proxy", "payments")])
    run, _ = play(setting, stack, stack.gateway)
    accepted, inserted = len(answered(run)), int(stack.sql("SELECT count(*) FROM payment_queue")[0][0])
    if accepted > inserted:
        raise Broken(f"of {accepted} payments that the least program accepted {inserted} are in the queue")
    for name in INSTANCES:
        stack.stop_instance(name)
    stack.sql("TRUNCATE payment_queue")
    for name in INSTANCES:
        stack.start_instance(name)
    return run


def built(folder):
    """The least program, which it makes in that folder."""
    program = folder / "least"
    headers = run_program(["pg_config", "--includedir"]).strip()
    run_program(["cc", "-O2", f"-I{headers}", "-o", program, REPOSITORY / "bench" / "least.c", "-lpq"])
    return program


def public(setting):
    """The contest's minute, beside what lies beneath the service under the same load."""
    with Stack(setting.groups, setting.folder / "public") as stack:
        progress.say("  a bare nginx that answers 202")
        bare, _ = play(setting, stack, bare_nginx(stack))
        stack.stop_nginx("bare")
        progress.say("  two of these in the place of the instances")
        address = hollow(stack)
        behind, _ = play(setting, stack, address)
        stack.stop_nginx("hollow")
        progress.say("  the least that commits before it answers, in the place of the instances")
        lowest = least(setting, stack)
        progress.say("  the service while it settles nothing; all is settled after it")
        stack.switch(False)
        accepting, _ = play(setting, stack, stack.gateway)
        stack.switch(True)
        accepted = proof.audit(stack, accepting.posted, accepting.started)
        progress.say("  the service")
        run, processors = play(setting, stack, stack.gateway)
        run.audit = auditing.audit(books.Gateway("gateway", stack.gateway), processors, run.posted, run.started, run.end["at"] / 1000, progress.say)
        stack.note_memory()
        ours_ms, bare_ms, lowest_ms = latency(run, 0.99), latency(bare, 0.99), latency(lowest, 0.99)
        score = load_report.score(run)
        agree = sum(map(load_report.agrees, run.checks))
        return Outcome(
            [
                at_most("POST p99, the public minute, over a bare nginx's", ours_ms / bare_ms, 1.5, "x"),
                Value("of that ours", ours_ms, "ms"),
                Value("of that ours while nothing is settled", latency(accepting, 0.99), "ms"),
                Value("of that two nginx that answer 202, in the place of the instances", latency(behind, 0.99), "ms"),
                Value("of that the least that commits before it answers, in the place of the instances", lowest_ms, "ms"),
                Value("of that over the bare nginx's", lowest_ms / bare_ms, "x"),
                Value("of that the bare nginx", bare_ms, "ms"),
                Value("checks that agree", agree, f"of {len(run.checks)}", "all", agree == len(run.checks)),
                Value("score as the contest computes it", float(score["score"]), ""),
            ],
            [accepted, proof.Proof(len(run.posted), load_report.troubles(run))],
            memory_mb=dict(stack.memory_mb),
            notes=[
                f"POST p50 {latency(run, 0.5):.2f} ms, while nothing is settled {latency(accepting, 0.5):.2f} ms, two nginx in the place of the instances {latency(behind, 0.5):.2f} ms, the least that commits {latency(lowest, 0.5):.2f} ms, the bare nginx {latency(bare, 0.5):.2f} ms",
                f"net {score['net']}, bonus {score['bonus']}, fine {score['fine']}",
            ],
        )
