"""Opening what happened: the streams, and the archive that the environment names."""

from __future__ import annotations

import os

from ledger.log.store import Store
from ops.archive.options import place_from
from projections.archive.catalog import Archive
from projections.past import Past


def open_past(store: Store) -> Past:
    """Open the events of a store and of its archive, if LEDGER_ARCHIVE names one; raises InvalidInput."""
    place = place_from(os.environ)
    return Past(store, None if place is None else Archive(store, place.open()))
