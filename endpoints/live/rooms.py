"""Rooms over all workers and machines: who is in one here, and where it is told what they must hear.

What is to be heard in a room is never sent from worker to worker. The store tells at a place what was written there
(`projections/live/signals.py`), and each worker sends its own sockets what follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from engineio.packet import MESSAGE
from engineio.packet import Packet as EnginePacket
from socketio import AsyncManager
from socketio.packet import EVENT

from projections.live.signals import Endings, Library, Place, Signals

NAMESPACE: Final = "/"


class UserRoom(NamedTuple):
    """The sockets of one user's devices that sync one library."""

    user: str
    place: Library


class SessionRoom(NamedTuple):
    """The sockets of one session."""

    sid: str
    place: Endings


Room = UserRoom | SessionRoom


class Rooms(AsyncManager):  # type: ignore[misc] # python-socketio has no types
    """The client manager: rooms whose places are listened at while anybody is in them.

    PERF: python-socketio's own goes through all rooms when one socket leaves, and makes a task for each that it sends
    to. A socket's private room is none here: it is the socket.
    """

    def __init__(self, signals: Signals) -> None:
        super().__init__()
        self._signals = signals
        self._members: dict[Any, dict[str, str]] = {}
        self._rooms_of: dict[str, list[Room]] = {}
        self._rooms_at: dict[Place, dict[Room, None]] = {}

    def at(self, place: Place) -> list[Room]:
        """List the rooms of a place that anybody is in."""
        return list(self._rooms_at.get(place, ()))

    def members(self, room: Room) -> list[str]:
        """List the ids of the sockets that are in a room."""
        return list(self._members.get(room, ()))

    def basic_enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        """Put a socket into a room, whose place is listened at from now on."""
        if room is None:
            super().basic_enter_room(sid, namespace, room, eio_sid)
        if not isinstance(room, UserRoom | SessionRoom):
            return
        if room not in self._members:
            self._members[room] = {}
            rooms = self._rooms_at.setdefault(room.place, {})
            rooms[room] = None
            if len(rooms) == 1:
                self._signals.join(room.place)
        self._members[room][sid] = self.rooms[namespace][None][sid]
        self._rooms_of.setdefault(sid, []).append(room)

    def basic_leave_room(self, sid: str, namespace: str, room: Any) -> None:
        """Take a socket out of a room; a place where nobody is left is not listened at any more."""
        if room is None:
            super().basic_leave_room(sid, namespace, room)
        members = self._members.get(room)
        if members is None or members.pop(sid, None) is None or members:
            return
        del self._members[room]
        rooms = self._rooms_at[room.place]
        del rooms[room]
        if not rooms:
            del self._rooms_at[room.place]
            self._signals.leave(room.place)

    def basic_disconnect(self, sid: str, namespace: str, **_: object) -> None:
        """Take a socket out of all rooms."""
        for room in self._rooms_of.pop(sid, ()):
            self.basic_leave_room(sid, namespace, room)
        super().basic_leave_room(sid, namespace, None)
        for pending in (self.pending_connect, self.pending_disconnect):
            if sid in pending.get(namespace, ()):
                pending[namespace].remove(sid)
                if not pending[namespace]:
                    del pending[namespace]

    def get_participants(self, namespace: str, room: Any) -> Iterator[tuple[str, str]]:
        """Yield the sockets of a room, or one socket by its own id, with the ids of their connections."""
        if room is None:
            yield from super().get_participants(namespace, room)
        elif isinstance(room, str):
            eio_sid = self.eio_sid_from_sid(room, namespace)
            if eio_sid is not None:
                yield room, eio_sid
        else:
            yield from list(self._members.get(room, {}).items())

    def get_rooms(self, sid: str, namespace: str) -> list[Room]:
        """List the rooms that a socket is in."""
        return list(self._rooms_of.get(sid, ()))

    async def emit(self, event: str, data: Any, namespace: str, room: Any = None, to: Any = None, **_: object) -> None:
        """Send an event to the sockets of a room that are connected here: the store told all workers of its cause."""
        arguments = list(data) if isinstance(data, tuple) else [] if data is None else [data]
        text = self.server.packet_class(EVENT, namespace=namespace, data=[event, *arguments]).encode()
        packet = EnginePacket(MESSAGE, text)
        for _sid, eio_sid in self.get_participants(namespace, to or room):
            await self.server.eio.send_packet(eio_sid, packet)
