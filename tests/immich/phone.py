"""A phone of one Immich user: the simulated device, held against what the database says it must have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from ops.simulate.check import CheckResult, check
from ops.simulate.device import Device, SyncResult
from ops.simulate.errors import DeviceError
from ops.simulate.tables import TYPES_V2, TYPES_V3
from tests.immich.database import ImmichDatabase
from tests.immich.expected import Immich, differences
from tests.support.processes.running import RunningService


class Cut(DeviceError):
    """The phone lost its connection."""


class Phone:
    """One install of the app, with foreign keys enforced; its file stays over syncs that are cut off."""

    def __init__(
        self,
        service: RunningService,
        database: ImmichDatabase,
        user: UUID,
        file: Path,
        token: str = "",
        types: Sequence[str] = TYPES_V2,
    ) -> None:
        """Sign in, or go on with the token of one that did; `types` is what its app asks for."""
        self.user = user
        self._types = types
        self._database = database
        self.token = token or service.sign_in(str(user), str(user))
        self._device = Device(service.url, self.token, file, types=types, timeout_s=60)
        self._ack = self._device.server.ack

    def close(self) -> None:
        """Close its connections and its file."""
        self._device.close()

    def sync(self) -> SyncResult:
        """Sync to completion; whatever the app would stop at is raised."""
        result = self._device.sync()
        assert result.complete, result
        assert (result.reset, result.unterminated, result.duplicates) == (False, False, 0), result
        return result

    def settled(self) -> SyncResult:
        """Sync when all that was written may be read, hold the copy against the database, and find no more to sync."""
        self._database.settle()
        result = self.sync()
        self.check()
        again = self.sync()
        assert again.by_type == {"SyncCompleteV1": 1}, again.by_type
        return result

    def sync_cut(self, runs: int, *, before_ack: bool) -> None:
        """Sync, but lose the connection once so many runs are stored: before the last one's ack, or behind it."""
        left = runs

        def ack(text: str) -> None:
            nonlocal left
            left -= 1
            if left < 0 and before_ack:
                raise Cut
            self._ack(text)
            if left < 0:
                raise Cut

        self._sync_acking(ack)

    def sync_to(self, entity_type: str) -> None:
        """Sync, but lose the connection behind the ack of the first run of this type, which must come."""
        acked = ""

        def ack(text: str) -> None:
            nonlocal acked
            self._ack(text)
            acked = text.partition("|")[0]
            if acked == entity_type:
                raise Cut

        self._sync_acking(ack)
        assert acked == entity_type, f"the stream ended with {acked}"

    def _sync_acking(self, ack: Callable[[str], None]) -> None:
        vars(self._device.server)["ack"] = ack
        try:
            self._device.sync()
        except Cut:
            pass
        finally:
            del vars(self._device.server)["ack"]

    def check(self) -> None:
        """Hold the copy against the database: every row it must have, as it is, and none that may not stay."""
        found = differences(self._device.copy, Immich(self._database), self.user, self._types)
        assert not found, "\n".join(sorted(found))

    def compared(self) -> CheckResult:
        """Compare the copy with what the service lists of the library, as `simulate --check` does."""
        return check(self._device.copy, self._device.server, str(self.user), self._types)

    def history(self, service: RunningService) -> list[dict[str, Any]]:
        """List what happened to its session, oldest first."""
        with service.client(self.token) as client:
            answer = client.get(f"/ledger/sessions/{sha256(self.token.encode()).hexdigest()}/events?limit=1000")
        assert answer.status_code == 200, answer.text
        return list(reversed(answer.json()["events"]))

    def is_favorite(self, asset: object) -> bool:
        """Tell whether it shows a heart on an asset it has."""
        row = self.row("asset", asset)
        assert row is not None
        return bool(row["isFavorite"])

    def ids(self, table: str, column: str = "id") -> set[str]:
        """List a column of one of the copy's tables."""
        return {row[0] for row in self._device.copy.db.execute(f'SELECT "{column}" FROM "{table}"')}

    def row(self, table: str, key: object, column: str = "id") -> dict[str, Any] | None:
        """Read one row of the copy; None if it is not there."""
        cursor = self._device.copy.db.execute(f'SELECT * FROM "{table}" WHERE "{column}" = ?', (str(key),))
        found = cursor.fetchone()
        return None if found is None else dict(zip((name for name, *_ in cursor.description), found, strict=True))


@contextmanager
def phones(
    service: RunningService, database: ImmichDatabase, folder: Path, *users: UUID, newer: Collection[UUID] = ()
) -> Iterator[tuple[Phone, ...]]:
    """Set up a phone for each of these users, and behind those one of 3.3 for each of the `newer` ones."""
    made: list[Phone] = []
    try:
        for user in users:
            made.append(Phone(service, database, user, folder / f"{user}-{len(made)}.db"))
        for user in newer:
            made.append(Phone(service, database, user, folder / f"{user}-{len(made)}.db", types=TYPES_V3))
        yield tuple(made)
    finally:
        for phone in made:
            phone.close()


def streamed(service: RunningService, user: UUID) -> Counter[tuple[str, str]]:
    """Stream everything to a new session and count each line by its type and what it is about."""
    return Counter((line["type"], _about(line["data"])) for line in all_lines(service, user))


def all_lines(service: RunningService, user: UUID, types: Sequence[str] = TYPES_V2) -> list[dict[str, Any]]:
    """Stream everything to a new session."""
    with service.client(service.sign_in(str(user), str(user))) as client:
        answer = client.post("/api/sync/stream", json={"types": list(types)})
        assert answer.status_code == 200, answer.text
    lines = [json.loads(line) for line in answer.text.split("\n")[:-1]]
    assert lines[-1]["type"] == "SyncCompleteV1"
    return lines


def _about(data: dict[str, Any]) -> str:
    if "id" in data:
        return str(data["id"])
    return " ".join(str(data[name]) for name in sorted(data) if name == "key" or name.endswith("Id"))
