"""Files that hold secrets: made once, replaced whole, read again when they change."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from ops.opening.key_files import LARGEST_BYTES, FileSource, alone, read_or_make, read_text, replace


def upper(text: str) -> str:
    if "bad" in text:
        raise ValueError("this is no key")
    return text.upper()


def test_a_missing_file_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "key"
    made = iter("ab")
    assert [read_or_make(file, lambda: next(made)) for _ in range(3)] == ["a", "a", "a"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert os.listdir(file.parent) == ["key"]


def test_who_comes_later_takes_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "key"

    def make() -> str:
        file.write_text("theirs")  # somebody else starts in this moment
        return "ours"

    assert read_or_make(file, make) == "theirs"
    assert os.listdir(tmp_path) == ["key"]


def test_a_replaced_file_is_never_seen_in_part(tmp_path: Path) -> None:
    file = tmp_path / "key"
    texts = ["x" * 100_000, "y" * 200_000]
    replace(file, texts[0])
    over, seen = threading.Event(), set()

    def look() -> None:
        while not over.is_set():
            seen.add(read_text(file))

    looking = threading.Thread(target=look)
    looking.start()
    for number in range(50):
        replace(file, texts[number % 2])
    over.set()
    looking.join()
    assert seen <= set(texts)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["key"]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("one\n")
    source = FileSource(file, upper)
    assert source() == "ONE"
    replace(file, "two")
    assert source() == "TWO"
    file.write_text("three, in its place")
    assert source() == "THREE, IN ITS PLACE"


def test_a_file_that_is_not_good_changes_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "key"
    file.write_text("one")
    source = FileSource(file, upper)
    for spoil, told in ((lambda: file.write_text("bad secret"), "this is no key"), (file.unlink, "No such file")):
        caplog.clear()
        spoil()
        assert [source() for _ in range(3)] == ["ONE", "ONE", "ONE"]
        assert [told in record.getMessage() for record in caplog.records] == [True]
        assert "secret" not in caplog.text
    file.write_text("two")
    assert source() == "TWO"


@pytest.mark.parametrize("data", [b"", b" \n", b"\xff\xfe", b"x" * (LARGEST_BYTES + 1)])
def test_what_is_no_text_is_refused_without_showing_it(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(data)
    with pytest.raises(ValueError, match="is not a text file") as caught:
        FileSource(file, upper)
    assert len(str(caught.value)) < 300


def test_changes_wait_for_each_other(tmp_path: Path) -> None:
    steps: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with alone(tmp_path):
            inside.set()
            leave.wait(10)
            steps.append("first")

    def second() -> None:
        inside.wait(10)
        with alone(tmp_path):
            steps.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    threads[1].join(0.2)
    assert threads[1].is_alive()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert steps == ["first", "second"]
