"""`syncledger immich check`: each proxy as it is shipped passes, and each fault of one is named with what mends it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from ops.beside import mending
from ops.beside.installation import KEY_NAME, LEFT_US
from ops.beside.mending import KINDS
from tests.immich.database import ImmichDatabase
from tests.support.phones.http import Live
from tests.support.processes.commands import Commands, commands
from tests.support.processes.photo_backend import PhotoBackend
from tests.support.processes.proxies import FILES, Proxy
from tests.support.stores.postgres_server import PostgresServer
from tests.support.stores.servers import free_port

__all__ = ["commands"]

PING: Final = ("/api/server/ping", (200, b'{"res":"pong"}'))
REFUSED: Final = (401, b'{"message":"Authentication required"}')
Json = dict[str, Any]


@pytest.fixture
def ledger(valkey_url: str) -> Iterator[Live]:
    """The service, under its own HTTP protocol."""
    with Live(valkey_url) as live:
        yield live


@pytest.fixture
def immich(backend: PhotoBackend) -> PhotoBackend:
    """Immich, as far as the check asks it."""
    backend.answers |= {
        "/api/server/ping": (200, b'{"res":"pong"}'),
        "/api/server/version": (200, b'{"major":3,"minor":3,"patch":0}'),
        **dict.fromkeys(("/api/sync/stream", "/api/sync/ack", "/API/sync/ack", "//api/sync/ack"), REFUSED),
    }
    return backend


class Check:
    """Checks a proxy that an operator changed, as the command does."""

    def __init__(self, commands: Commands, started: Callable[..., Proxy], ledger: Live, immich: PhotoBackend) -> None:
        self._commands, self._started, self._ledger, self._immich = commands, started, ledger, immich

    def __call__(
        self, kind: str, *changes: tuple[str, str], pause: str = "0s", **settings: str
    ) -> tuple[int, dict[str, Json]]:
        """Run it; returns its exit code, and the checks by name (the worst of each)."""

        def changed(text: str) -> str:
            for old, new in changes:
                assert old in text, f"{kind} has no {old!r}"
                text = text.replace(old, new)
            return text

        answers = dict(self._immich.answers)
        proxy = self._started(kind, ledger_port=self._ledger.port, backend_port=self._immich.port, changed=changed)
        self._immich.forget()
        self._immich.answers |= answers
        url = f"http://127.0.0.1:{proxy.port}"
        done = self._commands.run("immich", "check", "--url", url, "--pause", pause, "--json", **settings)
        found: Json = json.loads(done.out)
        assert (found["url"], found["ok"]) == (url, done.code == 0), done.err
        checks: dict[str, Json] = {}
        for check in found["checks"]:
            worst = checks.setdefault(check["name"], check)
            if worst["status"] != "FAIL":
                checks[check["name"]] = check
        return done.code, checks


@pytest.fixture
def check(commands: Commands, started: Callable[..., Proxy], ledger: Live, immich: PhotoBackend) -> Check:
    """Check a proxy."""
    return Check(commands, started, ledger, immich)


def faults(checks: dict[str, Json]) -> set[str]:
    """Name the checks that found something to mend, but for settings, which are another test's."""
    return {name for name, found in checks.items() if found["status"] == "FAIL"} - {"settings"}


PROXIED: Final = {
    "address", "sync routes", "ledger routes", "Immich's routes", "inner routes", "socket", "stream", "slow phones",
    "client", "no fallback",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["caddy", "traefik", pytest.param("nginx", marks=pytest.mark.soak)])
def test_what_is_shipped_passes(check: Check, kind: str, commands: Commands) -> None:
    code, checks = check(kind, pause="300ms")
    assert faults(checks) == set()
    assert {checks[name]["status"] for name in PROXIED - {"ledger routes"} | {"time-outs"}} == {"ok"}
    assert code == 1, "these settings are not of a service beside Immich"
    assert "LEDGER_IDENTITY=immich" in checks["settings"]["mend"]
    assert KEY_NAME not in commands("key", "list"), "its key is gone with it"


NGINX_SYNC: Final = "        proxy_pass http://$sync;\n    }"
FALLBACK: Final = "        error_page 502 503 504 = @immich;\n        proxy_pass http://$sync;\n    }"
AT_IMMICH: Final = "\n    location @immich {\n        proxy_pass http://immich;\n    }"


