"""An S3 server on loopback: moto's standalone server, in a process of its own that dies with the tests."""

from __future__ import annotations

import http.client
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.stores.servers import STOP_TIMEOUT_S, die_with_parent, free_port, wait_until

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "NO_PROXY": "127.0.0.1",
}
"""What a client of this server needs in its environment."""


class S3Server:
    """One server, empty at its start; it keeps its objects in memory and loses them when it is killed."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it and wait until it answers."""
        with (self._folder / "s3.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        try:
            wait_until(self._answers, f"{self.endpoint} to answer", 60)
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """Kill it, and with it all it holds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        assert self._request("PUT", f"/{name}") == 200

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the S3 server ended at start:\n{(self._folder / 's3.log').read_text()[-2000:]}")
        try:
            return self._request("GET", "/moto-api/") == 200
        except OSError:
            return False

    def _request(self, method: str, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        finally:
            connection.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()
