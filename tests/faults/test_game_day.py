"""A game day: each fault is caused on a real service, its alert's expression turns true, and the runbook mends it.

The expressions are those of ops/deploy/prometheus/alerts.yml, asked of a real Prometheus that scrapes the service; what
mends are the commands that ops/docs/runbooks.md says, taken out of the page. What is not the service's (a server that
its own manager starts, a certificate that its authority signs) the test does in between.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from ledger import keys
from tests.support.processes.machine import Machine
from tests.support.processes.prometheus import Prometheus, prometheus_binary
from tests.support.processes.proxies import Proxy
from tests.support.processes.runbook import Runbook
from tests.support.processes.running import RunningService
from tests.support.processes.shell_commands import ShellCommands
from tests.support.sign_in.oidc_server import CLIENT_ID, CLIENT_SECRET, OidcServer, Page
from tests.support.sources.photo_database import MAPPING, PhotoDatabase
from tests.support.stores.certificates import write_certificate
from tests.support.stores.postgres_server import PostgresServer, postgres_binaries
from tests.support.stores.servers import RedisServer, free_port, valkey_binary, wait_until

pytestmark = pytest.mark.soak

INSERT = "INSERT INTO photo (id, owner, name) VALUES ('{}', 'lib', 'IMG.jpg')"
INCREASE_S = 600.0
"""For how long an alert tells of what happened once."""


class Game(NamedTuple):
    """A service with all that it may depend on, under Prometheus; each fault is mended before the next one."""

    service: RunningService
    prometheus: Prometheus
    runbook: Runbook
    store: RedisServer
    store_machine: Machine
    postgres: PostgresServer
    postgres_machine: Machine
    database: str
    provider: OidcServer
    proxy: Proxy
    certificate: Path


async def build(url: str) -> None:
    """Make a photo database with a photo in it."""
    database = await PhotoDatabase.build(url)
    await database.execute("INSERT INTO photo (id, owner, name) VALUES ('p1', 'lib', 'IMG.jpg')")
    await database.close()


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Game]:
    prometheus_binary()
    if postgres_binaries() is None:
        pytest.skip("PostgreSQL 15 or later is not installed")
    folder = tmp_path_factory.mktemp("game")
    certificate = write_certificate(folder / "photos.pem", days=60)
    (folder / "photos.toml").write_text(MAPPING)
    with ExitStack() as stack:
        enter = stack.enter_context
        machines = [enter(Machine()) for _ in range(2)]
        store = RedisServer(valkey_binary(), folder / "store", durable=True, environment=machines[0].environment)
        postgres = PostgresServer(folder / "postgres", environment=machines[1].environment)
        enter(store)
        enter(postgres)
        database = postgres.create_database()
        asyncio.run(build(database))
        provider = OidcServer()
        enter(provider.running())
        service = RunningService(
            folder / "service",
            workers=2,
            redis_url=store.url,
            postgres=database,
            postgres_mapping=str(folder / "photos.toml"),
            postgres_wait="1s",
            archive=(folder / "archive").as_uri(),
            expire_interval="1s",
            oidc_issuer=provider.issuer,
            oidc_client_id=CLIENT_ID,
            oidc_client_secret=CLIENT_SECRET,
        )
        proxy = Proxy(
            "caddy",
            folder / "proxy",
            ledger_port=service.port,
            backend_port=free_port(),
            certificate=(certificate, certificate),
        )
        enter(proxy)
        service.environment["LEDGER_EXTERNAL_DOMAIN"] = proxy.url
        enter(service)
        service.sign_in()
        key = service.command("key", "create", "--scope=metrics.read").stdout.strip()
        commands = enter(ShellCommands(folder / "bin"))
        runbook = Runbook(service, commands, DATABASE=database, KEY=key)
        prometheus = enter(Prometheus(folder / "prometheus", service.port, key))
        wait_until(lambda: prometheus.says("up == 1"), "the first scrape")
        yield Game(
            service,
            prometheus,
            runbook,
            store,
            machines[0],
            postgres,
            machines[1],
            database,
            provider,
            proxy,
            certificate,
        )


def wait_told(game: Game, text: str, *, exits: int = 0) -> None:
    """Ask what is the matter, as the page begins, until whichever worker is asked says so."""
    wait_until(lambda: text in game.runbook.run("Runbooks", exits=exits), f"/readyz to say {text!r}")


def test_store_down(game: Game) -> None:
    _, prometheus, runbook, store, *_ = game
    assert not prometheus.firing("LedgerStoreDown")
    store.kill()
    prometheus.wait_for("LedgerStoreDown", firing=True)
    wait_told(game, str(store.port), exits=22)
    runbook.run("LedgerStoreDown", exits=1)
    store.start()
    assert "PONG" in runbook.run("LedgerStoreDown")
    prometheus.wait_for("LedgerStoreDown", firing=False)


def test_disk_full(game: Game) -> None:
    assert not game.prometheus.firing("LedgerDiskFull")
    game.store.command("CONFIG", "SET", "maxmemory", "1mb")
    game.prometheus.wait_for("LedgerDiskFull", firing=True)
    assert "maxmemory:1048576" in game.runbook.run("LedgerDiskFull")
    game.prometheus.wait_for("LedgerDiskFull", firing=False)
    wait_told(game, "always: an answered write is on disk")


def test_eviction(game: Game) -> None:
    assert not game.prometheus.firing("LedgerEviction")
    game.store.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    game.prometheus.wait_for("LedgerEviction", firing=True)
    game.runbook.run("LedgerEviction")
    game.prometheus.wait_for("LedgerEviction", firing=False)


def test_source_down(game: Game) -> None:
    _, prometheus, runbook, *_ = game
    assert not prometheus.firing("LedgerSourceDown")
    game.postgres.stop()
    prometheus.wait_for("LedgerSourceDown", firing=True)
    wait_told(game, "PostgreSQL cannot be reached")
    assert "cannot be reached" in runbook.run("LedgerSourceDown", exits=1)
    game.postgres.start()
    runbook.run("LedgerSourceDown")
    prometheus.wait_for("LedgerSourceDown", firing=False)


@contextmanager
def left_open(game: Game, name: str, photo: str) -> Iterator[None]:
    """Begin a transaction that writes, in a session of a name, and leave it open."""
    begun = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' AND state LIKE 'idle in %'"
    with subprocess.Popen(
        [game.postgres.binaries.psql, "-q", f"{game.database}?application_name={name}"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as psql:
        assert psql.stdin is not None
        psql.stdin.write(f"BEGIN; {INSERT.format(photo)};\n")
        psql.stdin.flush()
        wait_until(lambda: game.postgres.psql(begun) == "1", "the transaction that stays open")
        yield
        psql.kill()


def test_transactions_that_hold_the_horizon(game: Game) -> None:
    """One is open for minutes; another one for so long that users notice. The database's machine ages them."""
    _, prometheus, runbook, *_ = game
    assert not prometheus.firing("LedgerLongTransaction")
    assert not prometheus.firing("LedgerHorizonHeld")
    game.postgres_machine.set_off(-1000)
    with left_open(game, "forgotten", "p2"):
        game.postgres_machine.set_off(-400)
        with left_open(game, "slow", "p3"):
            game.postgres_machine.set_off(0)
            for name, ended in (("forgotten", "LedgerHorizonHeld"), ("slow", "LedgerLongTransaction")):
                prometheus.wait_for(ended, firing=True)
                wait_told(game, "devices see nothing of the last")
                here, there = map(int, runbook.run("LedgerHorizonHeld").split())
                assert abs(here - there) < 5, "it is not the clock"
                listed = runbook.run("LedgerLongTransaction")
                (pid,) = re.findall(rf"^ *(\d+) \| {name}\b", listed, re.MULTILINE)
                runbook.run("LedgerLongTransaction", 1, instead={"PID": pid})
                prometheus.wait_for(ended, firing=False)


