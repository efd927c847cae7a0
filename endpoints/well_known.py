"""Where the API is, for an app that was given the bare address."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from endpoints.http.operations import NOBODY, Operation, Route
from endpoints.server_info import Fixed
from endpoints.services import Services


class ApiEndpoint(msgspec.Struct, frozen=True):
    """The path of the API on this host."""

    endpoint: str = "/api"


class WellKnownDto(msgspec.Struct, frozen=True):
    """The answer an app reads before it signs in."""

    api: ApiEndpoint = ApiEndpoint()


def routes(services: Services) -> Iterator[Route]:
    """List the one route, at the root as RFC 8615 has it."""
    operation = Operation("GET", "getWellKnown", "Tell where the API is", {200: WellKnownDto}, NOBODY)
    yield Route("/.well-known/immich", Fixed(WellKnownDto()), (operation,))
