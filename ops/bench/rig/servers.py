"""The servers a benchmark runs against: the floors and the service, under the same workers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ops.bench.rig.processes import Server, await_http, child, free_port
from ops.bench.rig.scene import Scene

_GUNICORN = (
    sys.executable, "-m", "gunicorn", "--worker-class", "ops.bench.rig.floors.FloorWorker", "--log-level", "warning",
    "--no-control-socket",
)  # fmt: skip


@contextmanager
def floor(name: str, folder: Path, *, workers: int, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Serve the floor application `name` of `ops.bench.rig.floors` on a free port."""
    port, log = free_port(), folder / f"floor-{name}-{workers}.log"
    args = [*_GUNICORN, "--workers", str(workers), "--bind", f"127.0.0.1:{port}", f"ops.bench.rig.floors:{name}()"]
    with child(args, log, env) as process:
        await_http(port, "/", process, log)
        yield Server(port, process.pid)


@contextmanager
def service(found: Scene, *, workers: int, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Serve the scene's ledger as `syncledger serve` does, on a free port, with some settings of its own."""
    port, log = free_port(), found.folder / f"service-{workers}.log"
    args = [
        sys.executable, "-c", "from ops.cli import main; main()", "serve", "--host", "127.0.0.1", "--port", str(port),
        "--workers", str(workers), "--data-dir", str(found.settings.data_dir),
    ]  # fmt: skip
    with child(args, log, {"LEDGER_LOG": "warning", **(env or {})}) as process:
        await_http(port, "/readyz", process, log)
        yield Server(port, process.pid)
