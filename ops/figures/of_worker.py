"""What is looked at in a worker now and then: its event loop, its jobs, and what is the matter with all around it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from ledger.figures.families import LATENCY_S, LONG_S, Family, Part
from ops.figures import certificates

JOBS: Final = (
    "expire",
    "version",
    "compare",
    "clock",
    "gone",
    "look",
    "census",
    "certificates",
    "notarize",
    "watch",
    "index",
    "rates",
)
TROUBLES: Final = (
    "store_away",
    "store_refuses_writes",
    "store_full",
    "ledger_gone",
    "eviction",
    "source",
    "identity",
    "archive",
    "clock",
)
"""What may be the matter, as `/readyz` has it: the first four are 503 there."""

LAG: Final = Family(
    "event_loop_lag_seconds",
    "histogram",
    "How late the event loop came to a timer; ten a second and worker.",
    bounds=LATENCY_S,
)
JOB_SUCCESS: Final = Family(
    "job_last_success_timestamp_seconds",
    "gauge",
    "When a background job of this service last succeeded; 0 where it has not.",
    ("job",),
    [(job,) for job in JOBS],
    join="max",
)
JOB_SECONDS: Final = Family(
    "job_seconds", "histogram", "How long runs of background jobs took.", ("job",), [(job,) for job in JOBS], LONG_S
)
TROUBLE: Final = Family(
    "trouble",
    "gauge",
    "1 while something is the matter, as /readyz tells in words; looked at every 10 seconds.",
    ("what",),
    [(what,) for what in TROUBLES],
    join="max",
)
HORIZON: Final = Family(
    "source_horizon_lag_seconds",
    "gauge",
    "How far the source's horizon is behind its clock: devices see nothing that is newer. 0 for a catalog.",
    join="max",
)
HOLDER: Final = Family(
    "source_oldest_transaction_seconds",
    "gauge",
    "How long the transaction has been open that holds the source's horizon back most; 0 without one.",
    join="max",
)
POOL: Final = Family(
    "source_pool_connections",
    "gauge",
    "Connections to PostgreSQL, by whether they are in use, and how many there may be.",
    ("state",),
    [("in_use",), ("most",)],
)
DISK_FREE: Final = Family("disk_free_bytes", "gauge", "Free space where the data folder is.", join="max")
DISK_SIZE: Final = Family("disk_size_bytes", "gauge", "Size of the disk that the data folder is on.", join="max")


class LookedAt(Part):
    """What one worker looked at."""

    def __init__(self) -> None:
        super().__init__(
            *(LAG, JOB_SUCCESS, JOB_SECONDS, TROUBLE, HORIZON, HOLDER, POOL, DISK_FREE, DISK_SIZE),
            certificates.EXPIRES,
        )
        self.lag = self.times(LAG.name)
        self._runs = {job: self.times(JOB_SECONDS.name, job) for job in JOBS}

    def succeeded(self, job: str, took_s: float, now_s: float) -> None:
        """Note that a run of a job has succeeded."""
        self._runs[job].note(took_s)
        self.set(JOB_SUCCESS.name, job, to=now_s)

    def troubles(self, found: Collection[str], keep: Collection[str] = ()) -> None:
        """Set what is the matter, and that nothing else is but what is to stay as it was."""
        for what in TROUBLES:
            if what not in keep:
                self.set(TROUBLE.name, what, to=what in found)
