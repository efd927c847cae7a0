"""What the links to the store count: commands, writes, round trips, connections."""

from __future__ import annotations

from typing import Final

from ledger.figures.families import LATENCY_S, Family, Part

COMMANDS: Final = Family("store_commands_total", "counter", "Commands written to the store.")
WRITES: Final = Family("store_writes_total", "counter", "Writes to the store's sockets; one takes many commands.")
IN_FLIGHT: Final = Family("store_commands_in_flight", "gauge", "Commands written whose reply has not come yet.")
ROUND_TRIP: Final = Family(
    "store_round_trip_seconds",
    "histogram",
    "How long a write waited for the reply to its first command; of each link one at a time is measured.",
    bounds=LATENCY_S,
)
CONNECTIONS: Final = Family("store_connections_total", "counter", "Connections to the store that were made.")
LOST: Final = Family("store_connections_lost_total", "counter", "Connections to the store that were lost.")


class StoreFigures(Part):
    """The figures of all links of one worker to its store."""

    def __init__(self) -> None:
        super().__init__(COMMANDS, WRITES, IN_FLIGHT, ROUND_TRIP, CONNECTIONS, LOST)
        self.round_trips = self.times(ROUND_TRIP.name)
        self._commands, self._writes = self.place(COMMANDS.name), self.place(WRITES.name)
        self._in_flight = self.place(IN_FLIGHT.name)
        self._connections, self._lost = self.place(CONNECTIONS.name), self.place(LOST.name)

    def wrote(self, commands: int) -> None:
        """Count a write of so many commands."""
        values = self.values
        values[self._commands] += commands
        values[self._writes] += 1
        values[self._in_flight] += commands

    def answered(self, commands: int) -> None:
        """Count replies, or commands that will have none."""
        self.values[self._in_flight] -= commands

    def connected(self) -> None:
        """Count a connection that stands."""
        self.values[self._connections] += 1

    def lost(self) -> None:
        """Count a connection that stood and does no more."""
        self.values[self._lost] += 1
