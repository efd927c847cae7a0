"""What Immich's checkpoints say of where a device stands here."""

from __future__ import annotations

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st

from ledger.acks import completed_types
from ledger.commands import AdoptCheckpoints, ClearCheckpoints, CreateSession
from ledger.entity_types import COMPLETE, ENTITY_TYPES, mask_of
from ledger.events import IMMICH
from ledger.positions import Position
from projections.entities.forms import BACKFILL
from projections.entities.registry import ROWS, upserts_of
from projections.immich.adoption import (
    GROUPS,
    Adoption,
    CheckpointRow,
    Group,
    Look,
    Shares,
    adopt,
    gone,
    moved_on,
    named,
)
from tests.support.ledger.given import NOW, cleared, given, offered, then, when

BEGAN = NOW - 86_400_000_000
ALONE = Shares()
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"


def uuid7(second: int, rest: int = 0) -> str:
    """Make the id of a row that was written so many seconds after the session began."""
    digits = f"{BEGAN // 1000 + second * 1000:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-{rest:012x}"


def us(second: int) -> int:
    return BEGAN + second * 1_000_000


def adopted(acks: dict[str, str], shares: Shares = ALONE, horizon_us: int = NOW) -> Adoption:
    """Adopt acks by their types, all written now."""
    made = adopt([CheckpointRow(name, f"{name}|{rest}", NOW) for name, rest in acks.items()], shares, BEGAN, horizon_us)
    assert made is not None
    return made


def places(made: Adoption) -> dict[str, tuple[int, str]]:
    return {ack.type: (ack.position.at_us, ack.position.id) for ack in made.command.positions}


def at(second: int) -> tuple[int, str]:
    return us(second), uuid7(second)


def in_share(share: int, row: str) -> tuple[int, str]:
    return us(share), f"{uuid7(share)}:{row}"


def test_what_is_its_own_stands_where_it_stands_there() -> None:
    made = adopted({"AssetV2": uuid7(50), "AssetDeleteV1": uuid7(70), "UserV1": uuid7(60), COMPLETE: uuid7(80)})
    assert places(made) == {
        "AssetV2": at(50),
        "AssetDeleteV1": at(70),
        "UserV1": (us(59), ""),
        "UserDeleteV1": (us(59), ""),
        COMPLETE: (us(80), made.command.positions[-1].position.id),
    }
    assert completed_types(made.command.positions[-1].position.id) & mask_of(["PersonDeleteV1", "AssetV1"])
    assert (made.command.source, made.command.since_us, made.command.as_of_us) == (IMMICH, BEGAN, NOW)
    assert made.command.types == mask_of(["AssetV2", "AssetDeleteV1", "UserV1", COMPLETE])
    assert made.anew == {}


def test_without_checkpoints_there_is_nothing_to_adopt() -> None:
    assert adopt([], Shares(), BEGAN, NOW) is None


def test_the_groups_are_all_that_has_backfill() -> None:
    shared = {row.name: row.form for row in ROWS if row.letter == BACKFILL}
    assert {group.backfill for group in GROUPS} == set(shared)
    for group in GROUPS:
        assert {row.form for row in ROWS if row.name in group.types} == {shared[group.backfill]}
        assert group.shares == ("partners" if group.backfill.startswith("Partner") else "albums")
        version = group.main[-2:]
        rows = {row.name for row in ROWS if row.form is shared[group.backfill] and not row.is_delete}
        assert set(group.types) == {name for name in rows if name.endswith(version)}


@pytest.mark.parametrize("group", GROUPS)
def test_what_is_shared_begins_anew_without_its_main_type(group: Group) -> None:
    others = [name for name in group.types if name != group.main]
    made = adopted({name: f"{uuid7(5)}|complete" for name in others} | {"AssetV2": uuid7(9)})
    assert set(places(made)) == {"AssetV2", "AssetDeleteV1"}
    assert made.anew == dict.fromkeys(others, "without_main")


def test_shares_up_to_the_newest_row_are_done_and_the_next_is_up_to_it() -> None:
    shares = Shares(partners=tuple(uuid7(second) for second in (40, 10, 60, 20)))
    made = adopted({"PartnerAssetV2": uuid7(30), "PartnerAssetBackfillV2": f"{uuid7(60)}|complete"}, shares)
    assert places(made)["PartnerAssetV2"] == at(30)
    assert places(made)["PartnerAssetBackfillV2"] == in_share(40, uuid7(30)), "the one of second 60 begins anew"
    made = adopted({"PartnerAssetV2": uuid7(50), "PartnerAssetBackfillV2": f"{uuid7(40)}|complete"}, shares)
    assert places(made)["PartnerAssetBackfillV2"] == in_share(40, LAST), "the one of second 60 is new to Immich too"
    assert places(made)["PartnerAssetV2"] == at(50)