def test_source_down_for_a_transaction_that_was_prepared_and_forgotten(game: Game) -> None:
    service, prometheus, runbook, *_ = game
    assert not prometheus.firing("LedgerSourceDown")
    game.postgres.psql(f"BEGIN; {INSERT.format('p4')}; PREPARE TRANSACTION 'left'", game.database.rpartition("/")[2])
    service.signal(signal.SIGHUP)  # those who begin now did not see it begin
    prometheus.wait_for("LedgerSourceDown", firing=True)
    wait_told(game, "ROLLBACK PREPARED")
    assert "ROLLBACK PREPARED" in runbook.run("LedgerSourceDown", exits=1)
    (gid,) = re.findall(r"^ *(\S+) +\| postgres", runbook.run("LedgerLongTransaction"), re.MULTILINE)
    runbook.run("LedgerLongTransaction", 2, instead={"GID": gid})
    prometheus.wait_for("LedgerSourceDown", firing=False)
    runbook.run("LedgerSourceDown")


def test_worker_killed(game: Game) -> None:
    service, prometheus, runbook, *_ = game
    assert not prometheus.firing("LedgerWorkerKilled")
    time.sleep(3)  # two scrapes that it can increase from
    service.workers()[0].kill()
    prometheus.wait_for("LedgerWorkerKilled", firing=True)

    wait_until(lambda: len(service.workers()) == 2, "another worker")
    wait_until(lambda: "syncledger_workers 2.0" in runbook.run("LedgerWorkerKilled"), "another worker in the figures")
    prometheus.wait_for("LedgerWorkerKilled", firing=False, timeout_s=INCREASE_S + 60)


