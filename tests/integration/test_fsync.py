"""An answered ack is on disk: seen in the calls the server makes, because killing a process cannot show a lost fsync.

A small library, compiled here, is loaded into the embedded server and writes down the order in which it writes its
append-only file, has it on disk, and answers.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.processes.running import RunningService
from tests.support.sources.samples import USER_ID, sample
from tests.support.stores.servers import RedisServer, valkey_binary

WITNESS: Final = Path(__file__).parent.parent / "support" / "fsync_witness.c"
ACKS: Final = 40
SERVER: Final = "valkey-server"


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler" if compiler is None else "LD_PRELOAD and /proc are Linux's")
    library = tmp_path_factory.mktemp("witness") / "witness.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", str(WITNESS), "-o", str(library), "-ldl"], check=True
    )
    return library


class Log:
    """What the witness wrote down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {"WITNESS_LOG": str(path), "WITNESS_ONLY": SERVER}

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    def synced_bytes(self) -> int:
        """Tell how many bytes of the append-only file are on disk, as of the last call that came back."""
        written = synced = 0
        for line in self.lines:
            kind, _, size = line.partition(" ")
            if kind == "A":
                written += int(size)
            elif kind == "S":
                synced = written
        return synced

    def answers_ahead_of_the_disk(self) -> int:
        """Count the answers that left while something in the append-only file was not known to be on disk."""
        dirty, ahead = False, 0
        for line in self.lines:
            if line[0] == "R":
                ahead += dirty
            else:
                dirty = line[0] == "A"
        return ahead


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "witness.log")


@pytest.fixture
def service(tmp_path: Path, witness: Path, log: Log) -> Iterator[RunningService]:
    """The service on its embedded server, which the witness looks at from its start."""
    service = RunningService(tmp_path / "service")
    service.environment |= {"LD_PRELOAD": str(witness), **log.environment}
    with service:
        yield service


def log_file(data_dir: Path) -> bytes:
    """Read all of the embedded server's append-only file."""
    (increment,) = data_dir.glob("valkey/appendonlydir/*.incr.aof")
    return increment.read_bytes()


def asset(number: int) -> dict[str, object]:
    """Make an entity with an id of its own."""
    return {"type": "AssetV2", "data": sample("AssetV2", id=f"0d2c8a4e-1111-4a6b-8f6e-{number:012}")}


def test_an_ack_is_on_disk_before_it_is_answered(service: RunningService, log: Log) -> None:
    token = service.sign_in()
    with service.client(token) as client:
        assert client.get("/readyz").json()["durability"] == "always: an answered write is on disk"
        service.put("lib", [{"type": "UserV1", "data": sample("UserV1", id=USER_ID)}])
        service.put("lib", [asset(number) for number in range(ACKS)])
        stream = client.post("/api/sync/stream", json={"types": ["AssetsV2"]})
        acks = [line["ack"] for line in map(json.loads, stream.text.splitlines()) if line["type"] == "AssetV2"]
        assert len(acks) == ACKS
        for ack in acks:
            answered = client.post("/api/sync/ack", json={"acks": [ack]})
            assert answered.status_code == 204
            # What is on disk now was there before the answer left, and so before it came here.
            on_disk = log_file(service.data_dir)[: log.synced_bytes()]
            assert ack.split("|")[2].encode() in on_disk[-100_000:]
    syncs = sum(line == "S" for line in log.lines)
    assert syncs >= ACKS
    assert sum(line[0] == "R" for line in log.lines) >= ACKS
    assert log.answers_ahead_of_the_disk() == 0


def test_many_answers_share_an_fsync_and_none_is_ahead_of_it(service: RunningService, log: Log) -> None:
    before = len(log.lines)
    service.sign_in_many(50)
    lines = log.lines[before:]
    assert any(line[0] == "A" for line in lines)
    assert log.answers_ahead_of_the_disk() == 0


@pytest.mark.parametrize("policy", ["everysec", pytest.param("no", marks=pytest.mark.soak)])
def test_a_server_that_answers_first_is_seen_to_and_says_so(
    tmp_path: Path, witness: Path, log: Log, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        for name, value in {"LD_PRELOAD": str(witness), **log.environment}.items():
            patch.setenv(name, value)
        server = RedisServer(
            valkey_binary(), tmp_path / "server", options=("--appendonly", "yes", "--appendfsync", policy)
        ).start()
    try:
        service = RunningService(tmp_path / "service", redis_url=server.url)
        with service:
            service.sign_in_many(20)
            with service.client() as client:
                durability = client.get("/readyz").json()["durability"]
        assert log.answers_ahead_of_the_disk() > 0
        assert durability.startswith(f"{policy}: ")
        assert "lost" in durability
        said = service.log.read_text()
        assert durability.partition(": ")[2] in said
        refusing = RunningService(tmp_path / "refusing", redis_url=server.url, durability="fsync")
        refused = refusing.command("verify", check=False)
        assert refused.returncode == 1
        assert f"the server has {policy}" in refused.stderr
    finally:
        server.kill()
