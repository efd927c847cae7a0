"""The commands, one module each."""

from __future__ import annotations

from ops.commands.archive import archive
from ops.commands.backup import backup
from ops.commands.bench import bench
from ops.commands.credentials import credentials
from ops.commands.demo import demo
from ops.commands.expire import expire
from ops.commands.explain import explain
from ops.commands.history import history
from ops.commands.import_ import import_entities
from ops.commands.key import key
from ops.commands.migrate import migrate
from ops.commands.rebuild import rebuild
from ops.commands.restore import restore
from ops.commands.serve import serve
from ops.commands.session import session
from ops.commands.signing_key import signing_key
from ops.commands.simulate import simulate
from ops.commands.source import source
from ops.commands.state import state
from ops.commands.user import user
from ops.commands.verify import verify

COMMANDS = (
    serve, demo, session, user, import_entities, simulate, key, signing_key, credentials, history, state, explain,
    expire, source, verify, rebuild, archive, backup, restore, migrate, bench,
)  # fmt: skip
