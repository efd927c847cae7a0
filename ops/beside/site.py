"""An installation as its users reach it: one address, behind which two services answer."""

from __future__ import annotations

import socket
import ssl
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx
import msgspec

from endpoints.http.request import OWN, OWN_HEADER
from endpoints.sync.probe import PATH
from ops.beside.mending import Lines, kind_of, told

ANSWER_S: Final = 15.0
MOST_BYTES: Final = 64 << 10
_BUFFER_BYTES: Final = 64 << 10
"""So that the kernel holds little for who reads slowly."""


class Answer(NamedTuple):
    """The beginning of an answer. `ours`: this service made it, not Immich or the proxy."""

    status: int
    headers: httpx.Headers
    body: bytes
    ours: bool

    @property
    def told(self) -> str:
        """Tell who answered, and how."""
        return f"{self.status} by {'the ledger' if self.ours else 'the proxy or Immich'}"

    def json(self) -> Any:
        """Read the body; None if it is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


class Site:
    """Asks the address. All that asks raises httpx.HTTPError where nothing answers. Use as a context manager."""

    def __init__(self, url: str, key: str, why_no_key: str, pause_s: float) -> None:
        """`key` opens the probe; '' where there is none, for the reason `why_no_key`."""
        self.url = url
        self.key = key
        self.why_no_key = why_no_key
        self.pause_s = pause_s
        self.kind = ""
        """Which proxy answers, as far as it says."""
        self.client = httpx.AsyncClient(
            base_url=url,
            transport=httpx.AsyncHTTPTransport(
                verify=ssl.create_default_context(),
                trust_env=False,
                socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)],
            ),
            timeout=httpx.Timeout(ANSWER_S, read=ANSWER_S + pause_s),
            headers={"user-agent": "syncledger-check"},
        )

    async def ask(self, method: str, target: str, json: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Ask for a target, which is sent as it stands here."""
        extensions = {"target": target.encode("ascii")}
        async with self.client.stream(method, "/", json=json, headers=headers, extensions=extensions) as response:
            body = b""
            async for piece in response.aiter_raw():
                body += piece
                if len(body) >= MOST_BYTES:
                    break
            self.kind = self.kind or kind_of(response.headers.get("server", ""), response.headers.get("via", ""))
            return Answer(response.status_code, response.headers, body[:MOST_BYTES], is_ours(response))

    async def probe(self, answer: str) -> Answer:
        """Have the service answer the probe so."""
        return await self.ask("GET", f"{PATH}?answer={answer}", headers={"x-api-key": self.key})

    def mend(self, lines: Lines) -> tuple[str, ...]:
        """Write out the lines for the proxy that answers here."""
        return told(lines, self.kind)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.client.aclose()


def is_ours(response: httpx.Response) -> bool:
    """Tell whether this service made an answer."""
    return bool(response.headers.get(OWN_HEADER) == OWN)
