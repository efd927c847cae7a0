"""How many may follow the feed of one worker, and how many of them in the name of users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ledger.errors import Unavailable

MOST_FOLLOWERS: Final = 100
MOST_OF_USER: Final = 5
"""How many readers a user may have at a worker. All users together may have half of all: the rest is for keys."""


class TooManyFollowers(Unavailable):
    """As many follow as may."""

    retry_after_s = 30

    def __init__(self, most: int) -> None:
        super().__init__(
            f"{most} readers follow the feed of this worker, and no more may (LEDGER_FEED_FOLLOWERS): end one of them"
        )


class TooManyOfUsers(TooManyFollowers):
    """As many follow in the name of a user, or of users, as may."""

    def __init__(self) -> None:
        Unavailable.__init__(
            self,
            f"A user has {MOST_OF_USER} readers of the feed at a worker at most, and all users together half of "
            "LEDGER_FEED_FOLLOWERS: end one of them",
        )


class Seats:
    """The readers of one worker that follow now."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self.of_users = Counter[str]()

    @contextmanager
    def taken(self, user: str | None) -> Iterator[None]:
        """Count one who follows, in the name of `user` or of none; raises TooManyFollowers."""
        if self.used >= self.most:
            raise TooManyFollowers(self.most)
        if user is not None:
            if self.of_users[user] >= MOST_OF_USER or self.of_users.total() >= max(self.most // 2, 1):
                raise TooManyOfUsers
            self.of_users[user] += 1
        self.used += 1
        try:
            yield
        finally:
            self.used -= 1
            if user is not None:
                self.of_users[user] -= 1
                self.of_users += Counter[str]()  # whoever follows no more is forgotten
