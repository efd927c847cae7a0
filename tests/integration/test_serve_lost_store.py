"""A service whose store is emptied under it: it stays up, tells phones to try again, and goes on after a restore."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support.processes.running import RunningService
from tests.support.stores.servers import wait_until


def test_a_service_outlives_the_loss_of_its_store(valkey_url: str, tmp_path: Path) -> None:
    with RunningService(tmp_path, redis_url=valkey_url, archive=f"file://{tmp_path}/archive") as service:
        token = service.sign_in()
        service.command("backup")

        def answer(path: str = "/api/sessions", shown: str = token) -> httpx.Response:
            with service.client(shown) as client:
                return client.get(path)

        assert answer().status_code == 200
        with service.store() as store:
            store.flushall()
        assert answer().status_code == 503
        (worker,) = service.workers()
        worker.kill()  # its successor finds the store empty
        wait_until(lambda: [other.pid for other in service.workers()] not in ([], [worker.pid]), "another worker", 30)
        gone = answer()
        assert (gone.status_code, gone.headers["retry-after"]) == (503, "30")
        assert answer("/readyz").status_code == 503
        assert answer(shown="garbage").status_code == 401
        refused = service.command("session", "create", "--user", "ann", "--library", "lib", check=False)
        assert (refused.returncode, refused.stdout) == (2, "")
        with service.store() as store:
            assert not store.exists("ledger:meta")

        service.command("restore", "latest", "--yes")
        assert answer().status_code == 200
        assert answer("/readyz").status_code == 200
        service.verify()
        assert service.faults() == []

        service.stop()
        with service.store() as store:
            store.flushall()
        with pytest.raises(RuntimeError, match=r"ended at start with 2(.|\n)*syncledger restore"):
            service.start()
        with service.store() as store:
            assert store.dbsize() == 0
