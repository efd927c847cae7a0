"""Skip pointers: where they lie, where they lead, and how far that is from anywhere."""

from __future__ import annotations

import pytest

from ledger.log.skips import KEPT, Marks


def story(last: int) -> tuple[dict[int, str | None], Marks]:
    """Tell what each event of a session up to `last` carries, where event n lies at `n-0`; and the marks then."""
    found, marks = dict[int, str | None](), Marks()
    for seq in range(1, last + 1):
        found[seq] = marks.carried(seq)
        assert marks.fit(seq, found[seq])
        marks = marks.moved(seq, f"{seq}-0")
    return found, marks


def listed(*seqs: int) -> str:
    """Write the pointers of one span."""
    return ",".join(f"{seq}-0" for seq in seqs)


def test_marks_lead_to_the_marks_before_them_of_each_of_their_spans() -> None:
    found, marks = story(2100)
    assert [seq for seq, skip in found.items() if skip] == list(range(16, 2101, 16))
    assert (found[16], found[32], found[128]) == ("1-0", "16-0", "112-0 1-0")
    assert found[256] == f"240-0 {listed(128, 1)}"
    assert found[1024] == f"1008-0 {listed(*range(896, 127, -128), 1)} 1-0"
    assert found[2048] == f"2032-0 {listed(*range(1920, 1023, -128))} {listed(1024, 1)}"
    assert marks.kept == "2096-0 2048-0 2048-0"
    assert story(1)[1].kept == "1-0"
    assert (story(15)[1].kept, story(16)[1].kept) == ("1-0", "16-0 1-0 1-0")


def test_a_mark_leads_to_eight_of_a_wide_span_at_most() -> None:
    found, _ = story(12_288)
    assert found[12_288] == f"12272-0 {listed(*range(12_160, 11_263, -128))} {listed(*range(11_264, 4_095, -1024))}"
    assert max(len(span.split(",")) for skip in found.values() if skip for span in skip.split(" ")) == KEPT


def test_anything_is_near_in_steps() -> None:
    """Counted as walk.lua goes: from the head along the marks kept of the session, else along `prev`."""
    found, marks = story(10_000)

    def steps(top: int) -> int:
        at, taken, pointers = 10_000, 0, marks.kept
        while at > top:
            there = [int(mark.removesuffix("-0")) for mark in pointers.replace(",", " ").split()]
            at = min((seq for seq in there if top < seq < at), default=at - 1)
            taken, pointers = taken + 1, found[at] or ""
        return taken

    assert max(map(steps, range(1, 10_001))) <= 26


def test_pointers_of_older_ledgers_fit_if_they_lead_to_marks() -> None:
    """They had one pointer of each span, and before that one in each 128th event only, to the one 128 before it."""
    _, marks = story(383)
    assert marks.carried(384) == f"368-0 {listed(256, 128, 1)}"
    for skip in (f"368-0 {listed(256, 128)}", "368-0 256-0", "256-0"):
        assert marks.fit(384, skip), skip
    assert marks.fit(383, None)
    assert marks.fit(368, None)
    wrong = (
        "",
        " ",
        ",",
        "1-1",
        "368-0 1-1",
        "256-0 ",
        "256-0,",
        "256-0,1-0",
        "256-0,128-0,1-1",
        "128-0",
        "368-0,256-0",
    )
    for skip in (*wrong, f"368-0 {listed(256, 128, 1)},0-1"):
        assert not marks.fit(384, skip), repr(skip)
    assert not marks.fit(383, "368-0"), "it is no mark"


def test_marks_that_older_ledgers_kept_are_carried_on() -> None:
    marks = Marks.read("128-0")
    assert (marks.carried(144), marks.carried(256)) == ("128-0", "128-0 128-0")
    assert marks.moved(144, "144-0").kept == "144-0 128-0 128-0"
    assert marks.moved(145, "145-0").kept == "128-0"


@pytest.mark.parametrize("last", [1, 15, 16, 127, 128, 300, 1023, 1024, 2500])
def test_of_marks_that_are_read_again_older_ones_are_not_known(last: int) -> None:
    _, marks = story(last)
    again = Marks.read(marks.kept)
    assert again.kept == marks.kept
    for seq in range(last + 1, last + 1500):
        skip = marks.carried(seq)
        assert again.fit(seq, skip), seq
        marks, again = marks.moved(seq, f"{seq}-0"), again.moved(seq, f"{seq}-0")
        assert again.kept == marks.kept
        assert not again.fit(seq, "0-1")
