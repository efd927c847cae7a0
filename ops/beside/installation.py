"""The checks of an installation beside Immich, each by itself: what one of them meets stops none of the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import httpx

from endpoints.sync.probe import PATH, SCOPE
from ledger.errors import InvalidInput, LedgerError
from ops.beside import routes, streams
from ops.beside.checked import Checked, Found
from ops.beside.site import Site
from ops.embedded.files import check_begun
from ops.opening.ledger import opened
from ops.settings.settings import Settings
from ops.settings.variables import Variable, from_environment
from projections.entities.source_check import CheckReport

KEY: Final = Variable("LEDGER_API_KEY", str, secret=True)
KEY_NAME: Final = "immich check"
"""Of the key that is made for one run; what a killed run left is taken away by the next one an hour later."""
LEFT_US: Final = 3_600_000_000
_STATUS: Final[Mapping[str, Any]] = {"problem": "FAIL", "warning": "warn", "note": "ok"}

_TROUBLE: Final = (LedgerError, OSError, ValueError, TypeError, LookupError, AssertionError)
"""What an answer that nobody thought of may become: the check's own finding, so that the others go on."""

Check = Callable[[Site], Awaitable[Checked]]
BY_ADDRESS: Final[tuple[tuple[str, Check], ...]] = (
    ("sync routes", routes.sync_routes),
    ("ledger routes", routes.own_routes),
    ("Immich's routes", routes.immich_routes),
    ("inner routes", routes.inner_routes),
    ("socket", routes.socket),
)
BY_PROBE: Final[tuple[tuple[str, Check], ...]] = (
    ("stream", streams.stream),
    ("slow phones", streams.backpressure),
    ("client", streams.client),
    ("time-outs", streams.timeouts),
    ("no fallback", routes.no_fallback),  # last: a proxy that falls back goes on to do so for a while
)


async def check_installation(
    url: str,
    read: Callable[[], Settings],
    environ: Mapping[str, str],
    look: Callable[[Settings], Awaitable[CheckReport]],
    *,
    pause_s: float = 0.0,
    advance: Callable[[int, str], None] = lambda done, note: None,
) -> Found:
    """Check all there is to check. `read` reads the settings, `look` checks the source that they name.

    Raises nothing that is about the installation.
    """
    checks: list[Checked] = []
    settings = await _settings(read, checks)
    report: CheckReport | None = None
    if settings is not None:
        advance(1, "database")
        report = await _database(settings, look, checks)
    async with _key(settings, environ) as (key, why), Site(url, key, why, pause_s) as site:
        advance(2, "address")
        first = await _made("address", routes.address, site)
        checks.append(first)
        reached = first.status != "FAIL"
        opens = await _opens(site) if reached and key else why
        for number, (name, check) in enumerate((*BY_ADDRESS, *BY_PROBE), 3):
            advance(number, name)
            if not reached:
                checks.append(Checked(name, "skip", "the address does not answer"))
            elif opens and (name, check) in BY_PROBE:
                checks.append(Checked(name, "skip", opens))
            else:
                checks.append(await _made(name, check, site))
        if reached:
            checks.append(await _made("version", lambda site: _version(site, settings, report), site))
    return Found(url, checks)


async def _made(name: str, check: Check, site: Site) -> Checked:
    """Make one check; whatever it meets is what it found."""
    try:
        return await check(site)
    except httpx.HTTPError as error:
        return Checked(name, "FAIL", f"{site.url} does not answer: {type(error).__name__} {error}".rstrip())
    except _TROUBLE as error:
        return Checked(name, "FAIL", f"could not be checked: {type(error).__name__}: {error}")


async def _opens(site: Site) -> str:
    """Tell what keeps the probe from being answered; '' if nothing does."""
    try:
        answer = await site.probe("lines")
    except httpx.HTTPError as error:
        return f"the probe ({PATH}) is not answered: {type(error).__name__} {error}".rstrip()
    if not answer.ours:
        return f"the probe ({PATH}) is answered {answer.status}, and not by the ledger: mend the sync routes first"
    if answer.status in (401, 403):
        return f"the key of LEDGER_API_KEY does not open the probe; {_HOW}"
    return (
        ""
        if answer.status == 200
        else f"the ledger answers the probe {answer.status}: {answer.body[:200].decode(errors='replace')}"
    )


