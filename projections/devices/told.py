"""What is told of devices: a list's rows and what keeps a list from being whole."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from projections.finding.prefixes import Unread

__all__ = ["WHY", "DeviceTold", "DevicesPage", "Order", "StuckTold", "Unread", "Why"]

Order = Literal["help", "seen"]
"""`help`: who needs help first. `seen`: who was heard of last first."""
Why = Literal["same rows again", "breaks off streams", "stops taking rows", "streams fail here"]

WHY: Final[dict[str, Why]] = {
    "repeats": "same rows again",
    "breaks_off": "breaks off streams",
    "stalls": "stops taking rows",
    "fails": "streams fail here",
}


class StuckTold(msgspec.Struct, frozen=True):
    """A device that does not get on: since when (the end of the first stream that shows it), and why in three words."""

    since: str
    why: Why


class DeviceTold(
    msgspec.Struct,
    frozen=True,
    rename={
        "device_type": "deviceType",
        "device_os": "deviceOS",
        "app_version": "appVersion",
        "created_at": "createdAt",
        "last_seen_at": "lastSeenAt",
        "ended_at": "endedAt",
        "end_reason": "endReason",
        "last_completed_at": "lastCompletedAt",
    },
):
    """A device, living or ended; what is null is not known, or not kept any more.

    `lastSeenAt` is noted at most once an hour, that of an ended one is when it ended. `lastCompletedAt`: when it last
    acknowledged a whole stream that brought something, null if it did not since it last began anew. `behind`: rows
    that it has not acknowledged, about (of PostgreSQL no more than 10,001 of each entity type are counted); null where
    they were not counted in time, of devices that asked for nothing yet, and of ended ones. `damaged` tells what is
    wrong where it cannot be read. Texts are what devices say of themselves, never markup.
    """

    session: str
    user: str
    library: str | None
    device_type: str | None
    device_os: str | None
    app_version: str | None
    created_at: str | None
    last_seen_at: str | None
    ended_at: str | None
    end_reason: str | None
    stuck: StuckTold | None
    last_completed_at: str | None
    behind: int | None
    damaged: str | None = None


class DevicesPage(msgspec.Struct, frozen=True):
    """Some devices; ask again with `next` as `cursor` until that is null.

    `unread` names the partitions that could not be read, or are not in the index yet: their devices are missing.
    """

    devices: list[DeviceTold]
    next: str | None
    unread: list[Unread]
