"""Which of the two services answers for a path, and none in the other's place."""

from __future__ import annotations

from typing import Final

import httpx

from ops.beside.checked import Checked
from ops.beside.mending import ALL_ELSE, NO_FALLBACK, OURS, SOCKET, SYNC
from ops.beside.site import Site, is_ours

SYNC_ASKED: Final = (("POST", "/api/sync/stream"), ("GET", "/api/sync/ack"), ("DELETE", "/api/sync/ack"))
SPELLINGS: Final = ("/API/sync/ack", "//api/sync/ack", "/api//sync/ack", "/api%2fsync/ack")
"""Of a path that Immich takes for its own: it may be refused, but it must not be answered by Immich."""
INNER: Final = ("/metrics", "/readyz")
INNER_TRICKS: Final = tuple(
    f"{before}{name}"
    for name in ("metrics", "readyz")
    for before in ("//", "/ledger/../", "/ledger/..%2f", "/api/sync/../../")
)
IMMICHS: Final = ("/api/server/ping", "/api/assets/statistics", "/api/users/me", "/api/auth/status", "/")
_SOCKET: Final = "/api/socket.io/?EIO=4&transport=websocket"
_ACK_REFUSED: Final = (400, 404, 405, 421)


async def address(site: Site) -> Checked:
    """Check that anything answers, over TLS."""
    answer = await site.ask("GET", "/api/server/ping")
    if answer.status in (301, 302, 303, 307, 308):
        where = answer.headers.get("location", "nowhere")[:200]
        return Checked("address", "FAIL", f"leads on to {where}: phones post to it, so check the address it leads to")
    name = {"": "a proxy that does not say what it is"}.get(site.kind, site.kind)
    if not site.url.startswith("https://") and not site.url.startswith(
        ("http://127.", "http://localhost", "http://[::1]")
    ):
        return Checked("address", "warn", f"{name} answers without TLS: tokens can be read on their way")
    return Checked("address", "ok", f"{name} answers ({answer.status})")


async def sync_routes(site: Site) -> Checked:
    """Check that all of /api/sync is the ledger's."""
    elsewhere = []
    for method, path in SYNC_ASKED:
        answer = await site.ask(method, path, {"types": []} if method == "POST" else None)
        if not answer.ours:
            elsewhere.append(f"{method} {path} ({answer.status})")
    if elsewhere:
        says = f"not answered by the ledger, so phones sync elsewhere: {', '.join(elsewhere)}"
        return Checked("sync routes", "FAIL", says, site.mend(SYNC))
    spelt = [
        path for path in SPELLINGS if not (found := await site.ask("GET", path)).ours and found.status in (401, 403)
    ]
    if spelt:
        says = f"Immich answers for {', '.join(spelt)}, and takes it for /api/sync/ack"
        return Checked("sync routes", "FAIL", says, site.mend(SYNC))
    return Checked("sync routes", "ok", "all of /api/sync is the ledger's, however it is spelt")


async def own_routes(site: Site) -> Checked:
    """Check that /ledger and /console are the ledger's."""
    answer = await site.ask("GET", "/ledger/whoami")
    if not answer.ours:
        says = f"/ledger/whoami is not answered by the ledger ({answer.status})"
        return Checked("ledger routes", "FAIL", says, site.mend(OURS))
    if answer.status != 401:
        return Checked("ledger routes", "warn", f"/ledger/whoami without a token is {answer.told}, not 401")
    answer = await site.ask("GET", "/console")
    if not answer.ours:
        return Checked(
            "ledger routes", "warn", f"/console is not answered by the ledger ({answer.status})", site.mend(OURS)
        )
    return Checked("ledger routes", "ok", "/ledger and /console are the ledger's")


async def immich_routes(site: Site) -> Checked:
    """Check that all else is Immich's."""
    taken = [path for path in IMMICHS if (await site.ask("GET", path)).ours]
    if taken:
        says = f"answered by the ledger, and not by Immich: {', '.join(taken)}"
        return Checked("Immich's routes", "FAIL", says, site.mend(ALL_ELSE))
    answer = await site.ask("GET", "/api/server/ping")
    if answer.status != 200 or answer.json() != {"res": "pong"}:
        says = f"/api/server/ping is answered {answer.status} and not as Immich does: is it up?"
        return Checked("Immich's routes", "FAIL", says, site.mend(ALL_ELSE))
    return Checked("Immich's routes", "ok", "all else is Immich's, which answers")


async def inner_routes(site: Site) -> Checked:
    """Check that what the ledger has for the inner network is not to be had from outside."""
    open_ = []
    for path in (*INNER, *INNER_TRICKS):
        answer = await site.ask("GET", path)
        if answer.ours and answer.status not in _ACK_REFUSED:
            open_.append(f"{path} ({answer.status})")
    if open_:
        says = f"to be had from outside, and for the inner network only: {', '.join(open_)}"
        return Checked("inner routes", "FAIL", says, site.mend(ALL_ELSE))
    return Checked("inner routes", "ok", "/metrics and /readyz of the ledger are not to be had from outside")


async def no_fallback(site: Site) -> Checked:
    """Check that nobody answers in the ledger's place when it does not, or says that it cannot."""
    answer = await site.probe("unavailable")
    if not answer.ours:
        says = (
            f"in place of the ledger's 503 comes somebody else's {answer.status}: phones would sync there and miss rows"
        )
        return Checked("no fallback", "FAIL", says, site.mend(NO_FALLBACK))
    if answer.status != 503:
        return Checked("no fallback", "FAIL", f"the probe is refused: {answer.status} {answer.body[:200]!r}")
    try:
        answer = await site.probe("nothing")
    except httpx.RemoteProtocolError:
        return Checked("no fallback", "ok", "while the ledger does not answer, connections break")
    if answer.status not in (502, 503, 504):
        says = f"where the ledger does not answer, {answer.told} comes instead: phones would sync there and miss rows"
        return Checked("no fallback", "FAIL", says, site.mend(NO_FALLBACK))
    return Checked("no fallback", "ok", f"while the ledger does not answer, the proxy says {answer.status}")


async def socket(site: Site) -> Checked:
    """Check that Immich's web socket, by which phones are woken, reaches Immich."""
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-key": "c3luY2xlZGdlciBjaGVja3M=",
        "sec-websocket-version": "13",
    }
    extensions = {"target": _SOCKET.encode()}
    async with site.client.stream("GET", "/", headers=headers, extensions=extensions) as response:
        status, ours = response.status_code, is_ours(response)
    if ours:
        return Checked(
            "socket", "FAIL", "/api/socket.io is answered by the ledger, which has none", site.mend(ALL_ELSE)
        )
    if status != 101:
        says = f"/api/socket.io does not become a web socket ({status}): phones are not told of what is new"
        return Checked("socket", "FAIL", says, site.mend(SOCKET))
    return Checked("socket", "ok", "/api/socket.io is Immich's, and becomes a web socket")
