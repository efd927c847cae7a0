"""Every route of the service, in one place, and the Falcon app made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import falcon.asgi

from endpoints import entities, health, metrics, server_info, well_known
from endpoints.accounts import auth_status, oauth, sessions, tokens, users
from endpoints.audit import counts, devices, explain, feed, finding, history, log, state, streams
from endpoints.console import pages as console_pages
from endpoints.console import routes as console
from endpoints.figures.of_http import HttpFigures
from endpoints.http import errors
from endpoints.http.operations import Route
from endpoints.http.quick import QuickWays
from endpoints.http.refusals import Refusals
from endpoints.http.request import Correlation, Request
from endpoints.http.routing import Router
from endpoints.openapi import pages
from endpoints.services import Services
from endpoints.sync import acks, probe, stream
from endpoints.sync.quick_acks import QuickAcks
from ledger.errors import Unavailable


class App(falcon.asgi.App[Request, falcon.asgi.Response]):
    """Falcon's app, which is the plain way of all requests, and the quick ways of some."""

    quick: QuickWays = {}  # noqa: RUF012 - nothing changes it


Middleware = Any
"""Something with `process_response`, as Falcon calls it."""
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
    probe,
    history,
    state,
    explain,
    streams,
    feed,
    finding,
    devices,
    counts,
    log,
    entities,
    console,
)


def routes(services: Services) -> Iterator[Route]:
    """List all routes."""
    described = [route for subject in _SUBJECTS for route in subject.routes(services)]
    yield from described
    yield from pages.routes(described)


def operations_of(every: Iterable[Route]) -> Iterator[tuple[str, str]]:
    """List the method and the path of all that routes answer, HEAD where they answer GET."""
    for route in every:
        for operation in route.operations:
            yield operation.method, route.path
            if operation.method == "GET":
                yield "HEAD", route.path


def build(services: Services, watching: Sequence[Middleware] = ()) -> App:
    """Build the ASGI app; `watching` is middleware that sees each answer before it begins."""
    every = list(routes(services))
    figures = HttpFigures(list(operations_of(every)))
    services.figures.take(figures)
    app = App(request_type=Request, middleware=[Correlation(figures), *watching], router=Router())
    if not watching:
        app.quick = {b"POST %b" % path.encode(): QuickAcks(path, services, figures) for path in acks.PATHS}
    refusals = Refusals(services)
    errors.install(app, refusals.judged, console_pages.shown)
    for route in every:
        add(app, route)
    return app


def build_waiting(trouble: Callable[[], Unavailable], watching: Sequence[Middleware] = ()) -> App:
    """Build the app of a worker whose store is not there yet: alive, and 503 for all else; readiness tells why."""
    app = App(request_type=Request, middleware=[Correlation(HttpFigures(())), *watching])
    errors.install(app, shown=console_pages.shown)

    async def not_yet(req: Request, resp: falcon.asgi.Response | None, **_: Any) -> None:
        raise errors.NotReady(str(trouble())) if req.path == health.READY else trouble()

    for route in (*health.alive_routes(), *console.files()):
        add(app, route)
    app.add_sink(not_yet, "/")
    return app


def add(app: App, route: Route) -> None:
    """Add a route; where it answers GET it answers HEAD too, which Falcon leaves to the resource."""
    ending = f"_{route.suffix}" if route.suffix else ""
    get = getattr(route.resource, f"on_get{ending}", None)
    if get is not None:
        setattr(route.resource, f"on_head{ending}", get)
    app.add_route(route.path, route.resource, suffix=route.suffix)
