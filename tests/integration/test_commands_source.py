"""`source check` from the command line: what it prints, and how it ends."""

from __future__ import annotations

from pathlib import Path

from projections.unknown_types import UnknownTypes
from tests.immich.database import ImmichDatabase
from tests.support.processes.commands import Commands, commands
from tests.support.stores.postgres_server import PASSWORD, PostgresServer

__all__ = ["commands"]

SCHEMA = """
CREATE TABLE gone (id uuid PRIMARY KEY, album uuid NOT NULL, owner uuid NOT NULL, at timestamptz NOT NULL);
ANALYZE gone;
"""
MAPPING = """
[[entities.AlbumDeleteV1]]
from = 'gone g'
where = 'g.owner = :library'
updated_at = 'g.at'
id = 'g.id'
data = { albumId = 'g.album' }
"""


def source(postgres: PostgresServer, url: str, folder: Path, mapping: str = MAPPING) -> dict[str, str]:
    """Settings of a source on a database that has the schema above."""
    file = folder / "mapping.toml"
    file.write_text(mapping)
    postgres.psql(SCHEMA, url.rpartition("/")[2])
    return {"source": "postgres", "postgres": url, "postgres_mapping": str(file)}


def test_a_source_that_fits(commands: Commands, postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> None:
    settings = source(postgres, postgres_url, tmp_path)
    shown = commands("source", "check", **settings)
    assert "server   PostgreSQL 1" in shown
    assert shown.splitlines()[-1] == "no problems, no warnings"
    report = commands.json("source", "check", **settings)
    assert (report["kind"], report["problems"]) == ("postgres", [])
    assert set(report["facts"]) == {"mapping", "server", "clock", "horizon"}


def test_the_version_of_a_backend_and_what_apps_ask_for_in_vain(commands: Commands, postgres_url: str) -> None:
    settings = {"source": "postgres", "postgres": postgres_url}
    with ImmichDatabase(postgres_url) as database:
        database.build("3.3")
        assert commands.json("source", "check", **settings)["facts"]["backend"] == "3.3.0"
        database.insert("version_history", version="3.4.0")
    commands.inside(lambda found: UnknownTypes(found.store).note(["MoodsV1"], found.ledger.clock()))
    says = [problem["says"] for problem in commands.json("source", "check", **settings)["problems"]]
    assert any("the backend is 3.4.0; types that came after 3.3 are left out" in text for text in says)
    assert any("Apps ask for types that this version does not know: MoodsV1" in text for text in says)


def test_what_does_not_fit_is_told_with_table_and_column(
    commands: Commands, postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    settings = source(postgres, postgres_url, tmp_path, MAPPING.replace("'g.album'", "'g.albumn'"))
    done = commands.run("source", "check", **settings)
    assert done.code == 1
    assert "problem: gone.albumn: PostgreSQL says: column g.albumn does not exist" in done.out
    assert "[entities.AlbumDeleteV1[0].data.albumId]" in done.out
    assert done.out.splitlines()[-1] == "1 problem, no warnings"
    assert PASSWORD not in done.out + done.err


def test_a_mapping_that_cannot_be_read_is_wrong_usage(
    commands: Commands, postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    settings = source(postgres, postgres_url, tmp_path, MAPPING.replace("albumId", "albumID"))
    done = commands.run("source", "check", **settings)
    assert done.code == 2
    assert "entities.AlbumDeleteV1.0.data" in done.err
    assert "albumId" in done.err


def test_a_server_that_is_down_is_told_without_its_password(commands: Commands) -> None:
    done = commands.run("source", "check", source="postgres", postgres="postgresql://u:very-secret@127.0.0.1:1/none")
    assert done.code == 1
    assert "cannot be reached" in done.out
    assert "very-secret" not in done.out + done.err


def test_the_catalog_is_told_in_the_same_form(commands: Commands) -> None:
    assert "before there is a ledger" in commands("source", "check")
    commands("session", "create", "--user", "ann", "--library", "lib")
    assert commands.json("source", "check") == {
        "kind": "catalog", "facts": {"source": "in the ledger's own store"}, "problems": [],
    }  # fmt: skip
    assert commands("source", "check").splitlines()[-1] == "no problems, no warnings"


def test_a_database_is_taken_by_an_operators_word(
    commands: Commands, postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    settings = source(postgres, postgres_url, tmp_path)
    commands("session", "create", "--user", "ann", "--library", "lib")  # begins the ledger
    assert "from now on (number 1)" in commands("source", "accept", **settings)
    assert "nothing was changed" in commands("source", "accept", **settings)
    postgres.psql("DROP TABLE gone;" + SCHEMA, postgres_url.rpartition("/")[2])
    assert "(number 2), and devices go on" in commands("source", "accept", "--same", **settings)
    postgres.psql("DROP TABLE gone;" + SCHEMA, postgres_url.rpartition("/")[2])
    assert "(number 3); devices that synced with another one start over" in commands("source", "accept", **settings)
    done = commands.run("source", "accept")
    assert done.code == 2
    assert "LEDGER_SOURCE is catalog" in done.err


def test_a_database_that_is_not_immichs_is_told_in_one_line(commands: Commands, postgres_url: str) -> None:
    for settings in ({}, {"identity": "immich"}):
        done = commands.run("source", "check", postgres=postgres_url, **settings)
        problems = [line for line in done.out.splitlines() if line.startswith(("problem", "warning"))]
        assert (done.code, len(problems)) == (1, 1), done.out
        assert "is not Immich's" in problems[0]
        assert "LEDGER_POSTGRES" in problems[0]


def test_looking_makes_no_folder(commands: Commands, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    done = commands.run("source", "check", redis="", data_dir=str(nowhere))
    assert (done.code, "before there is a ledger" in done.out) == (0, True)
    done = commands.run("signing-key", "list", redis="", data_dir=str(nowhere))
    assert (done.code, done.out, "no keys in" in done.err) == (0, "", True)
    assert not nowhere.exists()
