"""The page on the feed: its program for a SIEM and its pipe to a broker run as they stand there, but for ports."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pytest

from ledger.commands import OfferStream
from ledger.entity_types import mask_of
from tests.support.phones.http import PARTITIONS, Live
from tests.support.processes.shell_commands import ShellCommands
from tests.support.stores.servers import die_with_parent, free_port, killed_at_end, wait_until

PAGE: Final = (Path(__file__).parents[2] / "ops/docs/feed.md").read_text(encoding="utf-8")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not there")
MOSQUITTO: Final = [
    shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("mosquitto", "mosquitto_pub")
]


def block(beginning: str) -> str:
    """Find the one block of the page that begins so."""
    found: str
    [found] = [
        text for text in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) if text.startswith(beginning)
    ]
    return found


@pytest.fixture
def live(valkey_url: str) -> Iterator[Live]:
    with Live(valkey_url) as live:
        yield live


def happens(live: Live, user: str) -> str:
    """Have a device sign in and be offered something: two events; gives its session."""
    sid = live.run(live.service.sign_in(user)).sid
    live.run(live.service.ledger.execute(user, sid, OfferStream(7, mask_of(["AssetV2"]))))
    return sid


def listens(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


class Siem(ThreadingHTTPServer):
    """Takes lines of JSON over HTTP, or refuses them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.refuses = False
        self.taken: list[dict[str, Any]] = []
        Thread(target=self.serve_forever, daemon=True).start()


class _Taking(BaseHTTPRequestHandler):
    server: Siem

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(503 if self.server.refuses else 200)
        self.send_header("content-length", "0")
        self.end_headers()
        if not self.server.refuses:
            self.server.taken += [json.loads(line) for line in body.splitlines()]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@needs_curl
def test_what_a_siem_refuses_is_sent_again_and_nothing_twice_that_it_took(live: Live, tmp_path: Path) -> None:
    key, _ = live.run(live.service.api_keys.create(["audit.read"], name="siem", now_us=1))
    ship, siem = tmp_path / "ship.sh", Siem()
    ship.write_text(block("#!/bin/sh\n# Sends what is new"))
    environment = {
        "PATH": os.environ["PATH"],
        "LEDGER_URL": live.url,
        "LEDGER_API_KEY": key,
        "SIEM_URL": f"http://127.0.0.1:{siem.server_port}/in",
    }

    def run() -> int:
        return subprocess.run(["sh", str(ship)], env=environment, capture_output=True, timeout=60).returncode

    def events() -> list[tuple[str, int]]:
        operations = [one for one in siem.taken if not one["api"]["operation"].startswith("notice.")]
        return [(one["actor"]["session"]["uid"], one["metadata"]["sequence"]) for one in operations]

    first = happens(live, "ann")
    siem.refuses = True
    assert run() != 0
    siem.refuses = False
    assert run() == 0
    assert events() == [(first, 1), (first, 2)]
    second = happens(live, "bob")
    assert [run(), run()] == [0, 0]
    assert events() == [(first, 1), (first, 2), (second, 1), (second, 2)]
    siem.shutdown()


@pytest.mark.skipif(None in MOSQUITTO, reason="mosquitto and its clients are not there")
def test_a_message_broker_gets_every_event(live: Live, valkey_url: str, tmp_path: Path) -> None:
    broker, client = MOSQUITTO
    assert broker is not None
    assert client is not None
    port = free_port()
    (tmp_path / "broker.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    options: dict[str, Any] = {"start_new_session": True, "preexec_fn": die_with_parent, "stderr": subprocess.DEVNULL}

    def subscriber(*more: str) -> list[dict[str, Any]]:
        """Read as one that the broker remembers."""
        asked = [client.replace("_pub", "_sub"), "-p", str(port), "-c", "-i", "reader", "-q", "1", "-t", "#"]
        done = subprocess.run([*asked, *more], capture_output=True, timeout=60, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    with (
        ShellCommands(tmp_path / "bin") as commands,
        killed_at_end(subprocess.Popen([broker, "-c", str(tmp_path / "broker.conf")], **options)),
    ):
        wait_until(lambda: listens(port), "the broker")
        subscriber("-E")
        environment = {
            "PATH": f"{commands.program.parent}:{os.environ['PATH']}",
            "LEDGER_REDIS": valkey_url,
            "LEDGER_DATA_DIR": str(tmp_path / "data"),
            "LEDGER_PARTITIONS": str(PARTITIONS),
        }
        first = happens(live, "ann")
        pipe = block("syncledger feed --follow --name mqtt").replace("1883", str(port))
        piping = subprocess.Popen(["bash", "-c", pipe], env=environment, **options)
        try:
            heard = subscriber("-C", "2")
            second = happens(live, "bob")
            heard += subscriber("-C", "2")
        finally:
            os.killpg(piping.pid, signal.SIGKILL)
            piping.wait(30)
    assert [(one["subject"], one["sequence"]) for one in heard] == [
        (first, "1"), (first, "2"), (second, "1"), (second, "2"),
    ]  # fmt: skip
