"""The servers a benchmark runs against: the floors and the service, under the same workers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ops.bench.processes import Server, await_http, child, free_port

_GUNICORN = (
    sys.executable, "-W", "ignore::DeprecationWarning", "-m", "gunicorn",
    "--worker-class", "uvicorn.workers.UvicornWorker", "--log-level", "warning",
)  # fmt: skip


@contextmanager
def floor(name: str, folder: Path, *, workers: int, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Serve the floor application `name` of `ops.bench.floors` on a free port."""
    port, log = free_port(), folder / f"floor-{name}-{workers}.log"
    args = [*_GUNICORN, "--workers", str(workers), "--bind", f"127.0.0.1:{port}", f"ops.bench.floors:{name}()"]
    with child(args, log, env) as process:
        await_http(port, "/", process, log)
        yield Server(port, process.pid)
