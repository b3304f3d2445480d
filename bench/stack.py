"""PostgreSQL, two instances and nginx in the box, two simulated processors beside it."""

import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from bench import box
from bench.child import Broken, Child, await_true, run

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = REPOSITORY / "scripts"
# Where the programs are that are measured, built with that profile.
PROGRAMS = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / os.environ.get(
    "BENCH_PROFILE", "release"
)
BINARY = PROGRAMS / "payment-proxy"
SIMULATOR = PROGRAMS / "processor-simulator"
INSTANCES = ("api1", "api2")
FEES = {"default": "0.05", "fallback": "0.15"}
TOKEN = "123"
# The name under which the memory of the whole box is kept beside that of the instances.
WHOLE = "box"
# A name in a folder of our own, so it is never taken.
POSTGRES_PORT = 5432
# What anything has to be ready after its start.
READY_S = 30
# What operators say to an instance here. docker-compose.yml sets nothing else that is not about
# places.
OPERATOR_TOKEN = "for-the-bench-only"
# The file that is laid over docker-compose.yml; none where the variable is empty.
CONTEST = "docker-compose.contest.yml"
OVERLAY = os.environ.get("BENCH_OVERLAY", CONTEST)
# Of the queue: what docker-compose.yml has, unless a line or scripts/bench.sh says another.
DURABILITY = os.environ.get("BENCH_DURABILITY", "unlogged")


@dataclass
class Compose:
    """What the compose files say of the services."""

    postgres: list
    # The CPU of each service that is kept on one.
    cpus: dict
    # The configuration of nginx.
    nginx: Path
    # What is run after the migrations, as the owner of the tables.
    sql: Path | None
    # Settings of the instances that the overlay has.
    settings: dict


def compose(overlay=OVERLAY):
    """Reads docker-compose.yml, and the file that is laid over it, if any."""
    files = [
        yaml.safe_load((REPOSITORY / file).read_text())["services"]
        for file in ("docker-compose.yml", overlay)
        if file
    ]
    cpus = {
        name: service["cpuset"]
        for services in files
        for name, service in services.items()
        if "cpuset" in service
    }

    def mounted(service, path):
        """The file that a service finds at that path: what is laid over the first file takes precedence."""
        volumes = [
            volume.split(":")
            for services in files
            for volume in services.get(service, {}).get("volumes", [])
        ]
        return next(
            (REPOSITORY / source for source, target, *_ in reversed(volumes) if target == path),
            None,
        )

    settings = files[1]["api1"].get("environment", {}) if overlay else {}
    return Compose(
        postgres_settings((REPOSITORY / "postgresql.conf").read_text()),
        cpus,
        mounted("nginx", "/etc/nginx/nginx.conf"),
        mounted("give-way", "/give-way.sql"),
        {name: default_of(value) for name, value in settings.items()},
    )


