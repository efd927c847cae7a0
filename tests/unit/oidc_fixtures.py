"""The provider of the OpenID Connect tests, as a fixture that reads all that was logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.sign_in.oidc_server import OidcServer


@pytest.fixture
def server(caplog: pytest.LogCaptureFixture) -> Iterator[OidcServer]:
    """A correct provider. In the end none of its secrets may be in a log record, at any level and by anybody."""
    caplog.set_level(logging.DEBUG)
    with OidcServer().running() as running:
        yield running
    logged = "\n".join(
        f"{record.getMessage()} {logging.Formatter().formatException(record.exc_info) if record.exc_info else ''}"
        for record in caplog.get_records("call")
    )
    assert not [text for text in running.secrets if text in logged], "a secret was logged"
