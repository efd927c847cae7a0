"""How much the benchmarks do; every loop of theirs is bounded by one of these."""

from __future__ import annotations

from typing import Final

import msgspec


class Scale(msgspec.Struct, frozen=True):
    """Counts and times; `ack_limit` is the most requests of one device in one round."""

    assets: int = 200_000
    devices: int = 64
    ack_s: float = 3.0
    ack_limit: int = 20_000
    verify_events: int = 200_000
    rebuild_events: int = 1_000_000
    rebuild_devices: int = 2_000
    segment_events: int = 400_000
    segment_devices: int = 800
    log_events: int = 500_000
    log_devices: int = 2_000
    history_events: int = 1_000_000
    history_devices: int = 100
    history_pages: int = 300
    size_events: int = 100_000
    size_devices: int = 2_000
    size_rounds: int = 15
    polls: int = 1_000
    mixed_users: int = 2
    mixed_devices: int = 1_000
    mixed_s: float = 4.0
    mixed_rate: float = 200.0
    slow_s: float = 25.0
    slow_readers: int = 200
    sockets: int = 5_000
    socket_writes: int = 1
    socket_quiet_s: float = 50.0
    postgres_rows: int = 1_000_000
    postgres_polls: int = 200
    phones: int = 1_000
    observed_acks: int = 60
    listed_devices: int = 1_000_000
    plotted_events: int = 100_000
    stampedes: tuple[int, ...] = (500, 2_000)
    stampede_assets: int = 2_000
    growth_devices: tuple[int, ...] = (1, 100, 1_000)
    growth_events: tuple[int, ...] = (10_000, 60_000, 600_000)
    growth_entities: tuple[int, ...] = (10_000, 400_000, 3_000_000)
    growth_measured: int = 2_000
    sizing_devices: int = 100_000_000
    sizing_s: float = 3.0


FULL: Final = Scale()
QUICK: Final = Scale(
    assets=3_000,
    devices=8,
    ack_s=0.3,
    ack_limit=2_000,
    verify_events=500,
    rebuild_events=2_000,
    rebuild_devices=20,
    segment_events=2_000,
    segment_devices=20,
    log_events=2_000,
    log_devices=20,
    history_events=2_000,
    history_devices=10,
    history_pages=20,
    size_events=500,
    size_devices=20,
    size_rounds=3,
    polls=20,
    mixed_devices=12,
    mixed_s=0.5,
    mixed_rate=100.0,
    slow_s=1.5,
    slow_readers=5,
    sockets=100,
    socket_quiet_s=1.0,
    postgres_rows=20_000,
    postgres_polls=5,
    phones=20,
    observed_acks=2,
    listed_devices=2_000,
    plotted_events=2_000,
    stampedes=(10,),
    stampede_assets=50,
    growth_devices=(1, 3, 10),
    growth_events=(200, 400, 3_000),
    growth_entities=(200, 400, 1_000),
    growth_measured=100,
    sizing_devices=100_000,
    sizing_s=0.3,
)
