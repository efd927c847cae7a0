"""Services that write their logs by themselves, and witnesses as their own processes: two ledgers watch each other."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from ledger.commands import CreateSession
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.notes import ED25519, Note, SignerKey, VerifierKey, parse_note, parse_verifier, sign, verified
from ledger.transparency.witnessing import SIZE_TYPE, Submission
from ops.opening.ledger import opened
from ops.settings.settings import read_settings
from projections.transparency.place import CHECKPOINT
from projections.transparency.tree import TreeReader
from tests.support.ledger.ledgers import sid_of
from tests.support.ledger.logs import Audit, place_at
from tests.support.processes.services import Service
from tests.support.stores.servers import die_with_parent, free_port, wait_until

COMMAND = (sys.executable, "-c", "from ops.cli import main; main()", "witness")
NAMES = ("one.example", "two.example")


class Watching(NamedTuple):
    """A witness in a process of its own."""

    key: VerifierKey
    url: str
    process: subprocess.Popen[bytes]


def log_key(name: str) -> SignerKey:
    """The key of a department's log."""
    return SignerKey(f"{name}/log", ED25519, name.encode().ljust(32, b"."))


@contextmanager
def witnessing(folder: Path, name: str, *logs: SignerKey) -> Iterator[Watching]:
    """Run the witness of a department, on logs of others."""
    folder.mkdir(exist_ok=True)
    options = ["--data-dir", str(folder), "--name", f"{name}/w1"]
    begun = subprocess.run([*COMMAND, *options, "--print-key"], check=True, capture_output=True, text=True)
    port = free_port()
    for each in logs:
        options += ["--log", str(each.public)]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [*COMMAND, *options, "--port", str(port)], stderr=said, preexec_fn=die_with_parent, env={**os.environ}
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url), "the witness")
        yield Watching(parse_verifier(begun.stdout.strip()), url, process)
    finally:
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGTERM, -signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/add-checkpoint", trust_env=False).status_code == 405
    except httpx.TransportError:
        return False


def ask(witness: Watching, submission: Submission) -> httpx.Response:
    return httpx.post(f"{witness.url}/add-checkpoint", content=str(submission).encode(), trust_env=False)


@pytest.mark.soak
def test_a_witness_in_a_process_of_its_own_refuses_a_fork_also_when_it_comes_back(tmp_path: Path) -> None:
    key = log_key("one.example")
    first, fork = (sign(Checkpoint(key.name, 5, bytes([n]) * 32).text, [key]) for n in (1, 2))
    with witnessing(tmp_path / "w", "two.example", key) as witness:
        assert ask(witness, Submission(0, (), first)).status_code == 200
        witness.process.kill()
    with witnessing(tmp_path / "w", "two.example", key) as witness:
        refused = ask(witness, Submission(0, (), fork))
        assert (refused.status_code, refused.headers["content-type"], refused.text) == (409, SIZE_TYPE, "5\n")
        refused = ask(witness, Submission(5, (), fork))
        assert (refused.status_code, "forked" in refused.text) == (422, True)
        assert ask(witness, Submission(5, (), first)).status_code == 200


async def sign_in(settings: dict[str, str], *users: str) -> None:
    async with opened(read_settings(settings)) as found:
        for user in users:
            await found.ledger.execute(user, sid_of(user), CreateSession(user, "lib"))


def is_signed(folder: Path, keys: list[VerifierKey], beyond: int = 0) -> bool:
    """Tell whether a checkpoint beyond a size is published that all of these signed."""
    if size_of(folder) <= beyond:
        return False
    return len(verified(parse_note((folder / CHECKPOINT).read_text()), keys)) == len(keys)


@pytest.mark.soak
def test_two_ledgers_watch_each_other(tmp_path: Path) -> None:
    with ExitStack() as stack:
        watched = dict(zip(NAMES, reversed(NAMES), strict=True))
        witnesses = {
            name: stack.enter_context(witnessing(tmp_path / f"w-{name}", name, log_key(watched[name])))
            for name in NAMES
        }
        services: dict[str, Service] = {}
        for name in NAMES:
            witness = witnesses[watched[name]]
            services[name] = stack.enter_context(
                Service(
                    tmp_path / name,
                    factory="ops.app:create_app",
                    workers="2",
                    proof=(tmp_path / f"log-{name}").as_uri(),
                    proof_interval="1s",
                    proof_origin=log_key(name).name,
                    proof_key=log_key(name).written(),
                    witnesses=f"{witness.key} {witness.url}",
                )
            )
        for name in NAMES:
            asyncio.run(sign_in({"LEDGER_DATA_DIR": str(tmp_path / name)}, "ann", "ben"))
        for name in NAMES:
            keys = [log_key(name).public, witnesses[watched[name]].key]
            folder = tmp_path / f"log-{name}"
            wait_until(partial(is_signed, folder, keys), "both signatures", 60)
        # A worker that is killed leaves it to the others.
        one = NAMES[0]
        before = size_of(tmp_path / f"log-{one}")
        services[one].workers[0].kill()
        asyncio.run(sign_in({"LEDGER_DATA_DIR": str(tmp_path / one)}, "carl"))
        keys, folder = [log_key(one).public, witnesses[watched[one]].key], tmp_path / f"log-{one}"
        wait_until(partial(is_signed, folder, keys, before), "what came behind it", 120)
        audit = asyncio.run(Audit.of(place_at(folder.as_uri()), log_key(one)))
        assert len(audit.events) == 3
        # What forks it is refused, whoever has the key.
        size, text = audit.checkpoint.size, (folder / CHECKPOINT).read_text()
        witness = witnesses[watched[one]]
        forked = sign(Checkpoint(log_key(one).name, size, bytes(32)).text, [log_key(one)])
        assert ask(witness, Submission(size, (), forked)).status_code == 422
        assert ask(witness, Submission(0, (), forked)).status_code == 409
        larger = sign(Checkpoint(log_key(one).name, size + 2, bytes(32)).text, [log_key(one)])
        proof = asyncio.run(TreeReader(place_at(folder.as_uri()), size).consistency(size - 2))
        assert ask(witness, Submission(size, tuple(proof), larger)).status_code == 422
        assert ask(witness, Submission(size, (), Note(parse_note(text).text, parse_note(text).signatures))).is_success


def size_of(folder: Path) -> int:
    file = folder / CHECKPOINT
    return parse_checkpoint(parse_note(file.read_text()).text).size if file.exists() else 0


def test_a_witness_says_that_its_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ["--data-dir", str(tmp_path), "--name", "x/w1", "--log", str(log_key("one.example").public)]
        done = subprocess.run(
            [*COMMAND, *options, "--port", str(port)], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert (
        done.stderr == f"error: Cannot listen on 127.0.0.1 port {port}: Address already in use; choose another --port\n"
    )
