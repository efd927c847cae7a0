"""Child processes of a benchmark: servers, load generators and readers, all stopped on the way out."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import psutil

STOP_S = 15.0


class BenchFailed(Exception):
    """A benchmark could not be measured; what it would have printed is not to be trusted."""


@dataclass(frozen=True)
class Server:
    """A running HTTP server."""

    port: int
    pid: int

    def workers(self) -> list[psutil.Process]:
        """The processes that answer requests: those of the tree without Python children."""
        tree = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        parents = {process.ppid() for process in tree}
        return [process for process in tree if process.pid not in parents] or tree[:1]

    def cpu_s(self) -> float:
        """The CPU time its workers have used so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.workers())

    def rss_bytes(self) -> int:
        """The resident memory of its largest worker."""
        return max(int(process.memory_info().rss) for process in self.workers())


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def child(args: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with its output in `log`, and stop it with everything it started when the block ends.

    It gets a session of its own, so that a Ctrl-C at the terminal reaches only the bench, which stops it here.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            args,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a child: asked first, killed with its whole session after `STOP_S`."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tool(module: str, job: bytes, *, timeout_s: float) -> bytes:
    """Run one of our own modules on `job` (stdin), return what it printed; raises BenchFailed with its last words.

    It prints into a file: of what was written to a pipe all behind some blocks of 64 KiB has been seen to be lost.
    """
    with TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _, err = process.communicate(job, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise BenchFailed(f"{module} was not done after {timeout_s:.0f} s") from None
        finally:
            if process.poll() is None:
                stop(process)
        if process.returncode:
            raise BenchFailed(f"{module}: {err.decode(errors='replace').strip()[-2000:] or process.returncode}")
        output.seek(0)
        return output.read()


def await_http(port: int, path: str, process: subprocess.Popen[bytes], log: Path, *, timeout_s: float = 30) -> None:
    """Wait until `path` is answered below 500; raises BenchFailed with the server's log if that never comes."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status < 500:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise BenchFailed(f"the server at port {port} does not answer:\n{log.read_text(errors='replace')[-3000:]}")
