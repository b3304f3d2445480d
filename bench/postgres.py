"""The lines about PostgreSQL by itself: logged, bound."""

import re

from bench import progress, proof
from bench.child import Broken, run
from bench.line import Outcome, Value, at_least
from bench.proof import percentile
from bench.stack import INSTANCES, RELEASE, REPOSITORY, Stack


def logged(setting):
    """What is accepted and settled with a logged queue, against an unlogged one."""
    with Stack(setting.groups, setting.folder / "logged") as stack:
        for name in INSTANCES:
            stack.stop_instance(name)
        progress.say("  durability_bench, its database in the box")
        printed = run([RELEASE / "examples" / "durability_bench"], env={"TEST_DATABASE_URL": stack.url("postgres", "postgres")})
    values = []
    for what, unlogged, with_log, ratio in durability_rows(printed):
        target = at_least if what.startswith("accepted") else lambda what, value, limit, unit: Value(what, value, unit)
        values += [target(f"{what}, logged queue against unlogged", ratio, 0.7, "x"), Value("of that unlogged", unlogged, "/s"), Value("of that logged", with_log, "/s")]
    found = proof.Proof(0)
    found.what = printed.strip().splitlines()[-1]
    return Outcome(values, [found])


def durability_rows(printed):
    """The rows of the table that durability_bench prints."""
    rows = re.findall(r"^\| ([a-z ]+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", printed, re.MULTILINE)
    if len(rows) != 2:
        raise Broken(f"durability_bench printed no table: {printed[-300:]}")
    return [(what, float(unlogged), float(with_log), float(ratio)) for what, unlogged, with_log, ratio in rows]


# pgbench's clients and threads: as many connections as two instances use at once.
CLIENTS, THREADS = 8, 1
# Rows that a script with "batch" or "life" in its name handles each time; it says so itself, too.
BATCH = 100
SCRIPTS = (("insert-one", 1), ("insert-batch", BATCH), ("life-batch", BATCH))


# Transactions per second that come by themselves, as clients' posts do, instead of one after the other.
RATES, PACED = (1_500, 2_000, 6_000), "insert-one"


def bound(setting):
    """What this PostgreSQL does in this box when nothing but pgbench asks it."""
    seconds, values = setting.seconds or 10, []
    with Stack(setting.groups, setting.folder / "bound") as stack:
        for name in INSTANCES:
            stack.stop_instance(name)
        for name, rows in SCRIPTS:
            about, per_second, used, _ = pgbench(stack, name, rows, seconds)
            values += [Value(about, per_second, "/s"), Value("of that CPU of PostgreSQL", used, "us each")]
        for rate in RATES:
            about, _, used, took = pgbench(stack, PACED, 1, seconds, rate)
            values += [Value(f"{about}, {rate:,}/s offered: CPU of PostgreSQL", used, "us each"), Value("of that p99, from when it was due", percentile(took, 0.99), "ms")]
    return Outcome(values, notes=[f"pgbench, {CLIENTS} clients, prepared statements, our own tables with their indexes and triggers"])


def pgbench(stack, name, rows, seconds, rate=None):
    """Runs a script. Returns what it is about, rows per second, CPU of PostgreSQL for each in us, and of each transaction at a rate the ms from when it was due."""
    cpu = stack.cpu_s()["postgres"]
    done = transactions(run(command(stack, name, seconds, rate))) * rows
    used = (stack.cpu_s()["postgres"] - cpu) / done * 1e6
    about = next(line.removeprefix("-- ") for line in script(name).read_text().splitlines())
    progress.say(f"  {about}{f' at {rate}/s' if rate else ''}: {done / seconds:,.0f}/s, {used:.0f} us each")
    stack.sql("TRUNCATE payment_queue, payment_processed")
    return about, done / seconds, used, logged_transactions(stack)


def script(name):
    """The file of a script."""
    return REPOSITORY / "bench" / "pgbench" / f"{name}.sql"


def command(stack, name, seconds, rate=None):
    """What runs a script. At a rate each transaction is logged."""
    paced = [f"--rate={rate}", "--log", f"--log-prefix={stack.folder / 'pgbench'}"] if rate else []
    how = ["--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}", f"--jobs={THREADS}", f"--time={seconds}", f"--file={script(name)}"]
    return ["pgbench", *how, *paced, stack.url("postgres", "payments")]


def logged_transactions(stack):
    """Of those of the last run at a rate, ms from when each was due until its end. Takes the logs away."""
    found = []
    for log in stack.folder.glob("pgbench.*"):
        found += map(parse_transaction, log.read_text().splitlines())
        log.unlink()
    return found


def parse_transaction(line):
    """A line of pgbench's log: client, number, us from when it was due, script, end in seconds and us, us by which it began late."""
    _, _, took, *_ = map(int, line.split())
    return took / 1000


def transactions(printed):
    """How many pgbench says it has done."""
    found = re.search(r"number of transactions actually processed: (\d+)", printed)
    if not found or int(found[1]) == 0:
        raise Broken(f"pgbench did nothing: {printed[-300:]}")
    return int(found[1])
