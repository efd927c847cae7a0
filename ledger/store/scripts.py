"""What a store is sent: commands, packed, and Lua scripts that run inside the server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import resources
from typing import Self

import hiredis
from msgspec import Struct
from msgspec.structs import force_setattr

Arg = bytes | str | int  # what a command is made of; a str goes as UTF-8, an int in decimal

pack: Callable[[tuple[Arg, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub wants one-tuples

# With this first line a server runs the script also above its memory limit (Redis 7.0, Valkey 7.2 and later).
ALLOW_OOM = "#!lua flags=allow-oom\n"


class Script(Struct, frozen=True):
    """A script and what calls it; `text` is plain Lua, without a shebang line.

    `allow_oom`: the script may write at the memory limit, because it frees more than it takes.
    `source`: what the server is given. `sha`: SHA-1 hex of it, the script's name there. `packed_load`: SCRIPT LOAD.
    """

    name: str
    text: str
    allow_oom: bool = False
    source: bytes = b""
    sha: bytes = b""
    packed_load: bytes = b""

    def __post_init__(self) -> None:
        source = ((ALLOW_OOM if self.allow_oom else "") + self.text).encode()
        force_setattr(self, "source", source)
        force_setattr(self, "sha", hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())
        force_setattr(self, "packed_load", pack((b"SCRIPT", b"LOAD", source)))

    @classmethod
    def load(cls, package: str, *filenames: str, allow_oom: bool = False, behind: str = "") -> Self:
        """Read a script that lies beside the modules of `package`, of one file or of several parts in this order.

        The last part gives the name. `behind`: what it begins with, of another package.
        """
        texts = [behind] if behind else []
        texts += [resources.files(package).joinpath(name).read_text("utf-8") for name in filenames]
        return cls(filenames[-1].removesuffix(".lua"), "\n".join(texts), allow_oom)
