"""The commands, one module each."""

from __future__ import annotations

from ops.commands.bench import bench
from ops.commands.demo import demo
from ops.commands.expire import expire
from ops.commands.history import history
from ops.commands.import_ import import_entities
from ops.commands.key import key
from ops.commands.serve import serve
from ops.commands.session import session
from ops.commands.simulate import simulate
from ops.commands.verify import verify

COMMANDS = (serve, demo, session, import_entities, simulate, key, history, expire, verify, bench)
