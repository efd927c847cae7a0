"""What is configured about Gumnut."""

from __future__ import annotations

from msgspec import Struct

from ledger.errors import InvalidInput
from ledger.keys import check_name
from projections.accounts.addresses import is_plain, problem_of


class GumnutConfig(Struct, frozen=True):
    """Where Gumnut is, and the one library all sync if it is not the choice of each; raises InvalidInput.

    `timeout_s` bounds each question with all that the SDK does to have it answered.
    """

    base_url: str = "https://api.gumnut.ai"
    library: str | None = None
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Check what the types cannot say."""
        if problem := problem_of(self.base_url, plain=True):
            raise InvalidInput([(("LEDGER_GUMNUT_URL",), problem)])
        if self.library is not None:
            check_name("LEDGER_GUMNUT_LIBRARY", self.library)

    @property
    def issuer(self) -> str:
        """The name under which Gumnut's users are kept: its address, however that is written."""
        return self.base_url.rstrip("/")

    @property
    def plain(self) -> bool:
        """Whether Gumnut is on this machine and may be spoken to without TLS."""
        return is_plain(self.base_url)
