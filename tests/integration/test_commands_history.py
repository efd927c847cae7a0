"""History, state and explanation from the command line, also of what lies in the archive."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from endpoints.http.errors import answer_to
from ledger import keys
from ledger.admission import Caller
from ledger.commands import EndSession, OfferStream, RecordAcks, RequestReset
from ledger.entity_types import COMPLETE, mask_of
from ledger.personal import plain
from ops.opening.ledger import Opened
from ops.opening.services import ArchiveLook
from projections.accounts.tokens import read_token
from projections.archive.errors import ArchiveNotGiven
from tests.support.ledger.given import ack
from tests.support.ledger.ledgers import sid_of
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]

ROUNDS = 30


def sign_in(commands: Commands, user: str = "ann") -> Caller:
    """Sign a device in by the command."""
    caller = read_token(commands("session", "create", "--user", user, "--library", "lib").strip())
    assert caller is not None
    return caller


@pytest.fixture
def phones(commands: Commands) -> list[Caller]:
    """Two devices of ann that took turns, one of them signed out since."""
    first, second = sign_in(commands), sign_in(commands)
    types = mask_of(["AssetV2", COMPLETE])

    async def live(found: Opened) -> None:
        snapshot_us = await found.catalog.horizon("lib")
        for number in range(ROUNDS):
            for phone in (first, second):
                await found.ledger.execute("ann", phone.sid, OfferStream(snapshot_us + 10 + number, types))
                acked = RecordAcks((ack("AssetV2", snapshot_us + number),))
                await found.ledger.execute("ann", phone.sid, acked)
        await found.ledger.execute("ann", second.sid, EndSession("logout", by=plain("ann")))
        await found.ledger.execute("ann", first.sid, RequestReset(on=True, by=plain("ann")))

    commands.inside(live)
    return [first, second]


def events(commands: Commands, *args: str, **settings: str) -> list[dict[str, object]]:
    """Run `history --json` and return its lines."""
    return [json.loads(line) for line in commands("history", *args, "--json", **settings).splitlines()]


def test_history_from_either_end_and_of_a_user(commands: Commands, phones: list[Caller]) -> None:
    first, second = phones
    newest_first = events(commands, first.sid)
    assert [event["seq"] for event in newest_first] == list(range(2 * ROUNDS + 2, 0, -1))
    assert events(commands, first.sid, "--user", "ann", "--forward") == newest_first[::-1]
    whole = events(commands, "--user", "ann", "--forward")
    assert len(whole) == 2 * (2 * ROUNDS + 2)
    assert [event["at"] for event in whole] == sorted(str(event["at"]) for event in whole)
    assert events(commands, "--user", "ann") == whole[::-1]
    assert [event["session"] for event in events(commands, "--user", "ann", "--event", "session_ended")] == [second.sid]
    assert commands.run("history", "--user", "bob").code == 1
    shown = commands("history", "--user", "ann", "--event", "session_created", "--forward").splitlines()
    assert [line.split()[0] for line in shown] == [first.sid[:12], second.sid[:12]]
    ended = commands("history", second.sid).splitlines()[0]
    assert "session_ended" in ended
    assert '"reason":"logout"' in ended


def check_as_told(lines: str) -> subprocess.CompletedProcess[str]:
    """Check a history as the documentation says to, with nothing of ours."""
    page = Path(__file__).parents[2].joinpath("ops/docs/auditing.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```python\n(import base64, hashlib, json, sys\n.*?)```", page, re.DOTALL)
    alone = [sys.executable, "-I", "-S", "-c", recipe]
    return subprocess.run(alone, input=lines, capture_output=True, text=True, timeout=20, check=False)


def test_anybody_can_check_a_history(commands: Commands, phones: list[Caller], tmp_path: Path) -> None:
    first = phones[0]
    lines = commands("history", first.sid, "--forward", "--json")
    last = commands.json("state", first.sid)["event"]["hash"]
    assert check_as_told(lines).stdout == last + "\n"
    place = f"file://{tmp_path}/archive"
    commands("archive", "--max-events", "9", "--segment-events", "25", archive=place)
    assert commands("history", first.sid, "--forward", "--json", archive=place) == lines
    parsed = [json.loads(line) for line in lines.splitlines()]
    raw = base64.b64decode(parsed[9]["raw"])
    changes = ({"raw": base64.b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).decode()}, {"atUs": 1}, {"seq": 11})
    for change in (*changes, {"schema": 1}, {"session": phones[1].sid}, {"hash": parsed[8]["hash"]}):
        forged = [event if number != 9 else {**event, **change} for number, event in enumerate(parsed)]
        done = check_as_told("".join(json.dumps(event) + "\n" for event in forged))
        assert (done.returncode, done.stderr.startswith("event ")) == (1, True), change
    cut = "".join(json.dumps(event) + "\n" for event in parsed[:5] + parsed[6:])
    assert check_as_told(cut).stderr == "event 7 does not follow the one before it\n"


def test_state_then_and_now(commands: Commands, phones: list[Caller]) -> None:
    first, second = phones
    told = events(commands, second.sid, "--forward")
    created, last = str(told[0]["at"]), str(told[-1]["at"])
    assert commands.json("state", second.sid, "--at", created)["checkpoints"] == {}
    middle = commands.json("state", second.sid, "--at", str(told[ROUNDS]["at"]))
    assert (middle["status"], middle["event"]["hash"]) == ("living", told[ROUNDS]["hash"])
    ended = commands.json("state", second.sid, "--user", "ann")
    assert (ended["status"], ended["ended"]) == ("ended", {"reason": "logout", "by": "ann", "at": last})
    shown = commands("state", first.sid)
    for said in (first.sid, "living", "ann", "yes, it was asked to", "AssetV2|"):
        assert said in shown
    assert "ended: logout, by ann" in commands("state", second.sid)


def test_why_in_words(commands: Commands, phones: list[Caller]) -> None:
    first, second = phones
    explained = commands.json("explain", second.sid)
    assert explained["findings"][0]["code"] == "ended_logout"
    explained = commands.json("explain", first.sid)
    empty, reset = explained["findings"][:2]
    assert empty["code"] == "library_unknown", "nobody ever wrote to it"
    assert reset["code"] in ("reset_waiting", "reset_ignored")
    assert explained["next"]["sends"] == "reset"
    shown = commands("explain", first.sid, "--user", "ann")
    answers = [line.split()[1] for line in shown.splitlines() if line.startswith(("stops  ", "hinders ", "note  "))]
    assert answers[-1] == explained["findings"][0]["code"] + ":", "what weighs most stays on the screen"
    assert shown.splitlines()[-1].startswith("Next it is sent: ")
    assert max(map(len, shown.splitlines())) <= 80
    for said in ("Next it is sent: Only SyncResetV1", "AssetV2", "leaves no trace"):
        assert said in shown


def test_what_cannot_be_told(commands: Commands, phones: list[Caller]) -> None:
    first = phones[0]
    created = str(events(commands, first.sid)[-1]["at"])
    for args, code, told in (
        (("history",), 2, "name a SESSION"),
        (("history", "x"), 2, "64 hexadecimal digits"),
        (("history", first.sid, "--from", "yesterday"), 2, "ISO 8601"),
        (("history", "--user", "a b"), 2, "spaces"),
        (("history", sid_of("unknown")), 1, "No session"),
        (("state", sid_of("unknown")), 1, "No session"),
        (("state", first.sid, "--at", "2020-01-01T00:00:00Z"), 1, f"it was created at {created}"),
        (("state", first.sid, "--at", "2020"), 2, "ISO 8601"),
        (("explain", sid_of("unknown")), 1, "No session"),
        (("explain",), 2, "SESSION"),
    ):
        done = commands.run(*args)
        assert (done.code, told in done.err, done.out) == (code, True, ""), (args, done)


def test_that_nothing_happened_is_said(commands: Commands, phones: list[Caller]) -> None:
    done = commands.run("history", phones[0].sid, "--from", "2100-01-01T00:00:00Z")
    assert (done.code, done.out, done.err) == (0, "", "there are no such events\n")
    for args in (("--user", "nobody"), ("--user", "nobody", "--json")):
        done = commands.run("history", *args)
        assert (done.code, done.out, "nobody has no session here" in done.err) == (1, "", True), args


def test_the_archive_answers_as_the_stream_did(commands: Commands, phones: list[Caller], tmp_path: Path) -> None:
    archive = f"file://{tmp_path}/archive"
    questions = [
        *(("history", phone.sid, *order) for phone in phones for order in ((), ("--forward",))),
        ("history", "--user", "ann"),
        ("history", "--user", "ann", "--forward"),
        *(("history", phone.sid, "--event", "session_created") for phone in phones),
    ]
    told = events(commands, phones[1].sid, "--forward")
    questions += [("state", phone.sid, "--at", str(event["at"])) for phone in phones for event in told[::9]]
    before = [commands(*question, "--json") for question in questions]
    explained = commands.json("explain", phones[0].sid)
    commands("archive", "--hot", "0s", "--segment-events", "25", archive=archive)

    async def count(found: Opened) -> int:
        partition = found.ledger.partition_of("ann")
        return int(await found.store.command("XLEN", b"{p%d}:stream" % partition, key=b"{p%d}:stream" % partition))

    assert commands.inside(count) < 10
    assert [commands(*question, "--json", archive=archive) for question in questions] == before
    again = commands.json("explain", phones[0].sid, archive=archive)
    assert [finding["code"] for finding in again["findings"]] == [finding["code"] for finding in explained["findings"]]
    assert (again["types"], again["eventsLookedAt"]) == (explained["types"], explained["eventsLookedAt"])


@pytest.mark.parametrize("hot", [0, 10])
def test_an_archive_that_is_not_given_or_another_one_is_said(
    commands: Commands, phones: list[Caller], tmp_path: Path, hot: int
) -> None:
    archive = f"file://{tmp_path}/archive"
    commands("archive", "--max-events", str(hot), archive=archive)
    phone, ended = phones[0].sid, phones[1].sid
    reading = [
        ("history", phone),
        ("history", phone, "--json"),
        ("history", phone, "--forward"),
        ("history", "--user", "ann", "--json"),
        ("history", ended),
        ("state", phone),
        ("verify",),
        ("verify", "--repair"),
        ("rebuild", "--all"),
        ("rebuild", "--session", phone),
        ("backup", "--to", f"file://{tmp_path}/backup"),
        *([] if hot else [("explain", phone)]),
    ]
    before = [commands("verify", "--json", archive=archive), commands("history", phone, archive=archive)]
    for question in reading:
        done = commands.run(*question)
        assert (done.code, "set LEDGER_ARCHIVE" in done.err) == (2, True), (question, done)
    if hot:
        assert "sync_reset_requested" in commands.run("history", phone).out, "what is here is shown"
        assert commands("history", phone, "--from", "2100-01-01T00:00:00Z") == "", "this is not in the archive"

    (tmp_path / "empty").mkdir()
    other = Commands(commands.environ["LEDGER_REDIS"], tmp_path, commands._monkeypatch, commands._capsys)
    for place in ("empty", "absent", "other"):
        for question in (*reading, ("archive", "--max-events", "0")):
            done = other.run(*question, archive=f"file://{tmp_path}/{place}")
            assert (done.code, "it is another place" in done.err) == (2, True), (place, question, done)
        assert not list((tmp_path / place).glob("p*")), "nothing is archived there"

    async def looked(found: Opened) -> str:
        return await ArchiveLook(found).wrong()

    assert "set LEDGER_ARCHIVE" in commands.inside(looked)
    assert answer_to(ArchiveNotGiven(), "GET", "/")[0] == 503
    assert [commands("verify", "--json", archive=archive), commands("history", phone, archive=archive)] == before


def test_of_a_damaged_history_what_can_be_read_is_printed(commands: Commands, phones: list[Caller]) -> None:
    first, _ = phones
    whole = events(commands, first.sid)

    async def lose_one(found: Opened) -> None:
        partition = found.ledger.partition_of("ann")
        page = await found.past.page(partition, first.sid, top_seq=20, count=1)
        name = keys.stream(partition)
        await found.store.command("XDEL", name, page.entries[0].id, key=name)

    commands.inside(lose_one)
    done = commands.run("history", first.sid, "--json")
    assert done.code == 1
    assert [json.loads(line) for line in done.out.splitlines()] == [
        {**event, "previousHash": event["previousHash"] if event["seq"] != 21 else None}
        for event in whole
        if int(str(event["seq"])) > 20
    ]
    assert "is missing, though it was never archived" in done.err
    done = commands.run("history", "--user", "ann", "--json")
    assert (done.code, f"session {first.sid}: event " in done.err) == (1, True)
    told = [json.loads(line) for line in done.out.splitlines()]
    assert sum(event["session"] != first.sid for event in told) == 2 * ROUNDS + 2
    explained = commands.run("explain", first.sid)
    assert (explained.code, "is missing, though it was never archived" in " ".join(explained.out.split())) == (0, True)
