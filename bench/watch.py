"""Looks at a running stack every few seconds: memory, file descriptors, connections, sizes, dead rows, WAL."""

import os
import threading
import time
from pathlib import Path

from bench import box
from bench.child import Broken
from bench.stack import INSTANCES

# All that the server knows, as name -> number.
LOOK = """
SELECT 'bytes of ' || c.relname, pg_relation_size(c.oid) FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'i') AND c.relname !~ '^_sqlx'
UNION ALL SELECT 'dead rows of ' || relname, n_dead_tup FROM pg_stat_user_tables WHERE relname !~ '^_sqlx'
UNION ALL SELECT 'connections', count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
UNION ALL SELECT 'bytes of WAL written', pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')
UNION ALL SELECT 'settled', coalesce(sum(requests), 0) FROM payment_rollup WHERE unit = 'hour'
UNION ALL SELECT 'queued', count(*) FROM payment_queue
"""


# How much of the machine's CPUs is used by programs that are not part of this.
OTHERS = "CPU of others, %"


class Used:
    """The time at which it was made, and the seconds of CPU that were used until then: by all, and by us."""

    def __init__(self):
        self.at, self.all_s = time.monotonic(), box.machine_busy_s()
        self.own_s = box.cpu_s({"own": os.getpid()})["own"]

    def others_since(self, before):
        """Per cent of all CPUs."""
        others_s = (self.all_s - before.all_s) - (self.own_s - before.own_s)
        return max(0.0, others_s / (self.at - before.at) / os.cpu_count() * 100)


class Watch:
    """A context manager that looks until it ends. `looks` is a list of (seconds since its start, name -> number)."""

    def __init__(self, stack, lock, pause_s):
        self.stack, self.lock, self.pause_s = stack, lock, pause_s
        self.looks, self.missed = [], []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self.began = time.monotonic()
        self.used = Used()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def _watch(self):
        while not self.over.wait(self.pause_s):
            try:
                # An instance is not restarted meanwhile.
                with self.lock:
                    found = look(self.stack)
                before, self.used = self.used, Used()
                found[OTHERS] = self.used.others_since(before)
                self.looks.append((time.monotonic() - self.began, found))
            except (Broken, OSError) as error:
                self.missed.append(str(error))


def look(stack):
    """What can be seen at this moment."""
    found = {name: float(number) for name, number in stack.sql(LOOK)}
    for name in INSTANCES:
        if child := stack.children.get(name):
            child.check()
            found[f"MB resident of {name}"] = box.status_kb(child.pid, "VmRSS") / 1024
            found[f"file descriptors of {name}"] = descriptors(child.pid)
    for name in ("postgres", "nginx"):
        family = box.family(box.processes(), stack.children[name].pid)
        found[f"MB private of {name}"] = sum(anonymous_mb(pid) for pid in family)
        tables = [sum(map(is_of_a_table, files(pid))) for pid in family]
        found[f"file descriptors of {name}"] = sum(map(descriptors, family)) - sum(tables)
        if any(tables):
            found[f"tables and indexes that a process of {name} has open, at most"] = max(tables)
    found["MB of postgres in all"] = box.shared_out_mb(stack.children["postgres"].pid)
    return found


def descriptors(pid):
    """Open files and sockets of a process; none of one that has just ended."""
    return len(files(pid))


def files(pid):
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []


def is_of_a_table(file):
    """Whether it is a table or an index of PostgreSQL, which a process keeps open once it has used it."""
    try:
        name = os.readlink(file)
    except OSError:  # closed by now
        return False
    return "/base/" in name or "/global/" in name


def anonymous_mb(pid):
    """Memory of a process that is no file's and, but for what it has of its parent, nobody else's."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) / 1024
        return box.status_kb(pid, "RssAnon") / 1024
    except OSError:
        return 0.0
