"""Keys from the command line: those of scripts, those that sign tokens, those that encrypt credentials."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest

from ops.opening.ledger import CREDENTIAL_KEY_FILE, TOKEN_KEY_FILE, Opened, keyring_source, open_credentials
from projections.accounts.credentials import Cipher, CredentialUnreadable
from projections.accounts.tokens import TokenIssuer, make_key, read_keyring
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]


def kids(commands: Commands) -> list[str]:
    """List the ids of the signing keys."""
    return [key["kid"] for key in commands.json("signing-key", "list")]


def test_that_there_are_no_keys_is_told_with_what_makes_one(commands: Commands) -> None:
    commands("store", "begin")
    done = commands.run("key", "list")
    assert (done.code, done.out, "syncledger key create" in done.err) == (0, "", True)
    assert commands.json("key", "list") == []


def test_a_key_shows_when_it_was_last_used(commands: Commands) -> None:
    key = commands("key", "create", "--scope", "metrics.read", "--name", "of Prometheus").strip()
    assert "never" in commands("key", "list")
    assert commands.json("key", "list")[0]["lastUsedAt"] is None

    async def use(found: Opened) -> None:
        assert await found.api_keys.find(key)
        while not await found.api_keys.used_ms():
            pass

    commands.inside(use)
    (listed,) = commands.json("key", "list")
    assert (listed["name"], listed["scopes"]) == ("of Prometheus", ["metrics.read"])
    assert listed["createdAt"][:10] <= listed["lastUsedAt"][:10]
    shown = commands("key", "list")
    assert "never" not in shown
    assert key not in shown
    assert listed["lastUsedAt"][:10] in shown
    commands("key", "revoke", listed["id"])
    assert commands.inside(lambda found: found.api_keys.used_ms()) == {}


def test_a_key_of_one_library_is_listed_with_it(commands: Commands) -> None:
    commands("key", "create", "--scope", "entities.write", "--library", "photos")
    (listed,) = commands.json("key", "list")
    assert (listed["scopes"], listed["library"]) == (["entities.write"], "photos")
    assert "entities.write  photos" in commands("key", "list")
    done = commands.run("key", "create", "--scope", "metrics.read", "--library", "photos")
    assert (done.code, "metrics.read cannot be bound to a library" in done.err) == (2, True)


def test_a_rotated_key_signs_and_earlier_ones_verify(commands: Commands) -> None:
    tokens = TokenIssuer(keyring_source(commands.settings))
    old = tokens.issue("ann", 1)
    (first,) = kids(commands)
    second = commands("signing-key", "rotate").strip()
    assert kids(commands) == [second, first]
    assert [key["use"] for key in commands.json("signing-key", "list")] == ["signs", "verifies"]
    new = tokens.issue("ann", 1)  # by a service that was running all the time
    assert [key["kid"] for key in tokens.public_keys()["keys"]] == [second, first]
    assert tokens.is_ours(old.token)
    assert tokens.is_ours(new.token)
    third = commands("signing-key", "rotate", "--keep", "0").strip()
    assert kids(commands) == [third]
    assert not tokens.is_ours(old.token)
    assert not tokens.is_ours(new.token)
    file = commands.data_dir / TOKEN_KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in commands.data_dir.iterdir()] == [TOKEN_KEY_FILE]


def test_no_more_keys_are_kept_than_asked(commands: Commands) -> None:
    made = [commands("signing-key", "rotate").strip() for _ in range(7)]
    assert kids(commands) == made[::-1][:5]
    made.append(commands("signing-key", "rotate", "--keep", "2").strip())
    assert kids(commands) == made[::-1][:3]


def test_keys_are_made_on_the_first_rotation(commands: Commands) -> None:
    assert not commands.data_dir.exists()
    new = commands("signing-key", "rotate").strip()
    assert kids(commands)[0] == new


@pytest.mark.parametrize("way", ["environment", "file"])
def test_keys_from_elsewhere_are_not_rotated_here(commands: Commands, tmp_path: Path, way: str) -> None:
    key, file = make_key(), tmp_path / "keys.json"
    file.write_text(key)
    given = {"token_key": key} if way == "environment" else {"token_key_file": str(file)}
    done = commands.run("signing-key", "rotate", **given)
    assert done.code == 1
    assert ("LEDGER_TOKEN_KEY_FILE" if way == "file" else "LEDGER_TOKEN_KEY,") in done.err
    assert json.loads(key)["d"] not in done.err
    assert file.read_text() == key
    assert not commands.data_dir.exists()
    (listed,) = commands.json("signing-key", "list", **given)
    assert listed["kid"] == read_keyring(key)[0].kid


def test_a_spoilt_key_file_is_named_and_left_alone(commands: Commands) -> None:
    commands("signing-key", "rotate")
    file = commands.data_dir / TOKEN_KEY_FILE
    file.write_text('{"kty": "secret"}')
    for args in (("rotate",), ("list",)):
        done = commands.run("signing-key", *args)
        assert done.code in (1, 2)
        assert str(file) in done.err
        assert "secret" not in done.err
    assert file.read_text() == '{"kty": "secret"}'


def test_a_key_file_named_by_the_settings_is_read_again(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(make_key())
    commands.environ["LEDGER_TOKEN_KEY_FILE"] = str(file)
    source = keyring_source(commands.settings)
    (before,) = source()
    other = make_key()
    file.write_text(json.dumps({"keys": [json.loads(other), before.as_dict(private=True)]}))
    assert [key.kid for key in source()] == [read_keyring(other)[0].kid, before.kid]


def test_many_services_that_start_together_share_one_key(commands: Commands) -> None:
    found: list[str | None] = []
    threads = [
        threading.Thread(target=lambda: found.append(keyring_source(commands.settings)()[0].kid)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_credentials_are_encrypted_anew(commands: Commands) -> None:
    sids = [commands.json("session", "create", "--user", "ann", "--library", "lib")["session"] for _ in range(5)]
    old, new = Cipher.make_key(), Cipher.make_key()

    async def hold(found: Opened) -> None:
        for number, sid in enumerate(sids):
            assert await open_credentials(found, commands.settings).hold("ann", sid, f"secret {number}")

    async def read(found: Opened) -> list[str | None]:
        return [await open_credentials(found, commands.settings).read("ann", sid) for sid in sids]

    commands.environ["LEDGER_CREDENTIAL_KEY"] = old
    commands.inside(hold)
    commands.environ["LEDGER_CREDENTIAL_KEY"] = f"{new},{old}"
    assert commands("credentials", "rekey") == "5 encrypted with the newest key\n"
    assert commands("credentials", "rekey") == "0 encrypted with the newest key\n"
    commands.environ["LEDGER_CREDENTIAL_KEY"] = new
    assert commands.inside(read) == [f"secret {number}" for number in range(5)]
    commands.environ["LEDGER_CREDENTIAL_KEY"] = old
    with pytest.raises(CredentialUnreadable):
        commands.inside(read)
    done = commands.run("credentials", "rekey")
    assert (done.code, "LEDGER_CREDENTIAL_KEY" in done.err, "secret" in done.err) == (1, True, False)


def test_a_key_for_credentials_is_made_in_the_data_folder(commands: Commands) -> None:
    commands("store", "begin")
    assert commands("credentials", "rekey") == "0 encrypted with the newest key\n"
    file = commands.data_dir / CREDENTIAL_KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = file.read_text()
    commands("credentials", "rekey")
    assert file.read_text() == key
    file.write_text("spoilt")
    done = commands.run("credentials", "rekey")
    assert (done.code, str(file) in done.err) == (2, True)