def test_a_share_in_the_middle_of_its_backfill_goes_on_there() -> None:
    shares = Shares(partners=(uuid7(10), uuid7(40)))
    made = adopted({"PartnerAssetV2": uuid7(30), "PartnerAssetBackfillV2": f"{uuid7(40)}|{uuid7(7)}"}, shares)
    assert places(made)["PartnerAssetBackfillV2"] == in_share(40, uuid7(7))
    made = adopted({"PartnerAssetV2": uuid7(30), "PartnerAssetBackfillV2": uuid7(40)}, shares)
    assert places(made)["PartnerAssetBackfillV2"] == in_share(10, LAST)


def test_rows_behind_a_share_that_was_committed_late_come_again() -> None:
    shares = Shares(albums=(uuid7(10), uuid7(20)))
    acks = {
        "AlbumAssetCreateV2": uuid7(30),
        "AlbumAssetUpdateV2": uuid7(35),
        "AlbumAssetBackfillV2": f"{uuid7(10)}|complete",
    }
    assert places(adopted(acks, shares)) == {
        "AlbumAssetCreateV2": at(20),
        "AlbumAssetUpdateV2": at(20),
        "AlbumAssetBackfillV2": in_share(10, LAST),
    }


def test_an_update_is_never_ahead_of_its_main_type() -> None:
    acks = {"AlbumAssetCreateV2": uuid7(30), "AlbumAssetUpdateV2": uuid7(50)}
    assert places(adopted(acks)) == {"AlbumAssetCreateV2": at(30), "AlbumAssetUpdateV2": at(30)}
    acks["AlbumAssetUpdateV2"] = uuid7(20)
    assert places(adopted(acks))["AlbumAssetUpdateV2"] == at(20)


def test_no_rows_are_put_above_the_horizon_and_no_delete_below_its_place() -> None:
    shares = Shares(partners=(uuid7(10), uuid7(60)))
    made = adopted(
        {
            "AssetV2": uuid7(50), "AssetDeleteV1": uuid7(55), "PartnerAssetV2": uuid7(50), COMPLETE: uuid7(70),
            "PartnerAssetBackfillV2": f"{uuid7(60)}|complete",
        },
        shares,
        horizon_us=us(40),
    )  # fmt: skip
    found = places(made)
    assert found["AssetV2"][0] == found["PartnerAssetV2"][0] == found[COMPLETE][0] == us(40)
    assert Position(*found["AssetV2"]).key < Position(*at(40)).key
    assert found["AssetDeleteV1"] == at(55)
    assert found["PartnerAssetBackfillV2"] == in_share(10, LAST)


def test_a_delete_type_is_not_lower_than_what_it_deletes() -> None:
    assert places(adopted({"AlbumV2": uuid7(50)}))["AlbumDeleteV1"] == at(50)
    assert places(adopted({"AlbumV2": uuid7(50), "AlbumDeleteV1": uuid7(20)}))["AlbumDeleteV1"] == at(50)
    made = adopted({"AlbumV2": uuid7(50), "AlbumV1": uuid7(10), "AlbumDeleteV1": "gone"})
    assert places(made) == {}
    assert made.anew == {"AlbumV1": "with_deletes", "AlbumV2": "with_deletes", "AlbumDeleteV1": "unreadable"}


@pytest.mark.parametrize(
    "rest",
    [
        "", "complete", "not-a-uuid", uuid7(5) + "0", "01a0c450-6c28-4bf9-9dd5-d31d3f6732e5",
        "ffffffff-ffff-7fff-8000-000000000000", "\0",
    ],
)  # fmt: skip
def test_what_immich_never_sent_begins_anew_and_is_named(rest: str) -> None:
    made = adopted({"PersonV1": rest, "AssetExifV1": uuid7(9)})
    assert places(made) == {"AssetExifV1": at(9)}
    assert dict(made.anew) == {"PersonV1": "unreadable"}
    assert list(named(made.anew)) == ["PersonV1: its ack is not as Immich writes it"]
    assert made.command.types == mask_of(["PersonV1", "AssetExifV1"])


def test_an_ack_of_another_type_or_an_unknown_type_is_named_too() -> None:
    rows = [CheckpointRow("AssetV2", f"AlbumV2|{uuid7(5)}", NOW), CheckpointRow("AssetV9", f"AssetV9|{uuid7(5)}", NOW)]
    made = adopt([*rows, CheckpointRow("SyncAckV1", "SyncAckV1|x", NOW)], Shares(), BEGAN, NOW)
    assert made is not None
    assert (places(made), dict(made.anew)) == ({}, {"AssetV2": "unreadable", "AssetV9": "unknown_type"})


