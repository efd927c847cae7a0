"""Whether the database still has the shape that a mapping reads.

Somebody may change a table while it is served: an update of the backend, or a hand. Read on as before, a column that
is gone breaks streams behind their beginning, and one that got another type makes each row unfit, so that devices pass
by all of them. So the shape of the tables is looked at with each horizon, and held against the mapping where it
changed, as it was before the service started. While it does not fit nothing is sent; once it does again, all is.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from projections.entities.postgres.check.schema import schema_problems
from projections.entities.postgres.mapping.applicable import applicable
from projections.entities.postgres.mapping.mapping import Mapping
from projections.entities.source import SourceUnavailable

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
"""How often a shape that did not fit is looked at again: what a role may read can change without it."""


class SchemaUnfit(SourceUnavailable):
    """The tables are not as the mapping says; the message names what is wrong."""


class SchemaWatch:
    """Knows whether the shape that was seen last fits; one for a process."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._fits: int | None = None
        self._wrong: tuple[int, str] | None = None
        self._looked_s = 0.0

    def doubt(self) -> None:
        """Have the shape held against the mapping with the next look, whether it changed or not."""
        self._fits = None

    def is_known(self, shape: int) -> bool:
        """Tell whether a shape is the one that fits; raises SchemaUnfit if it was just seen not to."""
        if self._wrong is not None and self._wrong[0] == shape and time.monotonic() - self._looked_s < LOOK_S:
            raise SchemaUnfit(self._wrong[1])
        return shape == self._fits

    async def look(self, connection: Any, shape: int) -> None:
        """Hold the tables against the mapping; raises SchemaUnfit, and what the connection raises."""
        found = await schema_problems(connection, await applicable(connection, self._mapping))
        problems = [problem.told for problem in found if problem.weight == "problem"]
        self._looked_s = time.monotonic()
        if problems:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            first = problems[0].partition("; so also in")[0]
            says = f"The database is not as the mapping says, so no stream begins: {first}{more}"
            says += "; `syncledger source check` tells all"
            if self._wrong is None or self._wrong[1] != says:
                log.error("%s", says)
            self._fits, self._wrong = None, (shape, says)
            raise SchemaUnfit(says)
        if self._wrong is not None:
            log.info("the database is as the mapping says again")
        self._fits, self._wrong = shape, None
