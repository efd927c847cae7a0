"""A device whose token is replaced while it syncs: a real service with two workers, and the app's habits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ops.demo_library import DemoLibrary
from ops.simulate.device import Device, SyncResult
from tests.support.processes.running import RunningService

ROTATIONS = 10
LIBRARY = "lib"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("rotation"), workers=2, token_grace="1s") as service:
        service.put(LIBRARY, DemoLibrary(user="ann", name="Ann", assets=2000))
        yield service


def refresh(service: RunningService, token: str) -> str:
    answer = httpx.post(f"{service.url}/ledger/token/refresh", headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["accessToken"])


def test_ten_rotations_in_mid_sync_lose_no_checkpoint_and_send_nothing_twice(
    service: RunningService, tmp_path: Path
) -> None:
    tokens = [service.sign_in("ann", LIBRARY)]
    with Device(service.url, tokens[0], tmp_path / "phone.db") as device:

        def rotate(result: SyncResult) -> None:
            if len(tokens) <= ROTATIONS and not result.complete:
                tokens.append(refresh(service, tokens[-1]))
                device.server.present(tokens[-1])

        result = device.sync(progress=rotate)
        assert len(tokens) == ROTATIONS + 1
        assert result.complete
        assert result.duplicates == 0
        assert result.acks > ROTATIONS, "there were acks with every token"
        again = device.sync()
        assert (again.lines, again.by_type) == (1, {"SyncCompleteV1": 1})
    service.verify()
