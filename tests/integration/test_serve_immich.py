"""The real service beside Immich, with two workers: out in mid-stream and on both, told by `/readyz` and commands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from tests.immich.database import ImmichDatabase
from tests.support.phones.raw_stream import RawStream
from tests.support.processes.running import RunningService
from tests.support.stores.postgres_server import PostgresServer

ROWS, ROW_BYTES = 300, 30_000
"""9 MB: far more than all buffers between the service and a reader hold."""
RECHECK_S = 1.0


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[ImmichDatabase]:
    """A database of many users with long names."""
    url = postgres.create_database()
    with ImmichDatabase(url) as database:
        database.build().user("ann")
        database.execute(
            'INSERT INTO "user" (email, name, "clusterGroupId") '
            f"SELECT n || '@example.test', repeat('n', {ROW_BYTES}), (SELECT id FROM cluster_group) "
            f"FROM generate_series(1, {ROWS}) n"
        )
        database.settle()
        yield database
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def service(database: ImmichDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The service of two workers beside that Immich."""
    folder = tmp_path_factory.mktemp("service")
    with RunningService(
        folder, workers=2, identity="immich", postgres=database.url, immich_recheck=f"{RECHECK_S:g}s"
    ) as service:
        yield service
        assert service.faults() == []


def answers(service: RunningService, token: str, times: int = 12) -> set[int]:
    """Ask so often, each time on a new connection, that both workers answer; as the app presents its token."""
    cookies = {"Cookie": f"immich_access_token={token}; immich_is_authenticated=true; immich_auth_type=password"}
    return {
        httpx.get(f"{service.url}/api/sync/ack", headers=cookies, trust_env=False).status_code for _ in range(times)
    }


def test_who_is_signed_out_at_immich_is_out_in_mid_stream_and_on_each_worker(
    service: RunningService, database: ImmichDatabase
) -> None:
    ann = database.value('SELECT id FROM "user" WHERE name = $1', "ann")
    token, kept = database.sign_in(ann), database.sign_in(ann)
    assert answers(service, token) == {200}
    with RawStream(service.port, token, ["UsersV1"], receive_buffer_bytes=4096) as stream:
        stream.read_until(3 * ROW_BYTES)
        assert (stream.status, stream.clean) == (200, None)
        row = database.session(token)
        database.sign_out(token)
        time.sleep(RECHECK_S + 0.2)
        stream.read_to_end()
        assert stream.clean is False
    assert answers(service, token) == {401}
    assert answers(service, kept) == {200}
    database.insert("session", **row)
    time.sleep(RECHECK_S + 0.2)
    assert answers(service, token) == {200}
    service.verify()


def test_an_operator_is_told_how_it_is_and_where_sessions_end(
    service: RunningService, database: ImmichDatabase
) -> None:
    ann = database.value('SELECT id FROM "user" WHERE name = $1', "ann")
    token = database.sign_in(ann)
    assert answers(service, token, 1) == {200}
    ready = httpx.get(f"{service.url}/readyz", trust_env=False).json()
    assert ready["identity"] == {
        "kind": "immich",
        "ok": True,
        "text": "Immich's sessions can be read, and what they say is used for 1 s",
    }
    sid = sha256(token.encode()).hexdigest()
    for arguments in (("session", "end", sid), ("session", "end", "--all", "--user", str(ann))):
        ended = service.command(*arguments, check=False)
        assert (ended.returncode, "Account Settings, Authorized Devices" in ended.stderr) == (2, True), ended.stderr
    made = service.command("session", "create", "--user", str(ann), "--library", str(ann), check=False)
    assert (made.returncode, "sign in at Immich" in made.stderr) == (2, True)
    assert answers(service, token, 1) == {200}
    checked = service.command("source", "check")
    assert "warning: postgres is a superuser" in checked.stdout
    assert "    GRANT SELECT (" in checked.stdout


def test_a_database_that_lacks_what_is_looked_up_keeps_the_service_from_starting(
    tmp_path: Path, postgres: PostgresServer, database: ImmichDatabase
) -> None:
    name = database.url.rpartition("/")[2]
    postgres.psql(
        "CREATE ROLE narrow LOGIN PASSWORD 'only-for-tests'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO narrow;"
        "REVOKE SELECT ON session FROM narrow; GRANT pg_read_all_stats TO narrow",
        name,
    )
    try:
        url = postgres.url_of(name, user="narrow")
        refused = RunningService(tmp_path, identity="immich", postgres=url).command("serve", check=False)
        assert (refused.returncode, "session.token" in refused.stderr) == (2, True), refused.stderr
        assert "source check" in refused.stderr
    finally:
        postgres.psql("DROP OWNED BY narrow; DROP ROLE narrow", name)
