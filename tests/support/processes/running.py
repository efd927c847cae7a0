"""The real service as its user runs it: `syncledger serve` in a process of its own, ended and killed by process id.

Everything else here is done as a user would, with the command or over HTTP; commands run in this process, because
starting one takes a second.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from unittest.mock import patch

import httpx
import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ledger import keys
from ops.cli import main
from ops.commands.devices.creating import sign_in
from ops.embedded.files import prepare_files
from ops.opening.ledger import Opened, opened
from ops.settings.settings import read_settings
from projections.accounts.tokens import read_token
from projections.entities.registry import REQUEST_TYPES
from tests.support.stores.servers import die_with_parent, free_port, process_alive, wait_until

COMMAND = (sys.executable, "-c", "from ops.cli import main; main()")
WITH_FACTORY = (
    "import sys; from ops.cli import main; from ops.server.supervisor import serve; "
    "serve.__kwdefaults__['factory'] = sys.argv.pop(1); main()"
)
READY = "Sync ledger ready at "
READY_JSON = '"message": "ready"'
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0

APP_TYPES = (
    "AuthUsersV1", "UsersV1", "AssetsV2", "AssetExifsV1", "AssetEditsV1", "AssetMetadataV1", "PartnersV1",
    "PartnerAssetsV2", "PartnerAssetExifsV1", "AlbumsV2", "AlbumUsersV1", "AlbumAssetsV2", "AlbumAssetExifsV1",
    "AlbumToAssetsV1", "MemoriesV1", "MemoryToAssetsV1", "StacksV1", "PartnerStacksV1", "UserMetadataV1", "PeopleV1",
    "AssetFacesV2", "AssetOcrV1",
)  # fmt: skip
"""The request types the app asks a 3.2 server for, in its order."""
assert set(APP_TYPES) <= set(REQUEST_TYPES)

T = TypeVar("T")
Json = dict[str, Any]


class RunningService:
    """One service on a folder and a port that stay the same over `stop`, `kill_all` and `start`.

    `settings` are environment variables without their `LEDGER_`; `redis_url` names a server of the test's own instead
    of the embedded one, `factory` what builds the application. What the service says goes to `log`.
    """

    def __init__(
        self, folder: Path, *, workers: int = 1, redis_url: str | None = None, factory: str = "", **settings: str
    ) -> None:
        self.folder = folder
        self._command = (sys.executable, "-c", WITH_FACTORY, factory) if factory else COMMAND
        self.data_dir = folder / "data"
        self.log = folder / "service.log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "LEDGER_DATA_DIR": str(self.data_dir),
            "LEDGER_PORT": str(self.port),
            "LEDGER_WORKERS": str(workers),
            "LEDGER_PARTITIONS": "16",  # `verify` asks each one
            **({"LEDGER_REDIS": redis_url} if redis_url else {}),
            **{f"LEDGER_{name.upper()}": value for name, value in settings.items()},
        }
        self.settings = read_settings(self.environment)
        self._entities_key = ""
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it and wait until every worker accepts requests."""
        assert self.process is None or self.process.poll() is not None, "the service already runs"
        return self._serve()

    def replace(self) -> subprocess.Popen[bytes]:
        """Start another one that takes over, wait until it has, and return the process of the one before."""
        before = self.process
        assert before is not None, "nothing runs"
        self._serve("--replace")
        return before

    def _serve(self, *options: str) -> Self:
        said = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, "serve", *options],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        try:
            wait_until(lambda: self._is_ready(said), "the service to be ready", START_TIMEOUT_S)
        except BaseException:
            self.kill_all()
            raise
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervising process."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> float:
        """End it in order and return how many seconds that took; 0 when it does not run."""
        if self.process is None or self.process.poll() is not None:
            return 0.0
        began = time.monotonic()
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise
        return time.monotonic() - began

    def processes(self) -> list[psutil.Process]:
        """List all that belongs to it: supervisor, arbiter, workers, embedded server."""
        found = []
        if self.process is not None and self.process.poll() is None:
            supervisor = psutil.Process(self.process.pid)
            found = [supervisor, *supervisor.children(recursive=True)]
        known = {process.pid for process in found}
        return found + [process for process in self._embedded_servers() if process.pid not in known]

    def workers(self) -> list[psutil.Process]:
        """List the worker processes."""
        assert self.process is not None
        arbiters = [
            process
            for process in psutil.Process(self.process.pid).children()
            if "ops.server.arbiter" in " ".join(process.cmdline())
        ]
        return [worker for arbiter in arbiters for worker in arbiter.children()]

    def kill_all(self, dice: random.Random | None = None) -> None:
        """Send SIGKILL to everything, embedded server included, and wait until all are gone.

        All at one moment; with `dice` one after the other: first those who would start another, then in any order.
        """
        victims = self.processes()
        if dice is None:
            for victim in victims:
                with suppress(psutil.NoSuchProcess):
                    victim.suspend()  # so that none of them sees another's death
        else:
            rest = victims[2:]
            dice.shuffle(rest)
            victims[2:] = rest
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        if self.process is not None:
            self.process.wait(STOP_TIMEOUT_S)
        wait_until(lambda: not any(process_alive(victim.pid) for victim in victims), "all processes to be gone")

    def kill_store(self) -> None:
        """Send SIGKILL to the embedded server alone."""
        servers = self._embedded_servers()
        assert servers, "no embedded server runs"
        for server in servers:
            server.kill()

    # As its user ------------------------------------------------------------------------------------------------------

    def command(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `syncledger` on the same data, in its environment; raises AssertionError with what it said if it fails.

        One at a time: arguments, environment, folder and standard streams are this process's.
        """
        out, err = _Captured(), _Captured()
        with (
            patch.dict(os.environ, self.environment, clear=True),
            patch.object(sys, "argv", ["syncledger", *args]),
            patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO())),
            redirect_stdout(out),
            redirect_stderr(err),
            chdir(self.folder),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        code = ended.value.code if isinstance(ended.value.code, int) else 0
        assert not check or code == 0, f"syncledger {' '.join(args)}: {code}\n{err.text}"
        return subprocess.CompletedProcess(args, code, out.text, err.text)

    def inside(self, work: Callable[[Opened], Awaitable[T]]) -> T:
        """Do what a command would do, with the same opened ledger."""

        async def opening() -> T:
            async with opened(self.settings, begin=True) as found:
                return await work(found)

        return asyncio.run(opening())

    def sign_in(self, user: str = "ann", library: str = "lib") -> str:
        """Create a session as the command does and return its token."""
        return self.sign_in_many(1, user, library)[0]

    def sign_in_many(self, count: int, user: str = "ann", library: str = "lib") -> list[str]:
        """Create sessions as the command does; return their tokens."""

        async def work(found: Opened) -> list[str]:
            return [(await sign_in(found, self.settings, user, library)).token for _ in range(count)]

        return self.inside(work)

    @property
    def entities_key(self) -> str:
        """An API key that may read and write entities, made by the command."""
        if not self._entities_key:
            scopes = ("--scope=entities.write", "--scope=entities.read")
            self._entities_key = self.command("key", "create", *scopes).stdout.strip()
        return self._entities_key

    def put(self, library: str, entities: Iterable[Any], *, refused: int = 0, waiting: int = 0) -> None:
        """Write entities (`type`, `id`, `data`, as mappings or with these attributes) over HTTP.

        Raises AssertionError if not so many are refused, or wait for others at the end, as expected.
        """
        answer = httpx.post(
            f"{self.url}/ledger/libraries/{library}/entities",
            content=b"".join(json.dumps(_line(entity)).encode() + b"\n" for entity in entities),
            headers={"x-api-key": self.entities_key, "content-type": "application/x-ndjson"},
            timeout=120,
        )
        assert answer.status_code == 200, answer.text
        assert (answer.json()["refused"], answer.json()["waiting"]) == (refused, waiting), answer.text

    def verify(self) -> Json:
        """Run `syncledger verify` and return its report; raises AssertionError if anything differs."""
        done = self.command("verify", "--json", check=False)
        assert done.returncode == 0, f"verify: {done.returncode}\n{done.stdout}\n{done.stderr}"
        report: Json = json.loads(done.stdout)
        assert report["different"] == 0
        return report

    def faults(self) -> list[str]:
        """Pick the lines of its log that tell of a fault of its own, not of its store or its clients."""
        return [line for line in self.log.read_text().splitlines() if "Traceback" in line or "never retrieved" in line]

    def client(self, token: str | None = None, **headers: str) -> httpx.Client:
        """Return an HTTP client that presents a token."""
        presented = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers={**presented, **headers}, timeout=60, trust_env=False)

    def events_of(self, token: str) -> int:
        """Count the events in the partition of the user whose token this is."""
        caller = read_token(token)
        assert caller is not None
        with self.store() as store:
            return int(store.xlen(keys.stream(keys.partition_of(caller.user, self.settings.partitions))))

    def store(self) -> redis.Redis:
        """Return a client of the store, to look at what is in it."""
        once = Retry(NoBackoff(), 0)
        if self.settings.redis_url is not None:
            return redis.Redis.from_url(self.settings.redis_url, socket_timeout=30, retry=once)
        return redis.Redis(unix_socket_path=str(prepare_files(self.data_dir).socket), socket_timeout=30, retry=once)

    def _is_ready(self, said: int) -> bool:
        assert self.process is not None
        with self.log.open("rb") as log:
            log.seek(said)
            text = log.read().decode(errors="replace")
        if self.process.poll() is not None:
            raise RuntimeError(f"the service ended at start with {self.process.returncode}:\n{text[-3000:]}")
        return READY in text or READY_JSON in text

    def _embedded_servers(self) -> list[psutil.Process]:
        pid_file = self.data_dir / "valkey" / "valkey.pid"
        with suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int(pid_file.read_text()))
            if process.status() != psutil.STATUS_ZOMBIE and str(pid_file.parent) in " ".join(process.cmdline()):
                return [process]
        return []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill_all()


class _Captured(io.TextIOWrapper):
    """What a command prints; bytes may be written to it too."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8")

    @property
    def text(self) -> str:
        self.flush()
        written: bytes = self.buffer.getvalue()  # type: ignore[attr-defined]
        return written.decode()


def _line(entity: Any) -> Json:
    fields = entity if isinstance(entity, Mapping) else {name: getattr(entity, name) for name in ("type", "id", "data")}
    return {name: value for name, value in fields.items() if value is not None}


def ids_of(lines: Sequence[Json], entity_type: str, name: str = "id") -> list[str]:
    """Pick the ids of one entity type out of stream lines."""
    return [line["data"][name] for line in lines if line["type"] == entity_type]