FAULTS: Final = (
    ("slow phones", ("proxy_buffering off;", "proxy_buffering on;"), "proxy_buffering off;"),
    ("sync routes", ('location ~* "^[/\\x5c]api', 'location ~ "^[/\\x5c]api'), "location ~*"),
    (
        "inner routes",
        ("    location / {\n", "    location = /metrics {\n proxy_pass http://ledger;\n }\n    location / {\n"),
        "location / {",
    ),
    ("ledger routes", ("(ledger|console)", "(console)"), "(ledger|console)"),
    ("socket", ("        set $upgrade    $http_upgrade;\n", ""), "$http_upgrade"),
    ("client", ("X-Forwarded-For   $remote_addr;", "X-Forwarded-For   $proxy_add_x_forwarded_for;"), "$remote_addr"),
)
"""Each with how it is made in nginx, and the line that mends it."""
FALLBACKS: Final = (
    ((NGINX_SYNC, FALLBACK + AT_IMMICH), "proxy_intercept_errors"),
    ((NGINX_SYNC, "        proxy_intercept_errors on;\n" + FALLBACK + AT_IMMICH), "proxy_intercept_errors"),
    (("    zone ledger 64k;\n", "    zone ledger 64k;\n    server ${PROXY_IMMICH} resolve backup;\n"), "backup"),
)


@pytest.mark.parametrize(
    "made",
    [pytest.param(FAULTS, id="all"), *(pytest.param((one,), id=one[0], marks=pytest.mark.soak) for one in FAULTS)],
)
def test_faults_are_named_each_with_the_line_that_mends_it(check: Check, made: tuple[Any, ...]) -> None:
    code, checks = check("nginx", *(change for _, change, _ in made))
    assert code == 1
    assert faults(checks) == {named for named, _, _ in made}
    for named, _, mends in made:
        assert any(mends in line for line in checks[named]["mend"]), checks[named]


@pytest.mark.parametrize(
    ("change", "mends"),
    [pytest.param(*one, marks=[pytest.mark.soak] if one != FALLBACKS[2] else []) for one in FALLBACKS],
)
def test_a_proxy_that_falls_back_to_immich(check: Check, change: tuple[str, str], mends: str) -> None:
    _, checks = check("nginx", change, ("proxy_read_timeout  15m;", "proxy_read_timeout 2s;"), pause="3s")
    assert faults(checks) == {"no fallback", "time-outs"}
    assert any(mends in line for line in checks["no fallback"]["mend"])
    assert "proxy_read_timeout  15m;" in checks["time-outs"]["mend"]


@pytest.mark.soak
def test_phones_that_ask_two_services(check: Check) -> None:
    _, checks = check("nginx", ("[/\\x5c]sync([/\\x5c?#]|$)", "[/\\x5c]sync[/](stream|probe)"))
    assert faults(checks) == {"sync routes"}
    assert "GET /api/sync/ack" in checks["sync routes"]["says"]


@pytest.mark.soak
def test_a_proxy_that_sends_all_to_the_ledger(check: Check) -> None:
    _, checks = check("nginx", ("proxy_pass http://immich;", "proxy_pass http://ledger;"))
    assert faults(checks) == {"Immich's routes", "inner routes", "socket"}


def test_faults_of_other_proxies(check: Check) -> None:
    _, checks = check(
        "caddy",
        ("\thandle @ledger {", "\thandle_errors {\n\t\treverse_proxy {$PROXY_IMMICH}\n\t}\n\thandle @ledger {"),
        ("(api[/\\\\]sync|ledger|console)", "(api[/\\\\]sync|ledger|console|readyz)"),
    )
    assert faults(checks) == {"no fallback", "inner routes"}
    assert any("handle_errors" in line for line in checks["no fallback"]["mend"])


@pytest.mark.soak
def test_faults_of_a_proxy_that_does_not_say_what_it_is(check: Check) -> None:
    _, checks = check("traefik", ("(ledger|console)", "(ledger|console|metrics)"))
    assert faults(checks) == {"inner routes"}
    assert {f"# {kind}" for kind in KINDS} <= set(checks["inner routes"]["mend"]), "Traefik does not say what it is"


