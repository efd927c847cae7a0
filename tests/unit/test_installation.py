"""What a check of an installation says of settings that do not fit."""

from __future__ import annotations

from ledger.errors import InvalidInput
from ops.beside.installation import check_installation
from ops.settings.settings import Settings, read_settings
from projections.entities.source_check import CheckReport
from tests.support.stores.servers import free_port


async def test_a_database_that_settings_name_wrongly_is_told_with_its_setting() -> None:
    async def look(settings: Settings) -> CheckReport:
        raise InvalidInput([(("LEDGER_POSTGRES",), "has no host")])

    given = {"LEDGER_API_KEY": "slk_of-somebody"}
    found = await check_installation(f"http://127.0.0.1:{free_port()}", lambda: read_settings({}), given, look)
    told = {one.name: (one.status, one.says) for one in found.checks}
    assert told["database"] == ("FAIL", "LEDGER_POSTGRES: has no host")
