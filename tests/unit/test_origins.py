"""Whose page sent a request."""

from __future__ import annotations

import pytest

from endpoints.accounts.origins import MAX_ORIGIN_BYTES, Origins
from endpoints.http.errors import Forbidden
from tests.unit.test_auth import request

CHANGING = ["POST", "PUT", "DELETE", "PATCH"]


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize(
    ("host", "given"),
    [
        ("photos.example", {}),
        ("photos.example", {"origin": "https://photos.example"}),
        ("photos.example", {"origin": "http://photos.example"}),
        ("photos.example:443", {"origin": "https://photos.example"}),
        ("photos.example", {"origin": "https://PHOTOS.example:443"}),
        ("Photos.Example:2283", {"origin": "http://photos.example:2283"}),
        ("[::1]:2283", {"origin": "http://[::1]:2283"}),
        ("photos.example", {"sec_fetch_site": "same-origin", "origin": "https://photos.example"}),
        ("photos.example", {"sec_fetch_site": "none"}),
    ],
)
def test_our_own_pages_and_no_page_at_all(method: str, host: str, given: dict[str, str]) -> None:
    Origins().check(request(method=method, host=host, **given))


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize(
    ("host", "given"),
    [
        ("photos.example", {"sec_fetch_site": "cross-site"}),
        ("photos.example", {"sec_fetch_site": "same-site"}),
        ("photos.example", {"sec_fetch_site": ""}),
        ("photos.example", {"sec_fetch_site": "cross-site", "origin": "https://photos.example"}),
        ("photos.example", {"sec_fetch_site": "same-origin", "origin": "https://evil.example"}),
        ("photos.example", {"origin": "https://evil.example"}),
        ("photos.example", {"origin": "https://photos.example.evil.example"}),
        ("photos.example", {"origin": "https://evil.example/photos.example"}),
        ("photos.example", {"origin": "https://photos.example:8443"}),
        ("photos.example:8443", {"origin": "https://photos.example"}),
        ("photos.example:80", {"origin": "https://photos.example"}),
        ("photos.example", {"origin": "null"}),
        ("photos.example", {"origin": ""}),
        ("photos.example", {"origin": "https://"}),
        ("null", {"origin": "null"}),
        ("photos.example", {"origin": "https://photos.example, https://evil.example"}),
        ("photos.example", {"origin": "https://" + "photos.example" * MAX_ORIGIN_BYTES}),
        ("photos.example", {"origin": "https://evil.example", "x_forwarded_host": "evil.example"}),
    ],
)
def test_pages_of_others(method: str, host: str, given: dict[str, str]) -> None:
    with pytest.raises(Forbidden, match=r"^Cross-origin request refused$"):
        Origins().check(request(method=method, host=host, **given))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_is_nobodys_business_but_the_browsers(method: str) -> None:
    Origins().check(request(method=method, host="photos.example", sec_fetch_site="cross-site", origin="null"))


@pytest.mark.parametrize("domain", ["https://photos.example", "https://photos.example/", "photos.example"])
def test_the_external_domain_is_our_own_behind_a_proxy_that_changes_the_host(domain: str) -> None:
    origins = Origins(domain)
    origins.check(request(method="POST", host="10.0.0.7:2283", origin="https://photos.example"))
    origins.check(request(method="POST", host="10.0.0.7:2283", origin="http://10.0.0.7:2283"))
    for other in ("https://evil.example", "https://photos.example:8443", "null", ""):
        with pytest.raises(Forbidden):
            origins.check(request(method="POST", host="10.0.0.7:2283", origin=other))


def test_without_an_external_domain_an_empty_origin_is_not_ours() -> None:
    with pytest.raises(Forbidden):
        Origins("").check(request(method="POST", host="", origin="https://"))
