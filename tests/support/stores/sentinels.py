"""A primary with replicas that Sentinels watch, on either kind of server."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis

from tests.support.stores.servers import RedisServer, die_with_parent, free_port, wait_until

NAME: Final = "mymaster"
DOWN_AFTER_MS: Final = 500
_CONFIGURATION: Final = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {name} 127.0.0.1 {primary} {quorum}
sentinel down-after-milliseconds {name} {down_after}
sentinel failover-timeout {name} 3000
{more}
"""


class Sentinels:
    """Sentinels over servers of which the first begins as the primary; `password`: the Sentinels' own."""

    def __init__(
        self,
        binary: str,
        folder: Path,
        *,
        replicas: int = 2,
        count: int = 3,
        password: str = "",
        durable: bool = True,
    ) -> None:
        options = ("--repl-diskless-sync-delay", "0")
        self.servers = [
            RedisServer(binary, folder / f"server{n}", durable=durable, options=options) for n in range(replicas + 1)
        ]
        self.ports = [free_port() for _ in range(count)]
        self._binary = binary
        self._folder = folder
        self._password = password
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """The Sentinels, as the service takes them."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{NAME}"

    @property
    def primary(self) -> RedisServer:
        """The server that a Sentinel names."""
        _, port = self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return next(server for server in self.servers if server.port == int(port))

    def ask(self, *command: str, sentinel: int = 0) -> Any:
        """Send a command to a Sentinel."""
        with redis.Redis(
            port=self.ports[sentinel], socket_timeout=5, password=self._password or None, protocol=2
        ) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def fail_over(self) -> None:
        """Have another server made the primary, which the old one hears of."""
        before = self.primary
        self.ask("SENTINEL", "FAILOVER", NAME)
        self.wait_for_another_than(before)

    def wait_for_another_than(self, before: RedisServer) -> None:
        """Wait until a Sentinel names another primary."""
        wait_until(lambda: self.primary is not before, "another primary", 60)

    def ready(self) -> bool:
        """Tell whether all Sentinels know of each other and of the replicas, none of which is behind."""
        try:
            for sentinel in range(len(self.ports)):
                flat = self.ask("SENTINEL", "MASTER", NAME, sentinel=sentinel)
                facts = dict(zip(flat[::2], flat[1::2], strict=True))
                if (int(facts[b"num-slaves"]), int(facts[b"num-other-sentinels"])) != (
                    len(self.servers) - 1,
                    len(self.ports) - 1,
                ):
                    return False
                if facts[b"flags"] != b"master":
                    return False
            with self.primary.client() as client:
                info = client.info("replication")
        except redis.RedisError:
            return False
        return bool(info["connected_slaves"] == len(self.servers) - 1) and all(
            info[f"slave{n}"]["state"] == "online" for n in range(len(self.servers) - 1)
        )

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            for server in self.servers[1:]:
                server.command("REPLICAOF", "127.0.0.1", self.servers[0].port)
            for port in self.ports:
                self._start(port)
            wait_until(self.ready, "the Sentinels to know all", 60)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self, port: int) -> None:
        folder = self._folder / f"sentinel{port}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "sentinel.conf"
        more = f"requirepass {self._password}\nsentinel sentinel-pass {self._password}" if self._password else ""
        quorum = len(self.ports) // 2 + 1
        file.write_text(
            _CONFIGURATION.format(
                port=port,
                folder=folder,
                name=NAME,
                primary=self.servers[0].port,
                quorum=quorum,
                down_after=DOWN_AFTER_MS,
                more=more,
            )
        )
        with (folder / "sentinel.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [self._binary, str(file), "--sentinel"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
            )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for server in self.servers:
            server.kill()
