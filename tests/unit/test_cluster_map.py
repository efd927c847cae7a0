"""Whom of a cluster's nodes is believed, and how their answers are read."""

from __future__ import annotations

import pytest

from ledger.store.cluster_map import ClusterMap, Node, _best, read_map

INFO = b"cluster_state:ok\r\ncluster_current_epoch:7\r\n"


def said(*nodes: str, epoch: int = 1, serves: bool = True, slots: int = 16384) -> ClusterMap:
    """What a node says of a cluster of these nodes, of which the first owns all slots."""
    found = [Node(name, f"host-{name}", 6379) for name in nodes]
    owners = [found[0].address if found and slot < slots else None for slot in range(16384)]
    return ClusterMap(serves, epoch, owners, frozenset(found))


OLD, NEW = said("a", "b", epoch=1), said("b", "a", epoch=2)
CUT_OFF = said("a", "b", epoch=3, serves=False)
FOREIGN = said("x", "y", epoch=99)
RESET = said(serves=False)


@pytest.mark.parametrize(
    ("found", "known", "best"),
    [
        ([(True, OLD), (False, NEW)], "ab", NEW),
        ([(False, OLD), (True, NEW)], "ab", NEW),
        ([(True, CUT_OFF), (False, OLD)], "ab", OLD),
        ([(False, FOREIGN), (False, OLD)], "ab", OLD),
        ([(False, FOREIGN), (True, OLD)], "ab", OLD),
        ([(True, FOREIGN), (False, FOREIGN)], "ab", FOREIGN),
        ([(True, FOREIGN)], "ab", FOREIGN),
        ([(True, FOREIGN), (True, OLD)], "ab", OLD),
        ([(False, FOREIGN)], "ab", None),
        ([(True, RESET), (False, OLD)], "ab", OLD),
        ([(True, RESET)], "ab", None),
        ([(True, OLD)], "", OLD),
        ([], "ab", None),
    ],
)
def test_the_newest_word_of_the_same_cluster_counts(
    found: list[tuple[bool, ClusterMap]], known: str, best: ClusterMap | None
) -> None:
    assert _best(found, frozenset(known)) is best


def test_an_answer_is_read_with_the_host_that_was_asked_where_it_names_none() -> None:
    slots = [[0, 100, [b"10.0.0.1", 6379, b"a", []], [b"", 6380, b"b", []]], [101, 16383, [None, 6381, b"c", []]]]
    found = read_map(INFO, slots, "asked")
    assert (found.serves, found.epoch) == (True, 7)
    assert found.owners[100] == ("10.0.0.1", 6379)
    assert found.owners[101] == ("asked", 6381)
    assert {node.address for node in found.nodes} == {("10.0.0.1", 6379), ("asked", 6380), ("asked", 6381)}
