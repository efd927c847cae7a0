"""The commands, one module each, and what tells of each until it is asked for.

A command's module is imported when the command is run, or its own help is asked for: all together take a second.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Named(NamedTuple):
    """Where a command is, as `module:attribute`, and the first sentence of its help."""

    where: str
    help: str


COMMANDS: Final = {
    "archive": Named(
        "storage.archive:archive",
        "Move old events to object storage (LEDGER_ARCHIVE: file:///…, s3://bucket/prefix, gs://…, az://…).",
    ),
    "backup": Named("storage.backup:backup", "Write all that a ledger needs to object storage, while it is in use."),
    "bench": Named(
        "bench:bench",
        "Measure the service beside a floor: both on this machine, in alternating rounds, on servers of their own.",
    ),
    "completion": Named("shell:completion", "Print what makes a shell complete commands and options."),
    "console": Named(
        "access.console:console", "The console at /console: one-time links to sign in with, and signing everybody out."
    ),
    "credentials": Named(
        "access.credentials:credentials", "What identity providers entrust to sessions, held encrypted."
    ),
    "demo": Named(
        "demo:demo", "Load a demo library (the first time), sign a device in, tell how to sync it, and serve."
    ),
    "expire": Named(
        "devices.expire:expire",
        "End idle (LEDGER_IDLE) and expired sessions, purge the catalog's delete markers older than LEDGER_TOMBSTONES.",
    ),
    "explain": Named(
        "devices.explain:explain",
        "Tell why a device does not sync: figures first and, last of all, the answer in plain words.",
    ),
    "feed": Named(
        "devices.feed:feed", "Print what happened to all sessions, an event a line, in the order of each session."
    ),
    "fence": Named(
        "devices.fence:fence",
        "Ask all devices that may have spoken since an instant to start over: the store may have lost what they did.",
    ),
    "history": Named(
        "devices.history:history",
        "Show what happened to a session, living or ended, or to all of a user's, newest first.",
    ),
    "immich": Named("immich:immich", "Look at an installation beside Immich."),
    "import": Named(
        "import_:import_entities", 'Load entities into a library: NDJSON lines {"type", "id", "data"}; "-" reads stdin.'
    ),
    "key": Named("access.key:key", "API keys, for scripts: no session, only the scopes they were made with."),
    "man": Named("shell:man", "Write manual pages, one for each command."),
    "migrate": Named("storage.migrate:migrate", "Copy an archive with its backups to another storage."),
    "notarize": Named(
        "storage.notarize:notarize",
        "Bring the transparency log (LEDGER_PROOF) up to what the store holds now, and sign a checkpoint of it.",
    ),
    "proof": Named("access.proof:proof", "The transparency log: who signs it, and what it proves."),
    "rebuild": Named(
        "storage.rebuild:rebuild",
        "Make the projections anew from the events: of all partitions that are not whole, or of what is named.",
    ),
    "restore": Named(
        "storage.restore:restore",
        "Fill an empty server from a backup: its URL, or its name in LEDGER_ARCHIVE, or `latest`.",
    ),
    "serve": Named("serve:serve", "Serve until stopped; SIGTERM ends it within LEDGER_GRACE."),
    "session": Named("devices.session:session", "Sign devices in and out, list and find them."),
    "set-aside": Named(
        "storage.set_aside:set_aside",
        "Take a stream entry that is no event out of a partition's stream, and keep it.",
    ),
    "signing-key": Named("access.signing_key:signing_key", "List and rotate the keys that sign tokens."),
    "simulate": Named(
        "devices.simulate:simulate", "Sync once, as the Immich app does, into an own copy of the library."
    ),
    "source": Named("source:source", "Check where entities come from, or accept an exchanged database."),
    "state": Named(
        "devices.state:state",
        "Show a session and its checkpoints as they were at a time, folded from its events alone.",
    ),
    "store": Named(
        "storage.store:store", "The store under a ledger: begin one in it, mend the file of an embedded one."
    ),
    "upgrade": Named(
        "storage.upgrade:upgrade", "Show which versions run on a ledger, and in which format it is written."
    ),
    "user": Named("access.user:user", "List, show and forget users."),
    "verify": Named(
        "storage.verify:verify",
        "Check every chain, projection, index and archived segment against the events; exits 1 if anything differs.",
    ),
    "witness": Named(
        "access.witness:witness",
        "Watch logs of other ledgers: sign each checkpoint that grew from the last one signed, never a fork.",
    ),
}
