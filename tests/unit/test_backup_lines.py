"""Lines of a backup are never longer than those who read them take."""

from __future__ import annotations

from projections.backup.dump import ROWS
from projections.backup.parts import MAX_LINE_BYTES
from projections.entities import entity


def test_a_line_of_the_longest_rows_can_be_read_back() -> None:
    in_base64 = (entity.MAX_LINE_BYTES + 4096) * 4 // 3
    assert ROWS * in_base64 < MAX_LINE_BYTES
