"""Whole services for tests: `serve` in a process of its own, with all that it starts found again and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.support.stores.servers import end_with_parent, wait_until

ROOT = Path(__file__).parents[3]
START_TIMEOUT_S = 30.0

_SERVE = """
import os, sys
from ops.server.supervisor import serve
from ops.settings.settings import read_settings
sys.exit(serve(read_settings(os.environ), factory=sys.argv[1], replace="--replace" in sys.argv))
"""


def servers_of(data_dir: Path) -> list[psutil.Process]:
    """Find the embedded server processes that work in a data folder."""
    folder = str(data_dir.resolve() / "valkey")
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "valkey-server" and process.cwd() == folder and process.status() != "zombie":
                found.append(process)
    return found


class Service:
    """One `serve` on a data folder; `LEDGER_*` settings are given in lower case without the prefix.

    At the end of the `with` block everything of it is killed, the embedded server too.
    """

    def __init__(
        self, data_dir: Path, factory: str = "tests.support.processes.small_app:create", **settings: str
    ) -> None:
        self.data_dir = data_dir
        self._factory = factory
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
        self._environment |= {"PYTHONPATH": str(ROOT), "LEDGER_DATA_DIR": str(data_dir), "LEDGER_PORT": "0"}
        self._environment |= {"TMPDIR": os.environ.get("TMPDIR", "/tmp")}
        for name, value in settings.items():
            self._environment[name if name.isupper() else f"LEDGER_{name.upper()}"] = value
        self.url = ""
        self.process: subprocess.Popen[str] | None = None
        self._seen: list[psutil.Process] = []

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> Path:
        """What it wrote to stderr."""
        return self.data_dir.with_name(f"{self.data_dir.name}.{id(self)}.log")

    def spawn(self, *options: str, before: str = "", **streams: Any) -> subprocess.Popen[str]:
        """Start the process and return it at once; `before`: what a shell does in its place first."""
        shell = ["bash", "-c", f'{before} exec "$@"', "bash"] if before else []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*shell, sys.executable, "-c", _SERVE, self._factory, *options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                start_new_session=True,
                **{"preexec_fn": end_with_parent, **streams},
            )
        return self.process

    def start(self, *options: str, **how: Any) -> Self:
        """Start the service and wait until all workers are ready."""
        self.spawn(*options, **how)
        return self.wait_ready()

    def wait_ready(self) -> Self:
        """Wait until all workers of what was spawned are ready."""
        process = self.process
        assert process is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "ready at http" in line, f"no address but {line!r}; its log:\n{self.log.read_text()[-3000:]}"
        self.url = line.split()[-1]
        self.processes()
        return self

    @property
    def parent(self) -> psutil.Process:
        """The supervising parent."""
        assert self.process is not None
        return psutil.Process(self.process.pid)

    @property
    def arbiters(self) -> list[psutil.Process]:
        """The gunicorn arbiters, the newest last."""
        found = []
        for child in sorted(self.parent.children(), key=psutil.Process.create_time):
            with suppress(psutil.NoSuchProcess):  # it ends just now
                found += [child] if "ops.server.arbiter" in child.cmdline() else []
        return found

    @property
    def arbiter(self) -> psutil.Process:
        """The gunicorn arbiter."""
        (arbiter,) = self.arbiters
        return arbiter

    def said(self, text: str) -> int:
        """Count how often its log says something."""
        return self.log.read_text().count(text)

    @property
    def workers(self) -> list[psutil.Process]:
        """The living workers."""
        return self.arbiter.children()

    def processes(self) -> list[psutil.Process]:
        """All of its living processes but the embedded server, also those whose parent is gone."""
        with suppress(psutil.Error):
            self._seen += [p for p in (self.parent, *self.parent.children(recursive=True)) if p not in self._seen]
        living = [p for p in self._seen if p.is_running() and p.status() != "zombie"]
        return [p for p in living if p.name() != "valkey-server"]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the parent."""
        self.parent.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for the parent's end and return its status."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        """End it in order and return its status."""
        self.processes()
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait_ended(self, timeout_s: float = 15.0) -> None:
        """Wait until no process of it is left."""
        wait_until(lambda: not self.processes(), f"the end of {self._seen}", timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill all that is left of it."""
        self.end(servers=True)

    def end(self, *, servers: bool = False) -> None:
        """Kill its own processes, and the embedded `servers` of its folder, which others may be using."""
        deadline = time.monotonic() + 10
        while left := [*self.processes(), *(servers_of(self.data_dir) if servers else [])]:
            if time.monotonic() > deadline:
                break
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=0.5)
        if self.process is not None:
            self.process.wait(10)
            if self.process.stdout is not None:
                self.process.stdout.close()