parts = st.sampled_from([uuid7(second, rest) for second in (1, 2, 3, 4) for rest in (0, 7)]) | st.text(max_size=60)
rests = parts | st.builds("{}|{}".format, parts, parts | st.just("complete"))
tables = st.dictionaries(st.sampled_from(ENTITY_TYPES) | st.text(max_size=20), rests, max_size=40)
share_ids = st.lists(st.sampled_from([uuid7(second) for second in range(6)]), unique=True).map(tuple)


@forall(tables, share_ids, share_ids, st.integers(us(0), us(6)))
def test_whatever_immich_holds_a_session_begins_and_no_delete_is_lower_than_its_rows(
    acks: dict[str, str], partners: tuple[str, ...], albums: tuple[str, ...], horizon_us: int
) -> None:
    rows = [CheckpointRow(name, f"{name}|{rest}", NOW) for name, rest in acks.items()]
    made = adopt(rows, Shares(partners, albums), BEGAN, horizon_us)
    assert (made is None) == (not acks)
    session = given(*when(None, CreateSession("ann", "photos", adopted=made.command if made else None)))
    held = {name: checkpoint.position for name, checkpoint in session.checkpoints.items()}
    for row in ROWS:
        for name in upserts_of(row.name) if row.is_delete else ():
            if name in held:
                assert held[row.name].key >= held[name].key
    for name in held:
        assert name in acks or any(name == row.name and row.is_delete for row in ROWS)
    for name, position in held.items():
        if not any(name == row.name and row.is_delete for row in ROWS):
            assert position.at_us <= max(horizon_us + 1000, us(4)) if ":" in position.id else horizon_us + 1000
    if made is not None:
        assert set(made.anew) <= set(acks)


# There and back


def test_a_device_moved_on_when_immich_has_a_newer_checkpoint() -> None:
    state = given(*when(None, CreateSession("ann", "photos", adopted=adopted({"AssetV2": uuid7(5)}).command)))
    assert not moved_on(state, Look(NOW, frozenset({"AssetV2"})))
    assert moved_on(state, Look(NOW + 1, frozenset({"AssetV2"})))
    assert moved_on(given(), Look(1, frozenset({"AssetV2"}))), "a session that began here"
    assert not moved_on(given(), Look(0, frozenset()))


def test_what_immich_has_cleared_is_cleared_here_with_what_goes_by_it() -> None:
    shares = Shares(albums=(uuid7(1),))
    acks = {
        "AlbumAssetCreateV2": uuid7(5), "AlbumAssetBackfillV2": f"{uuid7(1)}|complete", "AssetV2": uuid7(5),
        "AlbumDeleteV1": uuid7(4), "AlbumV2": uuid7(5),
    }  # fmt: skip
    state = given(*when(None, CreateSession("ann", "photos", adopted=adopted(acks, shares).command)))
    left = frozenset(acks)
    assert gone(state, Look(NOW, left)) is None
    command = gone(state, Look(NOW, left - {"AlbumAssetCreateV2"}))
    assert command == ClearCheckpoints(
        mask_of(["AlbumAssetCreateV2", "AlbumAssetUpdateV2", "AlbumAssetBackfillV2"]), IMMICH
    )
    after = then(state, *when(state, command))
    assert gone(after, Look(NOW, left - {"AlbumAssetCreateV2"})) is None, "once"
    command = gone(state, Look(NOW, left - {"AlbumDeleteV1"}))
    assert command == ClearCheckpoints(mask_of(["AlbumDeleteV1", "AlbumV2", "AlbumV1"]), IMMICH)
    assert gone(state, Look(0, frozenset())) == ClearCheckpoints(None, IMMICH), "it started over there"
    assert gone(given(), Look(0, frozenset())) is None


def test_a_device_that_began_anew_here_is_put_no_higher_than_it_stands_here() -> None:
    first = adopted({"AssetV2": uuid7(5), "AlbumV2": uuid7(5), "AlbumDeleteV1": uuid7(5)})
    state = given(*when(None, CreateSession("ann", "photos", adopted=first.command)))
    state = then(state, offered("AssetV2", "AlbumV2"), cleared(wiped=True, reset=True), offered("AssetV2"))
    state = then(state, *when(state, AdoptCheckpoints(first.command.positions[:1], IMMICH, BEGAN, NOW + 1)))
    assert state.adopted is not None
    assert state.adopted.restarted
    rows = [CheckpointRow(name, f"{name}|{uuid7(9)}", NOW + 9) for name in ("AssetV2", "AlbumV2", "AlbumDeleteV1")]
    again = adopt(rows, Shares(), BEGAN, NOW, state=state)
    assert again is not None
    assert places(again) == {"AssetV2": at(5), "AssetDeleteV1": at(5), "AlbumDeleteV1": at(9)}
    assert dict(again.anew) == {"AlbumV2": "restarted_here"}
    fresh = then(state, *when(state, ClearCheckpoints(None, IMMICH)))
    assert fresh.adopted is not None
    assert not fresh.adopted.restarted, "Immich sends it everything too"
