"""A service whose libraries are in another system, as its user runs it: misconfigured, and with that system down."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from projections.accounts.tokens import read_token
from tests.support.gumnut.server import GumnutServer, library
from tests.support.phones.raw_stream import RawStream
from tests.support.processes.running import COMMAND, RunningService
from tests.support.sources.photo_database import MAPPING, PhotoDatabase
from tests.support.stores.postgres_server import PostgresServer
from tests.support.stores.servers import free_port, wait_until

TYPES = ("AssetsV2", "AlbumsV2", "AlbumToAssetsV1")
MANY = 30_000


def write(url: str, *statements: str, build: bool = False) -> None:
    """Write to a photo database, and let the horizon pass it."""

    async def work() -> None:
        database = await PhotoDatabase.build(url) if build else await PhotoDatabase.open(url)
        for statement in statements:
            await database.execute(statement)
        await database.settle()
        await database.close()

    asyncio.run(work())


def photos(count: int, owner: str = "lib") -> str:
    """Make the statement that adds photos."""
    return (
        "INSERT INTO photo (id, owner, name) "
        f"SELECT to_char(n, 'FM\"{owner}\"00000'), '{owner}', 'IMG.jpg' FROM generate_series(1, {count}) n"
    )


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    """A mapping in a file."""
    file = tmp_path / "photos.toml"
    file.write_text(MAPPING)
    return file


@pytest.fixture
def service(tmp_path: Path, postgres_server: PostgresServer, mapping: Path) -> Iterator[RunningService]:
    """A service on a photo database of this test alone."""
    url = postgres_server.create_database()
    write(url, photos(3), build=True)
    with RunningService(
        tmp_path / "service", postgres=url, postgres_mapping=str(mapping), postgres_wait="1s"
    ) as service:
        yield service


def stream(service: RunningService, token: str) -> list[dict[str, Any]]:
    with RawStream(service.port, token, TYPES) as raw:
        assert raw.read_to_end().clean is True
        assert raw.status == 200
        return raw.lines


def ready(service: RunningService) -> dict[str, Any]:
    """Ask how the source is; the service itself is of use in any case."""
    with service.client() as client:
        answer = client.get("/readyz")
    assert answer.status_code == 200, answer.text
    source: dict[str, Any] = answer.json()["source"]
    return source


def check_all_but_streams(service: RunningService, token: str, ack: str) -> None:
    """While a source is down: streams are 503, all else goes on."""
    with service.client(token) as client:
        answer = client.post("/api/sync/stream", json={"types": TYPES})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 5
        assert "source" in answer.json()["message"]
        assert client.post("/api/sync/ack", json={"acks": [ack]}).status_code == 204
        assert ack in [held["ack"] for held in client.get("/api/sync/ack").json()]
        assert client.get("/api/sessions").status_code == 200
    other = service.sign_in("ann", "lib")
    with service.client(other) as client:
        assert client.post("/api/auth/logout").status_code == 200
        assert client.get("/api/sessions").status_code == 401
    caller = read_token(token)
    assert caller is not None
    told = json.loads(service.command("explain", caller.sid, "--json").stdout)
    assert told["findings"][0]["code"] == "source_unavailable"
    assert not told["source"]["ok"]


def test_a_database_that_stops_and_starts_again(service: RunningService, postgres_server: PostgresServer) -> None:
    assert ready(service) == {"kind": "postgres", "ok": True, "text": "PostgreSQL answers"}
    token = service.sign_in("ann", "lib")
    lines = stream(service, token)
    assert [line["data"]["id"] for line in lines[:-1]] == ["lib00001", "lib00002", "lib00003"]
    postgres_server.stop()
    found = ready(service)
    assert (found["kind"], found["ok"]) == ("postgres", False)
    assert "PostgreSQL" in found["text"]
    check_all_but_streams(service, token, lines[-2]["ack"])
    postgres_server.start()
    assert [line["type"] for line in stream(service, token)] == ["SyncCompleteV1"]
    assert ready(service)["ok"]
    assert service.faults() == []


def test_a_database_that_stops_breaks_open_streams(service: RunningService, postgres_server: PostgresServer) -> None:
    write(service.settings.postgres.url or "", photos(MANY, "many"))
    token = service.sign_in("bob", "many")
    with RawStream(service.port, token, TYPES, receive_buffer_bytes=4096) as raw:
        raw.read_until(10_000)
        postgres_server.kill()
        assert raw.read_to_end().clean is False
        assert 0 < len(raw.lines) < MANY
    postgres_server.start()
    assert len(stream(service, token)) == MANY + 1
    assert service.faults() == []


def test_a_database_that_is_down_at_start_is_waited_for(
    tmp_path: Path, postgres_server: PostgresServer, mapping: Path
) -> None:
    url = postgres_server.create_database()
    write(url, photos(1), build=True)
    postgres_server.stop()
    with RunningService(tmp_path / "service", postgres=url, postgres_mapping=str(mapping)) as service:
        assert "the source does not answer yet" in service.log.read_text()
        assert not ready(service)["ok"]
        postgres_server.start()
        wait_until(lambda: ready(service)["ok"], "the source to answer")
        assert len(stream(service, service.sign_in("ann", "lib"))) == 2


def refused(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `serve` with settings that must keep it from starting."""
    service = RunningService(folder, **settings)  # type: ignore[arg-type] # none of them is `workers`
    return subprocess.run(
        [*COMMAND, "serve"],
        cwd=folder,
        env=service.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_mapping_that_does_not_fit_keeps_a_service_from_starting(
    tmp_path: Path, postgres_url: str, mapping: Path
) -> None:
    write(postgres_url, "ALTER TABLE photo DROP COLUMN name", build=True)
    folder = tmp_path / "service"
    done = refused(folder, postgres=postgres_url, postgres_mapping=str(mapping))
    assert done.returncode == 2, done.stderr
    assert "AssetV2" in done.stderr
    assert "name" in done.stderr
    assert not (folder / "data" / "valkey").exists(), "nothing was begun"
    mapping.write_text(MAPPING.replace("id = 'p.id'\nownerId", "ownerId"))
    done = refused(folder, postgres=postgres_url, postgres_mapping=str(mapping))
    assert done.returncode == 2
    assert "entities.AssetV2.0.data: AssetV2 needs the key 'id'" in done.stderr
    done = refused(folder, postgres=postgres_url, postgres_mapping=str(tmp_path / "missing.toml"))
    assert done.returncode == 2
    assert "missing.toml" in done.stderr
    assert postgres_url not in done.stderr


def test_entities_of_another_system_are_not_written_here(service: RunningService, tmp_path: Path) -> None:
    file = tmp_path / "entities.ndjson"
    file.write_text('{"type": "AssetDeleteV1", "data": {"assetId": "x"}}\n')
    done = service.command("import", "--library", "lib", str(file), check=False)
    assert done.returncode == 2
    assert "LEDGER_SOURCE=postgres" in done.stderr
    with service.client(**{"x-api-key": service.entities_key}) as client:
        answer = client.post("/ledger/libraries/lib/entities", content=file.read_bytes())
        assert answer.status_code == 409
        assert "another system" in answer.json()["message"]
        answer = client.get("/ledger/libraries/lib/entities")
        assert answer.status_code == 200, "what is there may be read"
    assert json.loads(service.command("expire", "--json").stdout)["delete_markers"] == 0


def test_gumnut_that_nobody_answers_for(tmp_path: Path) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    settings = {"source": "gumnut", "gumnut_url": dead, "gumnut_api_key": "hunter2"}
    with RunningService(tmp_path / "service", **settings) as service:  # type: ignore[arg-type]
        found = ready(service)
        assert (found["kind"], found["ok"]) == ("gumnut", False)
        token = service.sign_in("ann", "lib")
        with service.client(token) as client:
            answer = client.post("/api/sync/stream", json={"types": TYPES})
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert client.get("/api/sessions").status_code == 200
            assert client.post("/api/auth/logout").status_code == 200
        assert "hunter2" not in service.log.read_text()
        assert service.faults() == []


def test_gumnut_that_goes_down_and_comes_back(tmp_path: Path) -> None:
    with GumnutServer().running() as server:
        server.libraries = [library("lib", 2020)]
        assets = [server.photos.add_asset("lib") for _ in range(3)]
        settings = {"source": "gumnut", "gumnut_url": server.url, "gumnut_api_key": server.token()}
        with RunningService(tmp_path / "service", **settings) as service:  # type: ignore[arg-type]
            assert ready(service)["ok"]
            token = service.sign_in("ann", "lib")
            lines = stream(service, token)
            assert [line["data"]["id"] for line in lines if line["type"] == "AssetV2"] == assets
            server.down = True
            check_all_but_streams(service, token, lines[-2]["ack"])
            server.down = False
            assert [line["type"] for line in stream(service, token)] == ["SyncCompleteV1"]
            assert service.faults() == []