def default_of(value):
    """What `${NAME:-default}` is where the variable is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def postgres_settings(text):
    """What a file of settings says, each as `name=value`."""
    return [f"{name}={value}" for name, value in re.findall(r"^(\w+) = (.+)$", text, re.MULTILINE)]


def free_port(outgoing=Path("/proc/sys/net/ipv4/ip_local_port_range")):
    """A port that nobody listens on. Where there are others, none of those that the kernel takes for outgoing connections: a
    load has many, and one of them may take it before it is used."""
    first, _ = map(int, outgoing.read_text().split())
    while True:
        port = random.choice(range(10_000, first) or range(10_000, 65_536))
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


@cache
def programs():
    """Where the programs of PostgreSQL are."""
    return Path(run([SCRIPTS / "postgres.sh", "bin"]).strip())


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def answers(connection, path):
    """Whether a GET is answered with 2xx."""
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        reply.read()
        return 200 <= reply.status < 300
    except OSError:
        return False
    finally:
        connection.close()


class Stack:
    """One deployment with a database of its own, to whose settings those in `postgres` are added; a context
    manager that ends all it started."""

    def __init__(self, groups, logs, delay_ms=0, durability=DURABILITY, postgres=()):
        self.groups, self.logs, self.durability = groups, logs, durability
        self.delay_ms = delay_ms
        self.compose = compose()
        self.settings = [*self.compose.postgres, *postgres]
        logs.mkdir(parents=True, exist_ok=True)
        self.children = {}
        self.memory_mb = {}

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="payment-proxy-bench."))
        self.folder.chmod(0o711)  # the users of PostgreSQL and nginx have to reach their sockets
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            self.note_memory()
        except OSError:
            pass
        for name, number in (
            ("nginx", signal.SIGTERM),
            *((n, signal.SIGTERM) for n in INSTANCES),
            *((p, signal.SIGTERM) for p in FEES),
            ("postgres", signal.SIGINT),
        ):
            if child := self.children.pop(name, None):
                child.stop(number)
        shutil.rmtree(self.folder, ignore_errors=True)

    def child(self, name, command, environment=None, boxed=True):
        """Starts a process, in the box or beside it. In the box it runs where the service of that name does, and what is no
        service, where nginx does."""
        if boxed:
            cpu = self.compose.cpus.get(name, self.compose.cpus.get("nginx"))
            command = [*self.groups.enter(), *(box.on(cpu) if cpu else []), *command]
        self.children[name] = Child(name, self.logs / f"{name}.log", command, environment)
        return self.children[name]

    def await_ready(self, what, check, pause_s=0.05):
        await_true(what, check, READY_S, self.children.values(), pause_s)

    def _start(self):
        sockets = self.folder / "postgres"
        sockets.mkdir()
        postgres = [
            SCRIPTS / "postgres.sh",
            "run",
            self.folder / "data",
            sockets,
            POSTGRES_PORT,
            *self.settings,
        ]
        self.child("postgres", postgres, {"STOP_WITH_PARENT": "yes"})
        self.await_ready("PostgreSQL answers", lambda: self._accepts(sockets))
        run(
            [SCRIPTS / "postgres.sh", "init", sockets, POSTGRES_PORT],
            env={
                **os.environ,
                "PAYMENT_PROXY_PASSWORD": "bench",
                "PAYMENT_PROXY_OWNER_PASSWORD": "bench",
                "AUDITOR_PASSWORD": "bench",
            },
        )
        self.processors = {}
        for name, fee in FEES.items():
            port = free_port()
            self.processors[name] = f"http://127.0.0.1:{port}"
            self.child(
                name,
                [
                    SIMULATOR,
                    "--listen",
                    f"127.0.0.1:{port}",
                    "--fee",
                    fee,
                    "--delay",
                    self.delay_ms,
                ],
                boxed=False,
            )
        self.environment = {
            "OPERATOR_TOKEN": OPERATOR_TOKEN,
            "DATABASE_URL": self.url("payment_proxy", "payments"),
            "QUEUE_DURABILITY": self.durability,
            "PROCESSORS": " ".join(
                f"{name},{FEES[name]},{url}" for name, url in self.processors.items()
            ),
            "ALLOW_PURGE": "true",
            **self.compose.settings,
        }
        run(
            [BINARY, "migrate"],
            env={
                **os.environ,
                **self.environment,
                "MIGRATE_DATABASE_URL": self.url("payment_proxy_owner", "payments"),
            },
        )
        if self.compose.sql:
            self.sql(self.compose.sql.read_text(), "payment_proxy_owner")
        for name in INSTANCES:
            self.start_instance(name)
        self.port = free_port()
        self.start_nginx(
            "nginx", self.nginx_configuration(self.port, self.folder), self.port, "/readyz"
        )

    def _accepts(self, sockets):
        try:
            run([SCRIPTS / "postgres.sh", "accepts", sockets, POSTGRES_PORT])
            return True
        except Broken:
            return False

    def start_instance(self, name, command=None):
        """Starts an instance, or what that command starts in the place of one. Returns the seconds from its start until it is ready."""
        path = self.socket(name)
        began = time.monotonic()
        places = {
            "LISTEN": f"unix:{path}",
            "OPERATOR_LISTEN": f"unix:{self.folder / name}-operator.sock",
        }
        self.child(name, command or [BINARY, "serve"], {**self.environment, **places})
        self.await_ready(
            f"{name} is ready", lambda: answers(UnixConnection(path, 1), "/readyz"), pause_s=0.002
        )
        return time.monotonic() - began

    def socket(self, name):
        """Where nginx finds an instance."""
        return self.folder / f"{name}.sock"

    def stop_instance(self, name):
        """Ends an instance in order."""
        self.note_memory()
        self.children.pop(name).stop()

    def nginx_configuration(self, port, folder):
        """That of the deployment, for the sockets in that folder."""
        return run([SCRIPTS / "nginx-config.sh", port, folder, self.compose.nginx])

    def start_nginx(self, name, configuration, port, path):
        """Starts an nginx with that configuration."""
        file = self.folder / f"{name}.conf"
        file.write_text(configuration)
        self.child(
            name, ["nginx", "-e", "stderr", "-p", self.folder, "-c", file, "-g", "daemon off;"]
        )
        self.await_ready(
            f"{name} answers",
            lambda: answers(http.client.HTTPConnection("127.0.0.1", port, timeout=1), path),
        )

    def stop_nginx(self, name):
        """Ends an nginx."""
        self.children.pop(name).stop()

    def url(self, user, database):
        """The URL of the database."""
        sockets = str(self.folder / "postgres").replace("/", "%2F")
        return f"postgres://{user}@{sockets}:{POSTGRES_PORT}/{database}"

    def sql(self, statement, user="postgres"):
        """Runs SQL, as superuser if nothing else is said, and returns what comes of it: rows of texts."""
        psql = [
            programs() / "psql",
            "--no-psqlrc",
            "--quiet",
            "--csv",
            "--tuples-only",
            "--set=ON_ERROR_STOP=1",
            self.url(user, "payments"),
        ]
        return [line.split(",") for line in run(psql, input=statement).splitlines()]

    def trees(self):
        """The process trees in the box: name -> pid."""
        return {name: child.pid for name, child in self.children.items() if name not in FEES}

    def cpu_s(self):
        """CPU seconds so far, as postgres, instances and nginx."""
        used = box.cpu_s(self.trees())
        return {
            "postgres": used["postgres"],
            "instances": sum(used.get(n, 0) for n in INSTANCES),
            "nginx": used["nginx"],
        }

    def note_memory(self):
        """Remembers the highest memory so far of each instance, and that of the whole box of all looks at it."""
        for name in INSTANCES:
            if child := self.children.get(name):
                self.memory_mb[name] = max(
                    self.memory_mb.get(name, 0), box.status_kb(child.pid, "VmHWM") / 1024
                )
        now = sum(map(box.shared_out_mb, self.trees().values()))
        self.memory_mb[WHOLE] = max(self.memory_mb.get(WHOLE, 0), now)

    def settled(self):
        """Payments that each processor has charged since it was started or purged: name -> count."""
        return {name: self.totals(name)["totalRequests"] for name in self.processors}

    def totals(self, processor):
        """A processor's own summary."""
        return json.loads(self.admin(processor, "GET", "payments-summary"))

    def admin(self, processor, method, path, body=None):
        """A call of a processor's admin endpoints."""
        host, port = self.processors[processor].removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(
                method,
                f"/admin/{path}",
                text,
                {"X-Rinha-Token": TOKEN, "Content-Type": "application/json"},
            )
            reply = connection.getresponse()
            answer = reply.read().decode()
        finally:
            connection.close()
        if not 200 <= reply.status < 300:
            raise Broken(
                f"{method} /admin/{path} of {processor} answered {reply.status}: {answer[:200]}"
            )
        return answer

    @property
    def gateway(self):
        """Where clients call."""
        return f"http://127.0.0.1:{self.port}"
