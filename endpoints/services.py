"""What the endpoints are given to work with. `ops` builds it; nothing here is made at import."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from endpoints.auth import Auth
from ledger.service import Ledger
from ledger.tokens import TokenIssuer
from projections.entities.source import EntitySource


class HttpSettings(msgspec.Struct, frozen=True):
    """The settings that clients see."""

    external_domain: str = ""
    login_page_message: str = ""
    oauth: bool = False
    oauth_auto_launch: bool = False
    oauth_button_text: str = "Login with OAuth"


class Readiness(msgspec.Struct, frozen=True):
    """What an operator must know of the store: where it is, and what an answered write is worth there."""

    store: str
    durability: str
    embedded: bool


class Services(msgspec.Struct, frozen=True):
    """All that resources use.

    `row` reads the newest payload of one entity of a library, `readiness` asks the store how it is; both raise
    StoreUnavailable. `stall_s` is for how long a stream's reader may take nothing.
    """

    ledger: Ledger
    auth: Auth
    tokens: TokenIssuer
    source: EntitySource
    row: Callable[[str, str, str], Awaitable[dict[str, Any] | None]]
    readiness: Callable[[], Awaitable[Readiness]]
    settings: HttpSettings = HttpSettings()
    stall_s: float = 600.0
