"""A real PgBouncer in front of a PostgreSQL of tests, on a free port of loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ops.bench.postgres.server import account
from tests.support.stores.postgres_server import PASSWORD, USER, PostgresServer
from tests.support.stores.servers import STOP_TIMEOUT_S, free_port, quit_with_parent, wait_until

_CONFIG: Final = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = md5
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {size}
ignore_startup_parameters =
"""


class PgBouncer:
    """Shares `size` connections to the server, by transactions, and takes no parameters but those it knows."""

    def __init__(self, server: PostgresServer, size: int = 2) -> None:
        program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        assert program is not None, "PgBouncer is not installed"
        self.port = free_port()
        self._program = program
        self._account = account()
        self._folder = Path(tempfile.mkdtemp(prefix="syncledger-pgbouncer-"))
        config = _CONFIG.format(server=server.port, port=self.port, folder=self._folder, size=size)
        (self._folder / "pgbouncer.ini").write_text(config)
        (self._folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
        if self._account:
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, self._account["user"], self._account["group"])
        self._process: subprocess.Popen[bytes] | None = None

    def url_of(self, url: str) -> str:
        """Return the address of a database of the server, by this way."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{url.rpartition('/')[2]}"

    def __enter__(self) -> Self:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, str(self._folder / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                preexec_fn=quit_with_parent,
                **self._account,
            )
        wait_until(self._ready, f"PgBouncer on port {self.port} to be ready", 30)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_S)
        shutil.rmtree(self._folder)

    def _ready(self) -> bool:
        assert self._process is not None
        said = (self._folder / "log").read_text()
        if self._process.poll() is not None:
            raise RuntimeError(f"PgBouncer ended at start:\n{said[-2000:]}")
        return f"listening on 127.0.0.1:{self.port}" in said
