"""The official SDK with a token of Immich's, on databases of 3.1 to 3.3 and through each proxy: all of its life."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest

from ops.simulate.tables import TYPES_V2, TYPES_V3
from tests.clients.sdk import Sdk, SdkError, sdk_process
from tests.immich.both import BothPhone, rows
from tests.immich.database import ImmichDatabase
from tests.immich.schemas import CHANGES, Version
from tests.integration.deploy.conftest import begun
from tests.support.phones.raw_stream import RawStream
from tests.support.processes.photo_backend import PhotoBackend
from tests.support.processes.proxies import KINDS, Proxy
from tests.support.processes.running import RunningService
from tests.support.stores.postgres_server import PostgresServer
from tests.support.stores.servers import wait_until

RECHECK_S: Final = 1.0
OUT_S: Final = RECHECK_S + 0.2
BOTH: Final = (*TYPES_V2, *(name for name in TYPES_V3 if name not in TYPES_V2))
"""What the SDK knows, and those of 3.3, which to this SDK are texts."""
LONG: Final = "x" * 30_000
ROWS: Final = 300
"""9 MB: far more than all buffers on the way hold."""
DIAGONAL: Final = dict(zip(CHANGES, KINDS, strict=True))
IN_TEST: Final = ("3.3", DIAGONAL["3.3"])
assert len(BOTH) == 26

Installation = tuple[ImmichDatabase, RunningService]


@pytest.fixture(scope="module")
def installations(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Version], Installation]]:
    """Give the service of two workers beside an Immich of a version, started when it is first wanted."""
    running: dict[Version, Installation] = {}
    with ExitStack() as stack:

        def installed(version: Version) -> Installation:
            if version not in running:
                url = postgres.create_database()
                stack.callback(postgres.drop_database, url)
                database = stack.enter_context(ImmichDatabase(url)).build(version)
                service = RunningService(
                    tmp_path_factory.mktemp("service"), workers=2, identity="immich", postgres=url,
                    immich_recheck=f"{RECHECK_S:g}s", trusted_proxies="127.0.0.1",
                )  # fmt: skip
                running[version] = database, stack.enter_context(service)
            return running[version]

        yield installed
        assert [service.faults() for _, service in running.values()] == [[]] * len(running)


@pytest.fixture(
    params=[
        pytest.param(
            (version, kind), id=f"{version}-{kind}", marks=[] if (version, kind) == IN_TEST else pytest.mark.soak
        )
        for version in CHANGES
        for kind in KINDS
    ]
)
def place(
    request: pytest.FixtureRequest, installations: Callable[[Version], Installation], tmp_path: Path
) -> Iterator[tuple[Version, ImmichDatabase, RunningService, Proxy]]:
    """An Immich of each version, this service beside it, and each proxy in front of both."""
    version, kind = request.param
    database, service = installations(version)
    with (
        PhotoBackend().running() as backend,
        Proxy(kind, tmp_path / kind, ledger_port=service.port, backend_port=backend.port) as proxy,
    ):
        yield version, database, service, proxy


class App:
    """The app on one phone, which asks with the SDK, through a proxy."""

    def __init__(self, sdk: Sdk, proxy: Proxy, phone: BothPhone) -> None:
        self._sdk, self._proxy, self.phone = sdk, proxy, phone

    def __call__(self, function: str, *args: Any) -> Any:
        """Call the SDK as this phone; again where Traefik broke an answer off before it began (golang/go#40747)."""
        self._sdk.present(self._proxy.url, x_immich_user_token=self.phone.token)
        for _ in range(5):
            try:
                return self._sdk(function, *args)
            except SdkError as error:
                if self._proxy.kind != "traefik" or error.status is not None:
                    raise
        raise AssertionError("Traefik broke every answer off")

    def stream(self, types: tuple[str, ...] = TYPES_V2) -> bytes:
        """Read a stream to its end."""
        text: str = self("getSyncStream", {"syncStreamDto": {"types": types}})
        return text.encode()

    def ack(self, text: str) -> None:
        """Acknowledge."""
        self("sendSyncAck", {"syncAckSetDto": {"acks": [text]}})

    def status(self) -> int:
        """Ask for the checkpoints; tells how that is answered."""
        try:
            self("getSyncAck")
        except SdkError as error:
            if error.status is None:
                raise
            return error.status
        return 200


def library(db: ImmichDatabase, version: Version) -> UUID:
    """Write some of everything that a user sees."""
    ann, bob, eve = (db.user(f"{name}-{uuid4().hex[:8]}") for name in ("ann", "bob", "eve"))
    own, others = [db.asset(ann) for _ in range(3)], [db.asset(bob) for _ in range(2)]
    if version == "3.1":
        grace = db.insert("person", ownerId=ann, name="Grace")["id"]
        db.insert("asset_face", assetId=own[0], personId=grace)
    else:
        db.face(own[0], db.person(ann))
    db.stack(ann, own[:2])
    db.partner(bob, ann)
    db.stack(bob, others)
    db.album(eve, [ann], [db.asset(eve)])
    db.memory(ann, own[:2])
    if version == "3.3":
        db.memory(ann, own[:1], type="birthday", data={"personId": str(uuid4()), "personName": "Grace"})
    db.ocr(own[1], "text")
    db.edit(own[1])
    db.insert("asset_metadata", assetId=own[2], key="mobile-app", value={"iCloudId": "x"})
    db.insert("user_metadata", userId=ann, key="preferences", value={"theme": 1})
    return ann


def test_the_sdk_syncs_with_a_token_of_immichs(
    place: tuple[Version, ImmichDatabase, RunningService, Proxy], tmp_path: Path
) -> None:
    version, database, service, proxy = place
    ann = library(database, version)
    with (
        sdk_process() as sdk,
        BothPhone(database, ann, tmp_path / "old.db") as old,
        BothPhone(database, ann, tmp_path / "new.db", BOTH) as new,
    ):
        known, fresh = App(sdk, proxy, old), App(sdk, proxy, new)
        database.settle()
        goes_on_from_immich(database, known)
        resumes(database, fresh)
        starts_over(database, known)
        is_out_and_in_again(database, service, proxy, known)
        assert fresh.status() == 200
    service.verify()


def goes_on_from_immich(database: ImmichDatabase, app: App) -> None:
    """A phone that Immich sent everything is sent next to nothing, and what is new."""
    phone = app.phone
    assert phone.at_immich()["AssetV2"] == 3
    assert phone.immich.checkpoints()["SyncCompleteV1"]
    came = phone.sync(app.stream, app.ack)
    assert {name for name in came if not name.startswith(("User", "Album", "Partner"))} <= {"SyncCompleteV1"}, came
    assert phone.differences() == []
    database.asset(phone.user)
    database.settle()
    came = phone.sync(app.stream, app.ack)
    assert (came["AssetV2"], came["AssetExifV1"]) == (1, 1)
    assert phone.differences() == []


def resumes(database: ImmichDatabase, app: App) -> None:
    """A phone that asks for all 26 is cut off twice, and goes on where it was."""
    phone, came = app.phone, []
    for runs, before_ack in ((4, False), (3, True), (None, False)):
        came.append(phone.sync(lambda: app.stream(BOTH), app.ack, runs, before_ack=before_ack))
    first, second, third = came
    assert not set(first) & set(third), "what was acknowledged is not sent again"
    assert set(second) & set(third), "and what was not, is"
    assert {"AuthUserV1", "AuthUserV2"} <= set(first) | set(second)
    assert {"AssetFaceV2", "AssetFaceV3", "MemoryV1", "MemoryV2", "MemoryToAssetV2"} <= set(third)
    assert phone.differences() == []
    database.settle()
    assert rows(phone.sync(lambda: app.stream(BOTH), app.ack).items()) == 0


def starts_over(database: ImmichDatabase, app: App) -> None:
    """Its owner wants that a phone start over, at Immich."""
    phone = app.phone
    database.update("session", database.session(phone.token)["id"], isPendingSyncReset=True)
    time.sleep(OUT_S)
    came = phone.sync(app.stream, app.ack)
    assert (came["SyncResetV1"], came["AssetV2"], came["SyncCompleteV1"]) == (1, 4, 1)
    assert phone.differences() == []
    wait_until(lambda: not database.session(phone.token)["isPendingSyncReset"], "the wish to be taken back")
    assert "SyncResetV1" not in phone.sync(app.stream, app.ack)


def is_out_and_in_again(database: ImmichDatabase, service: RunningService, proxy: Proxy, app: App) -> None:
    """Its row goes in mid-stream: it is out on both workers, and goes on when the row is there again."""
    phone = app.phone
    for _ in range(ROWS):
        database.asset(phone.user)
    database.execute(
        'UPDATE asset_exif SET description = $1 WHERE "assetId" IN (SELECT id FROM asset WHERE "ownerId" = $2)',
        LONG, phone.user,
    )  # fmt: skip
    database.settle()

    def asked() -> RawStream:
        return RawStream(proxy.port, phone.token, ["AssetExifsV1"], receive_buffer_bytes=4096)

    with begun(asked, proxy) as stream:
        stream.read_until(3 * len(LONG))
        assert (stream.status, stream.clean) == (200, None)
        row = database.session(phone.token)
        database.sign_out(phone.token)
        time.sleep(OUT_S)
        stream.read_to_end()
        assert stream.clean is False
    assert {app.status() for _ in range(3)} == {401}
    headers = {"x-immich-user-token": phone.token}
    direct = [httpx.get(f"{service.url}/api/sync/ack", headers=headers, trust_env=False) for _ in range(12)]
    assert {answer.status_code for answer in direct} == {401}
    database.insert("session", **row)
    wait_until(lambda: app.status() == 200, "the session to go on")
    time.sleep(OUT_S)
    came = phone.sync(app.stream, app.ack)
    assert (came["AssetV2"] >= ROWS, came["SyncCompleteV1"]) == (True, 1)
    assert phone.differences() == []