def test_what_cannot_be_asked_is_said_and_stops_nothing_else(
    check: Check, commands: Commands, immich: PhotoBackend
) -> None:
    _, checks = check("nginx", (NGINX_SYNC, "        proxy_pass http://immich;\n    }"))
    assert faults(checks) == {"sync routes"}
    for name in ("no fallback", "stream", "slow phones", "client", "time-outs"):
        assert (checks[name]["status"], "sync routes first" in checks[name]["says"]) == ("skip", True)
    _, checks = check("nginx", api_key="slk_of-somebody-else")
    assert faults(checks) == set()
    assert "does not open the probe" in checks["stream"]["says"]
    _, checks = check("nginx", identity="nobody")
    assert "LEDGER_IDENTITY" in checks["settings"]["says"]
    assert checks["Immich's routes"]["status"] == "ok"
    assert "LEDGER_API_KEY" in checks["stream"]["says"]
    nowhere = commands.run("immich", "check", "--url", f"http://127.0.0.1:{free_port()}")
    assert (nowhere.code, "FAIL  address" in nowhere.out, "skip  stream" in nowhere.out) == (1, True, True)
    immich.answers["/api/server/ping"] = (308, b"")
    _, checks = check("nginx")
    assert "address" in faults(checks)
    for wrong in (
        ("--url", "photos.example.org"),
        ("--url", "https://x/photos"),
        ("--url", "https://x", "--pause", "1h"),
    ):
        refused = commands.run("immich", "check", *wrong)
        assert (refused.code, refused.out) == (2, "")


def test_the_database_is_checked_with_the_rest(
    check: Check, commands: Commands, ledger: Live, postgres: PostgresServer, postgres_url: str
) -> None:
    settings = {"identity": "immich", "postgres": postgres_url, "trusted_proxies": "127.0.0.1"}
    with ImmichDatabase(postgres_url) as database:
        database.build("3.3").user("ann")
        database.settle()
    code, checks = check("nginx", **settings)
    assert (code, faults(checks)) == (0, set()), checks
    assert checks["version"]["says"] == "Immich announces 3.3.0, as its database has it"
    name = postgres_url.rpartition("/")[2]
    postgres.psql("CREATE ROLE lacking LOGIN PASSWORD 'only-for-tests'; GRANT pg_read_all_stats TO lacking", name)
    try:
        lacking = settings | {"postgres": postgres.url_of(name, user="lacking")}
        shown = commands.run("immich", "check", "--url", f"http://127.0.0.1:{free_port()}", **lacking)
        assert (shown.code, "FAIL  database: session.token: our role may not read it" in shown.out) == (1, True), (
            shown.out
        )
        assert "\n          GRANT SELECT (" in shown.out
    finally:
        postgres.psql("DROP OWNED BY lacking; DROP ROLE lacking", name)


@pytest.mark.soak
def test_what_a_killed_run_left_goes_with_the_next(check: Check, commands: Commands, ledger: Live) -> None:
    made = ledger.service.api_keys.create
    now_us = commands.inside(lambda found: _now(found.ledger.clock()))
    old, _ = ledger.run(made(["proxy.check"], name=KEY_NAME, now_us=now_us - LEFT_US - 1))
    young, _ = ledger.run(made(["proxy.check"], name=KEY_NAME, now_us=now_us))
    check("nginx")
    assert ledger.run(ledger.service.api_keys.find(old)) is None
    assert ledger.run(ledger.service.api_keys.find(young)) is not None


async def _now(now_us: int) -> int:
    return now_us


def test_the_lines_are_those_of_the_files_that_are_shipped() -> None:
    files = {"nginx": "nginx.conf.template", "caddy": "Caddyfile", "traefik": "traefik-routes.yml"}
    tables = [table for table in vars(mending).values() if isinstance(table, dict) and set(table) == set(KINDS)]
    assert len(tables) >= 7
    for table in tables:
        for kind, lines in table.items():
            shipped = (FILES / files[kind]).read_text()
            for line in lines:
                assert line.startswith("#") or line.strip() in shipped, f"{kind}: {line}"
