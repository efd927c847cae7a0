"""One line in the log for each request that was answered, where that is wanted."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Final

import falcon.asgi

from endpoints.figures.of_http import OTHER
from endpoints.http.request import Request
from ledger.session_ids import short_id

log = logging.getLogger(__name__)

_REFUSED: Final = 400


class RequestLog:
    """Falcon middleware. The path is never told, only the route's template: a path may hold anything."""

    async def process_response(self, req: Request, resp: falcon.asgi.Response, resource: object, ok: bool) -> None:
        """Write the line when the answer is about to begin; how a stream goes on is told by the one of its end.

        A token that was refused, or that nobody came to look up, only claims whose it is.
        """
        status = int(str(resp.status)[:3])
        fields: dict[str, object] = {
            "method": req.method,
            "route": req.uri_template or OTHER,
            "status": status,
            "seconds": round(perf_counter() - req.began_s, 6),
            "correlation_id": req.correlation_id,
        }
        caller = getattr(req, "caller", None)
        if caller is not None:
            known = "" if status < _REFUSED else "claimed_"
            fields[f"{known}session"], fields[f"{known}user"] = short_id(caller.sid), caller.user
        log.info("request", extra=fields)