async def _settings(read: Callable[[], Settings], checks: list[Checked]) -> Settings | None:
    try:
        settings = read()
    except InvalidInput as error:
        checks.append(Checked("settings", "FAIL", error.told))
        return None
    if settings.identity != "immich":
        says = f"LEDGER_IDENTITY is {settings.identity}, so no token of Immich's admits here"
        checks.append(Checked("settings", "FAIL", says, ("LEDGER_IDENTITY=immich",)))
    elif not settings.trusted_proxies:
        says = "LEDGER_TRUSTED_PROXIES is not set: all phones count as one client, whose mistakes shut all out"
        checks.append(
            Checked("settings", "warn", says, ("LEDGER_TRUSTED_PROXIES=…  # the proxy, as the ledger sees it",))
        )
    else:
        checks.append(Checked("settings", "ok", "LEDGER_IDENTITY is immich, and the proxy is trusted"))
    return settings


async def _database(
    settings: Settings, look: Callable[[Settings], Awaitable[CheckReport]], checks: list[Checked]
) -> CheckReport | None:
    """Check Immich's database as `source check` does."""
    try:
        report = await look(settings)
    except (LedgerError, OSError) as error:
        checks.append(Checked("database", "FAIL", error.told if isinstance(error, LedgerError) else str(error)))
        return None
    except _TROUBLE as error:
        checks.append(Checked("database", "FAIL", f"could not be checked: {type(error).__name__}: {error}"))
        return None
    if report.ok:
        checks.append(Checked("database", "ok", "; ".join(f"{name} {text}" for name, text in report.facts.items())))
    for problem in report.problems:
        status = _STATUS[problem.weight]
        checks.append(Checked("database", status, problem.told, tuple(problem.index.splitlines())))
    return report


async def _version(site: Site, settings: Settings | None, report: CheckReport | None) -> Checked:
    """Check that phones are told one version by Immich and served that one's types here."""
    told = (await site.ask("GET", "/api/server/version")).json()
    parts = [told.get(part) for part in ("major", "minor", "patch")] if isinstance(told, dict) else []
    if not parts or not all(isinstance(part, int) for part in parts):
        return Checked("version", "FAIL", "/api/server/version does not tell Immich's version")
    announced = ".".join(map(str, parts))
    if settings is not None and settings.protocol_version is not None and str(settings.protocol_version) != announced:
        says = f"Immich announces {announced}, and LEDGER_PROTOCOL_VERSION={settings.protocol_version}: leave that out"
        return Checked("version", "FAIL", says)
    backend = report.facts.get("backend") if report is not None else None
    if backend is None:
        return Checked("version", "warn", f"Immich announces {announced}; what its database says is not known")
    if backend.removeprefix("v") != announced:
        says = f"Immich announces {announced}, and the database is of {backend}: is LEDGER_POSTGRES another one's?"
        return Checked("version", "FAIL", says)
    return Checked("version", "ok", f"Immich announces {announced}, as its database has it")


@asynccontextmanager
async def _key(settings: Settings | None, environ: Mapping[str, str]) -> AsyncIterator[tuple[str, str]]:
    """Give the key of the probe: the one that is given, or one for this run; else '' and why there is none."""
    async with AsyncExitStack() as closing:
        try:
            key = from_environment(KEY, environ)
            if key is None and settings is not None:
                key = await _made_key(settings, closing)
            why = "" if key else "the settings cannot be read"
        except (LedgerError, OSError, ValueError) as error:
            key, why = None, error.told if isinstance(error, LedgerError) else str(error)
        yield key or "", f"without a key the probe is not answered ({why}); {_HOW}" if why else ""


_HOW: Final = f"make one where the ledger is (syncledger key create --scope {SCOPE}), and set LEDGER_API_KEY to it"


async def _made_key(settings: Settings, closing: AsyncExitStack) -> str:
    """Make a key for this run on the ledger that the settings name; `closing` takes it away."""
    if settings.redis_url is None:
        check_begun(settings.data_dir)
    found = await closing.enter_async_context(opened(settings))
    now_us = found.ledger.clock()
    for left in _left(await found.api_keys.all(), now_us):
        await found.api_keys.revoke(left)
    key, made = await found.api_keys.create([SCOPE], name=KEY_NAME, now_us=now_us)
    closing.push_async_callback(found.api_keys.revoke, made.id)
    return key


def _left(known: Sequence[Any], now_us: int) -> list[str]:
    return [
        key.id
        for key in known
        if (key.name, key.scopes) == (KEY_NAME, (SCOPE,)) and key.created_at_us < now_us - LEFT_US
    ]
