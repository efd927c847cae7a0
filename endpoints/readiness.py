"""How a service and what it depends on are, as `/readyz` and the console tell it. It needs nothing of the server."""

from __future__ import annotations

from typing import Literal

import msgspec

from projections.entities.protocol_version import DEFAULT


class IdentityReadiness(msgspec.Struct, frozen=True):
    """How who tells who somebody is, where that is another service. While one that admits tokens is down, what must be
    asked of it is 503.

    While an OpenID Connect provider is down nobody signs in, and sessions go on. `text` also says what signing in
    cannot do because of what the provider says of itself, and for how many users its claim names another one.
    """

    kind: Literal["immich", "jwt", "oidc"]
    ok: bool
    text: str


class SourceReadiness(msgspec.Struct, frozen=True):
    """How the source of the entities is; one that is down stops streams, but neither sessions nor acks."""

    kind: Literal["catalog", "postgres", "gumnut"]
    ok: bool
    text: str


class ProtocolReadiness(msgspec.Struct, frozen=True, rename="camel"):
    """Which version is announced and why that one, and what apps asked for of late that this version does not know."""

    version: str
    text: str
    unknown_types: list[str] = []


class ProofReadiness(msgspec.Struct, frozen=True, rename="camel"):
    """How the transparency log is: its origin and entries, and in words how far it is behind or what it met.

    `unlogged_events`: how many events were last found not to be in it yet, up to 10,000; `behind_s`: how old the oldest
    of them was, in s.
    """

    ok: bool
    text: str
    origin: str = ""
    entries: int = 0
    unlogged_events: int = 0
    behind_s: float = 0.0


class Readiness(msgspec.Struct, frozen=True):
    """What an operator must know: where the store is, what an answered write is worth there, and how the source is.

    `archive`: what keeps older events from being read, nothing if all can be. `identity` tells how who admits tokens
    or signs users in is, where that is not this service itself.
    """

    store: str
    durability: str
    embedded: bool
    source: SourceReadiness
    archive: str = ""
    clock: str = ""
    """Which clock is wrong, by how much; empty while this machine's and the store's agree."""
    eviction: str = ""
    """That the store may evict keys, and so lose sessions and events; empty as it must be."""
    protocol: ProtocolReadiness = ProtocolReadiness(str(DEFAULT), "by default")
    proof: ProofReadiness | msgspec.UnsetType = msgspec.UNSET
    identity: IdentityReadiness | msgspec.UnsetType = msgspec.UNSET
