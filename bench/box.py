"""The box: what PostgreSQL, the instances and nginx may use together, and what they do use."""

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# The contest's limits, for all services together.
CPUS = 1.5
MEMORY_MB = 350
# Microseconds of the period in which the kernel counts CPU time against the limit; its own default.
PERIOD_US = 100_000
# Whatever else runs on this machine has to wait: all of this runs with this niceness, and the box
# counts as much as SHARES of the processes beside it (to the kernel it is one of them otherwise).
NICE = -15
NICE_WEIGHT = (
    29_154 / 1_024
)  # what niceness -15 counts for, in the kernel's table, where 0 counts for 1
SHARES = 2
CGROUPS = Path("/sys/fs/cgroup")
# Of the names of the groups.
PREFIX = "payment-proxy-bench"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# How often a group is tried to be removed whose last process has just ended, and the pause between.
REMOVALS = 50
REMOVAL_PAUSE_S = 0.1


class Groups:
    """Control groups of the kernel, version 1 or 2, for what of the limits they can be had here.

    They are made below the root of a hierarchy. Where this process is itself in a group of somebody
    else (a container's, a supervisor's), that limit is left out: such a group is neither to be left
    nor to be written to. With `boxed` False there are none.
    """

    def __init__(self, name, root=CGROUPS, own=None, boxed=True):
        self.folders, self.missing = {}, {}
        if not boxed:
            return
        self.version = 2 if (root / "cgroup.controllers").exists() else 1
        own = memberships(Path("/proc/self/cgroup").read_text()) if own is None else own
        for controller in ("cpu", "memory"):
            parent = root if self.version == 2 else root / controller
            group = own.get("" if self.version == 2 else controller)
            try:
                if group is None:
                    raise OSError("the kernel has no such controller here")
                if group != "/":
                    raise OSError("this program runs in a group of somebody else")
                remove_leftovers(parent)
                folder = parent / name
                folder.mkdir(exist_ok=True)
                self.folders[controller] = folder
                self.limit(controller)
                if controller == "cpu":
                    self.prefer()
            except OSError as error:
                self.missing[controller] = error.strerror or str(error)
                if folder := self.folders.pop(controller, None):
                    folder.rmdir()

    def limit(self, controller, unlimited=False):
        """Sets the limit, or lifts it."""
        quota, memory = round(CPUS * PERIOD_US), MEMORY_MB << 20
        if self.version == 2:
            name, value = {
                "cpu": ("cpu.max", f"{quota} {PERIOD_US}"),
                "memory": ("memory.max", memory),
            }[controller]
            value = (
                f"max {PERIOD_US}"
                if unlimited and controller == "cpu"
                else "max"
                if unlimited
                else value
            )
        else:
            name, value = {
                "cpu": ("cpu.cfs_quota_us", quota),
                "memory": ("memory.limit_in_bytes", memory),
            }[controller]
            value = -1 if unlimited else value
        (self.folders[controller] / name).write_text(f"{value}\n")

    def prefer(self):
        """Gives the box its share where others want the CPUs, too."""
        if self.version == 2:
            name, value = "cpu.weight", round(100 * NICE_WEIGHT * SHARES)
        else:
            name, value = "cpu.shares", round(1024 * NICE_WEIGHT * SHARES)
        (self.folders["cpu"] / name).write_text(f"{value}\n")

    def throttled_s(self):
        """Seconds that processes of the box waited because its CPU time was used up."""
        if "cpu" not in self.folders:
            return 0.0
        stat = dict(
            line.split() for line in (self.folders["cpu"] / "cpu.stat").read_text().splitlines()
        )
        return (
            int(stat["throttled_usec"]) / 1e6
            if self.version == 2
            else int(stat["throttled_time"]) / 1e9
        )

    def enter(self):
        """The words of a command that puts itself into the box and becomes another."""
        files = sorted({str(folder / "cgroup.procs") for folder in self.folders.values()})
        script = "for group; do shift; [ \"$group\" != -- ] || break; echo $$ >\"$group\"; done; exec \"$@\""
        return ["sh", "-c", script, "box", *files, "--"]

    def remove(self):
        """Takes the groups away again; their processes have ended."""
        for folder in self.folders.values():
            for _ in range(REMOVALS):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(REMOVAL_PAUSE_S)
                else:
                    break

    def words(self):
        """What holds, for the report."""
        limits = {"cpu": f"{CPUS} CPU", "memory": f"{MEMORY_MB} MB"}
        held = " and ".join(limits[name] for name in self.folders)
        text = f"limited to {held} together" if held else "NOT LIMITED"
        return text + "".join(
            f"; {limits[name]} NOT ENFORCED: {why}" for name, why in self.missing.items()
        )

    @contextmanager
    def lifted(self):
        """Without limits, for what is preparation and not measured."""
        for controller in self.folders:
            self.limit(controller, unlimited=True)
        try:
            yield
        finally:
            for controller in self.folders:
                self.limit(controller)

    @contextmanager
    def limited(self, memory_mb):
        """Inside of :meth:`lifted`: with that memory, the page cache of the box included, and all CPUs."""
        if "memory" not in self.folders:
            yield
            return
        # What is not on the disk yet could not be given up at once.
        os.sync()
        file = self.folders["memory"] / (
            "memory.max" if self.version == 2 else "memory.limit_in_bytes"
        )
        file.write_text(f"{memory_mb << 20}\n")
        try:
            yield
        finally:
            self.limit("memory", unlimited=True)


