"""A horizon a tenth of a second behind in place of a second, for tests in which nobody writes while streams begin.

The second is for a backend that the machine stops between reading the clock and showing that it is active; what holds
it is tested in `tests/contract/test_postgres_horizon.py` and `tests/faults/test_late_commits.py`, as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from ops.app import Application, create_app
from ops.settings.settings import Settings
from projections.entities.postgres import horizon, source

MARGIN_US: Final = 100_000
APPLICATION: Final = f"{__name__}:create"
"""For services in processes of their own."""


@pytest.fixture(scope="module")
def near_horizon() -> Iterator[None]:
    """Have the horizon near in this process."""
    with pytest.MonkeyPatch.context() as patch:
        _bring_near(patch)
        yield


def create(settings: Settings, redis_url: str, ledger_id: str) -> Application:
    """Build the application, in a worker of its own, whose horizon is near."""
    _bring_near(pytest.MonkeyPatch())
    return create_app(settings, redis_url, ledger_id)


def _bring_near(patch: pytest.MonkeyPatch) -> None:
    for module in (horizon, source):
        patch.setattr(module, "MARGIN_US", MARGIN_US)
