"""Keys: what may be in a name, where a user's keys lie, and that they share a slot."""

from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from ledger import keys
from ledger.errors import InvalidInput

USER, LIBRARY, SID = "ann", "photos", "5e" * 32

OF_A_PARTITION = [
    keys.stream(17),
    keys.session(17, SID),
    keys.checkpoints(17, SID),
    keys.marks(17, SID),
    keys.sent(17, SID),
    keys.ended(17),
    keys.activity(17),
    keys.devices(17, USER),
    keys.identity(17, USER),
    keys.credentials(17),
    keys.provider_sessions(17),
    keys.archive(17),
    keys.whole(17),
    keys.broken(17),
    keys.aside(17),
    keys.barrier(17),
    keys.pressed(17),
    keys.due(17),
    keys.ending(17),
    keys.order(17),
    keys.sids(17),
    keys.milestones(17),
]
OF_A_LIBRARY = [
    keys.catalog_meta(LIBRARY),
    keys.catalog_rows(LIBRARY, "AssetV2"),
    keys.catalog_ids(LIBRARY, "asset"),
    keys.catalog_edges(LIBRARY),
    keys.catalog_waiting(LIBRARY),
    keys.catalog_wanted(LIBRARY),
    keys.catalog_arrived(LIBRARY),
    keys.held_back(LIBRARY),
    keys.catalog_checksums(LIBRARY),
]
OF_ALL = [
    keys.meta(),
    keys.api_keys(),
    keys.api_keys_used(),
    keys.counters(),
    keys.census(),
    keys.census_devices(),
    keys.rates(),
    keys.feed_names(),
    keys.claim_conflicts(),
    keys.unknown_types(),
    keys.unfit_parents(),
    keys.watched(),
    keys.origins(),
    keys.catalog_libraries(),
    keys.identity_link("5e"),
    keys.email("5e"),
    keys.held_back_libraries(),
    keys.gone(),
    keys.console_sessions(),
    keys.console_links(),
]


def test_the_names_in_the_store_never_change() -> None:
    assert [
        b"{p17}:stream",
        b"{p17}:session:" + SID.encode(),
        b"{p17}:checkpoints:" + SID.encode(),
        b"{p17}:marks:" + SID.encode(),
        b"{p17}:sent:" + SID.encode(),
        b"{p17}:ended",
        b"{p17}:activity",
        b"{p17}:devices:ann",
        b"{p17}:identity:ann",
        b"{p17}:credentials",
        b"{p17}:provider-sessions",
        b"{p17}:archive",
        b"{p17}:whole",
        b"{p17}:broken",
        b"{p17}:aside",
        b"{p17}:barrier",
        b"{p17}:pressed",
        b"{p17}:due",
        b"{p17}:ending",
        b"{p17}:order",
        b"{p17}:sids",
        b"{p17}:milestones",
    ] == OF_A_PARTITION
    assert OF_A_LIBRARY == [
        b"{lphotos}:meta",
        b"{lphotos}:rows:AssetV2",
        b"{lphotos}:ids:asset",
        b"{lphotos}:edges",
        b"{lphotos}:waiting",
        b"{lphotos}:wanted",
        b"{lphotos}:arrived",
        b"{lphotos}:held-back",
        b"{lphotos}:checksums",
    ]
    assert OF_ALL == [
        b"ledger:meta",
        b"ledger:api-keys",
        b"ledger:api-keys-used",
        b"ledger:counters",
        b"ledger:census",
        b"ledger:census-devices",
        b"ledger:rates",
        b"ledger:feed-names",
        b"ledger:claim-conflicts",
        b"ledger:unknown-types",
        b"ledger:unfit-parents",
        b"ledger:watched",
        b"ledger:origins",
        b"ledger:libraries",
        b"ledger:identity:5e",
        b"ledger:email:5e",
        b"ledger:held-back",
        b"ledger:gone",
        b"ledger:console-sessions",
        b"ledger:console-links",
    ]


def test_every_key_function_is_told_here() -> None:
    functions = [function for _, function in inspect.getmembers(keys, inspect.isfunction)]
    made = [f for f in functions if f.__module__ == keys.__name__ and f.__annotations__["return"] == "bytes"]
    assert len(made) == len(OF_A_PARTITION + OF_A_LIBRARY + OF_ALL)


@pytest.mark.parametrize("group", [OF_A_PARTITION, OF_A_LIBRARY])
def test_all_that_is_written_together_shares_a_slot(group: list[bytes]) -> None:
    assert len({key_slot(key) for key in group}) == 1


def test_no_two_keys_of_different_things_meet() -> None:
    assert len({*OF_A_PARTITION, *OF_A_LIBRARY, *OF_ALL}) == len(OF_A_PARTITION + OF_A_LIBRARY + OF_ALL)
    assert keys.catalog_meta("p17") != keys.meta()
    assert keys.session(1, SID) != keys.session(11, SID)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), st.integers(1, 16_384))
def test_a_user_has_one_partition(user: str, partitions: int) -> None:
    partition = keys.partition_of(user, partitions)
    assert 0 <= partition < partitions
    assert keys.partition_of(user, partitions) == partition


def test_the_partition_of_a_user_never_changes() -> None:
    assert [keys.partition_of(user, 256) for user in ("ann", "bob", "user-1", "é")] == [115, 64, 20, 62]


def test_users_spread_over_the_partitions() -> None:
    counts = [0] * 256
    for number in range(25_600):
        counts[keys.partition_of(f"0194803a-1111-7000-8000-{number:012x}", 256)] += 1
    assert 50 < min(counts) <= max(counts) < 200


@pytest.mark.parametrize(
    "name", ["a", "ann@example.org", "0194803a-1111-7000-8000-000000000000", "Zoë", "日本", "a:b/c", "x" * 128]
)
def test_names_that_keys_can_carry(name: str) -> None:
    assert keys.check_name("user", name) == name


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a\tb", "a\nb", "a\x00", "a\u00a0b", "a\u2028b", "a\u200bb", "\ud800",
     "a{b", "a}b", "a|b", 'a"b', "a\\b", "x" * 129, "é" * 65],
)  # fmt: skip
def test_names_that_keys_cannot_carry_are_refused_with_their_field(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        keys.check_name("library", name)
    (problem,) = refused.value.problems
    assert problem[0] == ("library",)
    assert re.search(r"must", problem[1])
