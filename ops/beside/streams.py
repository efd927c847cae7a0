"""What becomes of a stream on its way through the proxy, and what the service is told of who asks."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import httpx
import msgspec

from endpoints.sync.probe import BULK_BYTES, BULK_LINES, PATH, BulkLine
from ops.beside.checked import Checked
from ops.beside.mending import CLIENT, PATIENT, UNBUFFERED
from ops.beside.site import Site, is_ours
from ops.settings.durations import format_duration

JUDGED_S: Final = 1.5
"""The pause that tells whether lines are buffered."""
UNREAD_S: Final = 2.0
"""How long a phone reads nothing."""
USUAL_S: Final = 60.0
"""After which proxies give up by themselves."""
_AND_STALLS: Final = "; how long a phone may take nothing is LEDGER_STALL's matter, and the proxy must wait longer"
LIE: Final = "203.0.113.9"
"""An address that nobody has (RFC 5737)."""


async def stream(site: Site) -> Checked:
    """Check that a line arrives while the next one is not made yet."""
    headers = {"x-api-key": site.key, "accept-encoding": "gzip"}
    async with site.client.stream("GET", f"{PATH}?pauseS={JUDGED_S}", headers=headers) as response:
        if response.status_code != 200 or not is_ours(response):
            return Checked("stream", "FAIL", f"the probe is answered {response.status_code}: see the routes above")
        packed = response.headers.get("content-encoding", "")
        arrived = [time.monotonic() async for _ in response.aiter_raw()]
    gap_s = arrived[-1] - arrived[0]
    if gap_s < JUDGED_S / 2:
        says = (
            f"a line and one made {JUDGED_S:g} s later arrive within {gap_s:.2f} s: the proxy buffers what it is sent"
        )
        return Checked("stream", "FAIL", says, site.mend(UNBUFFERED))
    if packed:
        says = f"the proxy compresses ({packed}) what the ledger did not: it may hold lines back"
        return Checked("stream", "warn", says, site.mend(UNBUFFERED))
    return Checked("stream", "ok", f"lines arrive as they are made ({gap_s:.1f} s apart)")


async def backpressure(site: Site) -> Checked:
    """Check that a slow phone slows the ledger down, and nothing in between takes a stream in its place."""
    headers = {"x-api-key": site.key, "accept-encoding": "gzip"}
    rest, sent_s, lines = b"", 0.0, 0
    async with site.client.stream("GET", f"{PATH}?answer=bulk", headers=headers) as response:
        await asyncio.sleep(UNREAD_S)
        async for piece in response.aiter_bytes():
            *whole, rest = (rest + piece).split(b"\n") if b"\n" in piece else (rest + piece,)
            lines += len(whole)
            for line in whole:
                sent_s = msgspec.json.decode(line, type=BulkLine).sent_s
    if lines != BULK_LINES:
        return Checked("slow phones", "FAIL", f"a large stream ended cleanly after {lines} of {BULK_LINES} lines")
    size = f"{BULK_LINES * BULK_BYTES >> 20} MiB"
    if sent_s < UNREAD_S / 2:
        says = (
            f"the proxy took {size} within {sent_s:.1f} s for a phone that read nothing: it fills its disk, and the "
            "ledger does not see who is slow or gone"
        )
        return Checked("slow phones", "FAIL", says, site.mend(UNBUFFERED))
    return Checked("slow phones", "ok", f"{size} wait in the ledger until they are read")


async def timeouts(site: Site) -> Checked:
    """Check that a pause as long as was asked for is let through."""
    if site.pause_s == 0:
        says = f"not measured, for that takes time: --pause 90s does. The app pauses for up to 8 minutes{_AND_STALLS}"
        return Checked("time-outs", "skip", says)
    began = time.monotonic()
    body = b""
    try:
        headers = {"x-api-key": site.key}
        async with site.client.stream("GET", f"{PATH}?pauseS={site.pause_s}", headers=headers) as response:
            async for piece in response.aiter_raw():
                body += piece
    except httpx.HTTPError as error:
        after_s = time.monotonic() - began
        says = f"a stream that paused was cut off after {after_s:.0f} s ({type(error).__name__})"
        return Checked("time-outs", "FAIL", says, site.mend(PATIENT))
    if body.count(b"\n") != 2:
        says = f"a stream that paused ended after {time.monotonic() - began:.0f} s as if it were whole"
        return Checked("time-outs", "FAIL", says, site.mend(PATIENT))
    more = "" if site.pause_s > USUAL_S else f"; usual time-outs are {format_duration(USUAL_S)}, so try a longer one"
    return Checked("time-outs", "ok", f"a pause of {format_duration(site.pause_s)} is let through{more}")


async def client(site: Site) -> Checked:
    """Check that the service takes the proxy's word on who asks, and that the proxy gives its own."""
    lies = {"x-forwarded-for": LIE, "x-real-ip": LIE, "x-forwarded-proto": "gopher"}
    answer = await site.ask("GET", PATH, headers={"x-api-key": site.key, **lies})
    first = msgspec.json.decode(answer.body.partition(b"\n")[0]) if answer.status == 200 and answer.ours else None
    if not isinstance(first, dict):
        return Checked("client", "FAIL", f"the probe is answered {answer.told}: see the routes above")
    seen, scheme = str(first.get("client")), str(first.get("scheme"))
    if seen == LIE or scheme == "gopher":
        says = "the proxy hands on what clients say of themselves, so one can pass for many and get around limits"
        return Checked("client", "FAIL", says, site.mend(CLIENT))
    wanted = site.url.partition(":")[0]
    if scheme != wanted:
        says = (
            f"the ledger takes this to be {scheme}, and it is {wanted}: is LEDGER_TRUSTED_PROXIES the proxy's address?"
        )
        return Checked(
            "client", "FAIL", says, ("LEDGER_TRUSTED_PROXIES=…  # as the ledger sees it", *site.mend(CLIENT))
        )
    return Checked("client", "ok", f"the ledger is told who asks: {seen}, over {scheme}")
