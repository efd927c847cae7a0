"""A browser without a screen: keeps cookies, opens pages of the console, and sends the forms that are on them."""

from __future__ import annotations

import html
import re
from typing import Any, Final
from urllib.parse import urlencode

import falcon.testing

from tests.support.phones.http import Service

FORM: Final = "application/x-www-form-urlencoded"
_TOKEN: Final = re.compile(r'name="form" value="([0-9a-f]{64})"')


class Browser:
    """One browser at a service that runs in this process; over TLS where `scheme` says so."""

    def __init__(self, service: Service, scheme: str = "http") -> None:
        self._service = service
        self._scheme = scheme
        self.cookies: dict[str, str] = {}
        self.told: dict[str, falcon.testing.Cookie] = {}
        """Each cookie as it was set last."""

    async def open(self, path: str, **headers: str) -> falcon.testing.Result:
        """Ask for a page."""
        return await self._ask("GET", path, headers)

    async def follow(self, answer: falcon.testing.Result) -> falcon.testing.Result:
        """Go where an answer leads."""
        assert answer.status_code == 303, answer.text
        return await self.open(answer.headers["location"])

    async def send(
        self, path: str, fields: dict[str, Any] | None = None, *, page: str | None = None, **headers: str
    ) -> falcon.testing.Result:
        """Send the form on `page` (that at `path` without one) with its token, and `fields` in it."""
        token = form_token((await self.open(page or path)).text)
        return await self.post(path, {"form": token} | (fields or {}), **headers)

    async def post(self, path: str, fields: dict[str, Any], **headers: str) -> falcon.testing.Result:
        """Send fields as they are."""
        body = urlencode(fields, doseq=True)
        return await self._ask("POST", path, {"content-type": FORM, **headers}, body=body)

    async def sign_in(self, *scopes: str) -> str:
        """Sign in with a new API key of these scopes, and return the key."""
        key, _ = await self._service.api_keys.create(scopes or ("audit.read",), name="on-call", now_us=1)
        answer = await self.send("/console/sign-in", {"key": key, "next": "/console"})
        assert answer.status_code == 303, answer.text
        return key

    async def _ask(self, method: str, path: str, headers: dict[str, str], **options: Any) -> falcon.testing.Result:
        path, _, query = path.partition("?")
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = await self._service.ask(
            method, path, headers=headers, query_string=query, protocol=self._scheme, **options
        )
        for name, cookie in answer.cookies.items():
            self.told[name] = cookie
            if cookie.max_age == 0:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = cookie.value
        return answer


def form_token(page: str) -> str:
    """Find the token of the forms of a page."""
    found = _TOKEN.search(page)
    assert found is not None, page[:2000]
    return html.unescape(found[1])
