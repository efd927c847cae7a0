"""Skip pointers: where they lie, where they lead, and how far that is from anywhere."""

from __future__ import annotations

from ledger.log import skips


def story(last: int) -> tuple[dict[int, str | None], str]:
    """Tell what each event of a session up to `last` carries, where event n lies at `n-0`; and the marks then."""
    marks, found = "", {}
    for seq in range(1, last + 1):
        found[seq] = skips.carried(marks, seq)
        marks = skips.moved(marks, seq, f"{seq}-0")
    return found, marks


def test_marks_lead_to_the_mark_before_them_of_each_of_their_spans() -> None:
    found, marks = story(2100)
    assert [seq for seq, skip in found.items() if skip] == list(range(16, 2101, 16))
    assert (found[16], found[32], found[128]) == ("1-0", "16-0", "112-0 1-0")
    assert (found[256], found[1024], found[2048]) == ("240-0 128-0", "1008-0 896-0 1-0", "2032-0 1920-0 1024-0")
    assert marks == "2096-0 2048-0 2048-0"
    assert story(1)[1] == "1-0"


def test_anything_is_near_in_steps() -> None:
    """Counted as walk.lua goes: from the head along the marks kept of the session, else along `prev`."""
    found, marks = story(10_000)

    def steps(top: int) -> int:
        at, taken, pointers = 10_000, 0, marks
        while at > top:
            there = [int(pointer.removesuffix("-0")) for pointer in (pointers or "").split(" ") if pointer]
            at = min((seq for seq in there if seq > top), default=at - 1)
            taken, pointers = taken + 1, found[at] or ""
        return taken

    assert max(map(steps, range(1, 10_001))) <= 45


def test_pointers_of_older_ledgers_fit_if_they_lead_to_marks() -> None:
    """They had a pointer in each 128th event only, to the one 128 before it."""
    marks = "240-0 128-0 1-0"
    assert skips.fits(marks, 256, "240-0 128-0")
    assert skips.fits(marks, 256, "128-0")
    assert skips.fits(marks, 250, None)
    assert skips.fits(marks, 240, None)
    for wrong in ("", "1-1", "240-0 1-1", "128-0 ", " "):
        assert not skips.fits(marks, 256, wrong), repr(wrong)
    assert not skips.fits(marks, 250, "240-0"), "it is no mark"


def test_marks_of_older_ledgers_are_carried_on() -> None:
    assert skips.carried("128-0", 144) == "128-0"
    assert skips.carried("128-0", 256) == "128-0 128-0"
    assert skips.moved("128-0", 144, "144-0") == "144-0 128-0 128-0"
    assert skips.moved("128-0", 145, "145-0") == "128-0"