def on(cpu):
    """The words of a command that keeps itself on one CPU and becomes another: "0" is the first of those that there are here. One
    beyond the last is the first again."""
    here = sorted(os.sched_getaffinity(0))
    return ["taskset", "--cpu-list", str(here[int(cpu) % len(here)])]


def remove_leftovers(parent):
    """Takes away the groups of benchmarks that were killed; their names end with the process id."""
    for folder in parent.glob(f"{PREFIX}-*"):
        if not Path("/proc", folder.name.rpartition("-")[2]).exists():
            try:
                folder.rmdir()
            except OSError:
                pass  # something still runs in it


@contextmanager
def preferred(autogroup=Path("/proc/self/autogroup")):
    """Gives this program, and all that it starts, precedence on this machine, where that is permitted."""
    before = None
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        # Where the kernel makes each session of a terminal a group, niceness counts among those of
        # the session only, and the session has one of its own, which is put back: it is not ours
        # alone.
        before = autogroup.read_text().split()[-1]
        autogroup.write_text(str(NICE))
    except OSError:
        pass  # not permitted, or no such groups
    try:
        yield
    finally:
        if before is not None:
            autogroup.write_text(before)


def memberships(text):
    """/proc/self/cgroup as controller -> group; version 2's is under ""."""
    groups = {}
    for line in text.splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = group
    return groups


@dataclass
class Process:
    """A line of /proc/PID/stat."""

    parent: int
    # Its own time and that of its children that have ended and been waited for, in seconds: in
    # programs, in the kernel.
    user_s: float
    system_s: float


def parse_stat(text):
    """The name in the second field may contain anything but a last parenthesis."""
    fields = text.rpartition(")")[2].split()
    user, system, children_user, children_system = map(int, fields[11:15])
    return Process(
        int(fields[1]), (user + children_user) * TICK_S, (system + children_system) * TICK_S
    )


def processes():
    """All processes of this machine."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found[int(folder.name)] = parse_stat((folder / "stat").read_text())
            except OSError:
                pass
    return found


def family(all_processes, root):
    """The process and all its descendants."""
    children = {}
    for pid, process in all_processes.items():
        children.setdefault(process.parent, []).append(pid)
    found, todo = [], [root] if root in all_processes else []
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo.extend(children.get(pid, []))
    return found


def cpu_split_s(roots):
    """Seconds of CPU that each of the named process trees has used: name -> seconds in programs, in the kernel."""
    now = processes()
    trees = {name: [now[pid] for pid in family(now, root)] for name, root in roots.items()}
    return {
        name: (sum(one.user_s for one in tree), sum(one.system_s for one in tree))
        for name, tree in trees.items()
    }


def cpu_s(roots):
    """Seconds of CPU that each of the named process trees has used: name -> seconds."""
    return {name: sum(split) for name, split in cpu_split_s(roots).items()}


def machine_ticks():
    """The first line of /proc/stat: what all CPUs did, from `user` to `steal`."""
    return list(map(int, Path("/proc/stat").read_text().split()[1:9]))


def machine_busy_s():
    """Seconds of CPU that anything on this machine has used, or its host has kept from it."""
    user, nice, system, _, _, irq, softirq, steal = machine_ticks()
    return (user + nice + system + irq + softirq + steal) * TICK_S


def stolen_s():
    """Seconds of CPU that something here was ready to use and the host of this machine gave to others."""
    *_, steal = machine_ticks()
    return steal * TICK_S


def status_kb(pid, field):
    """A field of /proc/PID/status, such as VmHWM, in kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def shared_out_mb(root):
    """What a process tree has in memory, what is shared counted once (PSS), in MB."""
    total = 0
    for pid in family(processes(), root):
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except OSError:
            pass
    return total / 1024