def test_archive_and_backup_failing(game: Game) -> None:
    service, prometheus, runbook, *_ = game
    for command in ("archive", "backup"):
        service.command(command)
    for alert in ("LedgerArchiveFailing", "LedgerBackupFailing"):
        assert not prometheus.firing(alert)
    place = Path(service.environment["LEDGER_ARCHIVE"].removeprefix("file://"))
    place.rename(place.with_suffix(".away"))
    place.write_text("")  # a file where the folder should be
    try:
        for command, alert in (("archive", "LedgerArchiveFailing"), ("backup", "LedgerBackupFailing")):
            assert service.command(command, check=False).returncode == 2
            prometheus.wait_for(alert, firing=True)
            assert "LEDGER_ARCHIVE" in runbook.run(alert, exits=2)
    finally:
        place.unlink()
        place.with_suffix(".away").rename(place)
    for alert in ("LedgerArchiveFailing", "LedgerBackupFailing"):
        runbook.run(alert)
        prometheus.wait_for(alert, firing=False)


@pytest.mark.parametrize("off_s", [3600, -86_400])
def test_clock_step(game: Game, off_s: int) -> None:
    _, prometheus, runbook, *_ = game
    assert not prometheus.firing("LedgerClockStep")
    game.store_machine.set_off(off_s)
    prometheus.wait_for("LedgerClockStep", firing=True)
    wait_told(game, "the clock of the store's server is")
    here, there = map(int, runbook.run("LedgerClockStep").split())
    assert abs(there - here - off_s) < 5
    runbook.run("LedgerClockStep", 1, instead={"SECONDS": str(here)}, on=game.store_machine.environment)
    prometheus.wait_for("LedgerClockStep", firing=False)


def test_partition_not_whole(game: Game) -> None:
    service, prometheus, runbook, store, *_ = game
    assert not prometheus.firing("LedgerPartitionNotWhole")
    store.command("DEL", keys.whole(keys.partition_of("ann", service.settings.partitions)))
    prometheus.wait_for("LedgerPartitionNotWhole", firing=True)
    runbook.run("LedgerPartitionNotWhole")
    prometheus.wait_for("LedgerPartitionNotWhole", firing=False)
    service.verify()


def test_certificate_expired(game: Game) -> None:
    service, prometheus, runbook, *_ = game
    assert not prometheus.firing("LedgerCertificateExpired")
    caddy = game.proxy.environment
    reload = {"/etc/caddy/Caddyfile": f"{caddy['HOME']}/Caddyfile"}
    there = {"photos.example.org:443": game.proxy.url.removeprefix("https://")}
    write_certificate(game.certificate, days=-1)
    runbook.run("LedgerCertificateExpired", 1, instead=reload, on=caddy)
    shown = runbook.run("LedgerCertificateExpired", instead=there)
    service.signal(signal.SIGHUP)  # its workers look again in ten minutes, new ones at once
    prometheus.wait_for("LedgerCertificateExpired", firing=True)
    assert "the certificate of external_domain, localhost" in service.log.read_text()
    write_certificate(game.certificate, days=60)
    assert runbook.run("LedgerCertificateExpired", instead=there) == shown, "nothing has loaded it yet"
    runbook.run("LedgerCertificateExpired", 1, instead=reload, on=caddy)
    assert runbook.run("LedgerCertificateExpired", instead=there) != shown
    prometheus.wait_for("LedgerCertificateExpired", firing=False)


def test_sign_in_broken(game: Game) -> None:
    _, prometheus, runbook, *_ = game
    assert not prometheus.firing("LedgerSignInBroken")
    game.provider.pages["/.well-known/openid-configuration"] = Page(503)
    prometheus.wait_for("LedgerSignInBroken", firing=True)
    wait_told(game, "nobody can sign in")
    runbook.run("LedgerSignInBroken", exits=22)
    game.provider.pages.clear()
    assert "token_endpoint" in runbook.run("LedgerSignInBroken")
    prometheus.wait_for("LedgerSignInBroken", firing=False)


def test_down_for_a_damaged_file_of_the_embedded_store(tmp_path: Path) -> None:
    prometheus_binary()
    with ExitStack() as stack:
        service = stack.enter_context(RunningService(tmp_path / "service"))
        token = service.sign_in()
        key = service.command("key", "create", "--scope=metrics.read").stdout.strip()
        commands = stack.enter_context(ShellCommands(tmp_path / "bin"))
        prometheus = stack.enter_context(Prometheus(tmp_path / "prometheus", service.port, key))
        wait_until(lambda: prometheus.says("up == 1"), "the first scrape")
        assert not prometheus.firing("LedgerDown")
        service.kill_all()
        (log,) = (service.data_dir / "valkey").rglob("*.incr.aof")
        log.write_bytes(log.read_bytes() + b"\0" * 4096)
        with pytest.raises(RuntimeError, match="syncledger store mend"):
            service.start()
        prometheus.wait_for("LedgerDown", firing=True)
        assert "4,096 bytes are cut" in Runbook(service, commands).run("LedgerDown")
        service.start()
        prometheus.wait_for("LedgerDown", firing=False)
        assert service.client(token).get("/api/users/me").status_code == 200
        service.verify()
