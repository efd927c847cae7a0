"""Every route of the service, in one place, and the Falcon app made of them."""

from __future__ import annotations

from collections.abc import Iterator

import falcon.asgi

from endpoints import entities, health, metrics, server_info, well_known
from endpoints.accounts import auth_status, oauth, sessions, tokens, users
from endpoints.audit import explain, history, log, state
from endpoints.http import errors, openapi
from endpoints.http.operations import Route
from endpoints.http.refusals import Refusals
from endpoints.http.request import Correlation, Request
from endpoints.services import Services
from endpoints.sync import acks, stream

App = falcon.asgi.App[Request, falcon.asgi.Response]
_SUBJECTS = (
    well_known,
    health,
    metrics,
    server_info,
    oauth,
    auth_status,
    tokens,
    users,
    sessions,
    acks,
    stream,
    history,
    state,
    explain,
    log,
    entities,
)


def routes(services: Services) -> Iterator[Route]:
    """List all routes."""
    described = [route for subject in _SUBJECTS for route in subject.routes(services)]
    yield from described
    yield from openapi.routes(described)


def build(services: Services) -> App:
    """Build the ASGI app."""
    app: App = falcon.asgi.App(request_type=Request, middleware=[Correlation()])
    refusals = Refusals(services)
    errors.install(app, refusals.judged)
    for route in routes(services):
        add(app, route)
    return app


def add(app: App, route: Route) -> None:
    """Add a route; where it answers GET it answers HEAD too, which Falcon leaves to the resource."""
    ending = f"_{route.suffix}" if route.suffix else ""
    get = getattr(route.resource, f"on_get{ending}", None)
    if get is not None:
        setattr(route.resource, f"on_head{ending}", get)
    app.add_route(route.path, route.resource, suffix=route.suffix)
