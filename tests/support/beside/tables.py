"""Immich's tables, as far as one user's phone sees them, with what writes to them does by its triggers.

Every write has an id as Immich's `immich_uuid_v7` makes it: the milliseconds of the clock, and random bits behind.
"""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple

ME: Final = "me"
PARTNERS: Final = ("ann", "bob")
OTHERS: Final = (*PARTNERS, "eve")
START_MS: Final = 1_790_000_000_000

Key = tuple[str, ...]


class User(NamedTuple):
    """A user; `created_us` is when the transaction began that made it, `changed` whether it was since."""

    created_us: int
    update_id: str
    changed: bool


class Asset(NamedTuple):
    """An asset, and its exif."""

    owner: str
    update_id: str
    exif_id: str


class Share(NamedTuple):
    """A partner's row, or a member's."""

    create_id: str
    update_id: str


class Marker(NamedTuple):
    """A row of an audit table: what was deleted, and for assets whose it was."""

    id: str
    key: Key
    owner: str = ""


class Tables:
    """The tables as of now; `deleted` are the audit tables by the phone's tables."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.now_ms = START_MS
        self.users: dict[str, User] = {}
        self.assets: dict[str, Asset] = {}
        self.partners: dict[str, Share] = {}
        self.albums: dict[str, str] = {}
        self.members: dict[tuple[str, str], Share] = {}
        self.links: dict[tuple[str, str], str] = {}
        self.deleted: dict[str, list[Marker]] = {
            name: [] for name in ("user", "partner", "asset", "album", "member", "link")
        }
        self.made = 0
        self.oldest_share = ""
        """No share may be committed with an id below: Immich would not see it."""

    def uuid7(self, ms: int | None = None) -> str:
        """Make an id of now, or of another millisecond."""
        ms, rest = self.now_ms if ms is None else ms, self.dice.getrandbits(74)
        digits = f"{ms:012x}7{rest >> 62:03x}{8 | rest >> 60 & 3:x}{rest & (1 << 60) - 1:015x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def tick(self, ms: int) -> None:
        """Let time pass."""
        self.now_ms += ms

    # Writing

    def write(self) -> None:
        """Write a few things, in the very millisecond of the last one or later."""
        for _ in range(self.dice.choice((1, 1, 2, 5))):
            self._write()

    def _write(self) -> None:
        self.tick(self.dice.choice((0, 0, 1, 3, 40, 700, 3000)))
        self.dice.choices(
            (
                self.put_asset, self.change_asset, self.delete_asset, self.put_user, self.share, self.unshare,
                self.put_album, self.join, self.leave, self.link, self.unlink, self.change_member,
            ),
            (5, 6, 1.5, 1, 2, 1, 1.5, 3, 2, 6, 1.5, 1),
        )[0]()  # fmt: skip

    def put_user(self) -> None:
        name = self.dice.choice([*self.users, "", ""])
        if not name:
            self.made += 1
            began_us = self.now_ms * 1000 - self.dice.choice((0, 17, 5_300, 250_000, 450_000))
            self.users[f"u{self.made}"] = User(began_us, self.uuid7(), changed=False)
        elif self.dice.random() < 0.3:
            del self.users[name]
            self._mark("user", (name,))
        else:
            self.users[name] = self.users[name]._replace(update_id=self.uuid7(), changed=True)

    def put_asset(self) -> None:
        self.made += 1
        owner = self.dice.choice((ME, *OTHERS))
        self.assets[f"a{self.made}"] = Asset(owner, self.uuid7(), self.uuid7())

    def change_asset(self) -> None:
        if self.assets:
            linked = [name for _, name in self.links]
            name = self.dice.choice(linked if linked and self.dice.random() < 0.6 else list(self.assets))
            what = self.dice.choice(("update_id", "exif_id"))
            self.assets[name] = self.assets[name]._replace(**{what: self.uuid7()})

    def delete_asset(self) -> None:
        if self.assets:
            name = self.dice.choice(list(self.assets))
            self._mark("asset", (name,), self.assets.pop(name).owner)
            for link in [link for link in self.links if link[1] == name]:
                del self.links[link]
                self._mark("link", link)

    def share(self) -> None:
        """Let a partner share with the phone's user; sometimes by a transaction that began a little earlier."""
        name = self.dice.choice(PARTNERS)
        if name not in self.partners:
            self.partners[name] = Share(self._share_id(), self.uuid7())

    def unshare(self) -> None:
        if self.partners:
            name = self.dice.choice(list(self.partners))
            del self.partners[name]
            self._mark("partner", (name,))

    def put_album(self) -> None:
        self.made += 1
        album = f"b{self.made}"
        self.albums[album] = self.uuid7()
        self._put_member(album, self.dice.choice((ME, *OTHERS)))

    def join(self) -> None:
        """Let somebody into an album, mostly the phone's user."""
        user = ME if self.dice.random() < 0.7 else self.dice.choice(OTHERS)
        free = [album for album in self.albums if (album, user) not in self.members]
        if free:
            self._put_member(self.dice.choice(free), user)

    def leave(self) -> None:
        """Take somebody out of an album; without anybody it goes."""
        if self.members:
            album, user = member = self.dice.choice(list(self.members))
            del self.members[member]
            if user == ME:
                self._mark("album", (album,))
            self._mark("member", member)
            if not any(found[0] == album for found in self.members):
                del self.albums[album]
                for link in [link for link in self.links if link[0] == album]:
                    del self.links[link]

    def change_member(self) -> None:
        if self.members:
            member = self.dice.choice(list(self.members))
            self.members[member] = self.members[member]._replace(update_id=self.uuid7())

    def link(self) -> None:
        if self.albums and self.assets:
            link = self.dice.choice(list(self.albums)), self.dice.choice(list(self.assets))
            if link not in self.links:
                self.links[link] = self.uuid7()
                self.albums[link[0]] = self.uuid7()

    def unlink(self) -> None:
        if self.links:
            link = self.dice.choice(list(self.links))
            del self.links[link]
            self._mark("link", link)
            self.albums[link[0]] = self.uuid7()

    def _put_member(self, album: str, user: str) -> None:
        self.members[album, user] = Share(self._share_id() if user == ME else self.uuid7(), self.uuid7())
        self.albums[album] = self.uuid7()  # a trigger

    def _share_id(self) -> str:
        late = self.uuid7(self.now_ms - self.dice.choice((0, 0, 1, 60, 600, 900)))
        return late if late > self.oldest_share else self.uuid7()

    def _mark(self, table: str, key: Key, owner: str = "") -> None:
        self.deleted[table].append(Marker(self.uuid7(), key, owner))
        self.tick(1)  # what comes back comes later
        if table in ("partner", "album"):
            self.oldest_share = max(self.oldest_share, self.uuid7())

    # What the phone must hold

    def mine(self) -> list[str]:
        """List the albums that the phone's user is in."""
        return [album for album, user in self.members if user == ME]

    def expected(self) -> dict[tuple[str, Key], str]:
        """Tell all rows that a phone must hold, by the phone's table and their key, as of their last change."""
        mine = set(self.mine())
        linked = {asset for album, asset in self.links if album in mine}
        rows: dict[tuple[str, Key], str] = {("user", (name,)): user.update_id for name, user in self.users.items()}
        rows |= {("partner", (name,)): share.update_id for name, share in self.partners.items()}
        for name, asset in self.assets.items():
            if asset.owner == ME or asset.owner in self.partners or name in linked:
                rows["asset", (name,)] = asset.update_id
                rows["exif", (name,)] = asset.exif_id
        rows |= {("album", (album,)): self.albums[album] for album in mine}
        rows |= {("member", key): share.update_id for key, share in self.members.items() if key[0] in mine}
        rows |= {("link", key): update_id for key, update_id in self.links.items() if key[0] in mine}
        return rows
