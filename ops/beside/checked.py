"""What a check found."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Status = Literal["ok", "warn", "FAIL", "skip"]
STATUSES: Final[tuple[Status, ...]] = ("ok", "warn", "FAIL", "skip")


class Checked(msgspec.Struct, frozen=True):
    """One check, and the lines that mend it; `skip`: it could not be made, for a reason that it says."""

    name: str
    status: Status
    says: str
    mend: tuple[str, ...] = ()


class Found(msgspec.Struct, frozen=True):
    """All checks of an installation."""

    url: str
    checks: list[Checked]

    @property
    def ok(self) -> bool:
        """Tell whether nothing must be mended."""
        return not any(check.status == "FAIL" for check in self.checks)
