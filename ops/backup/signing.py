"""The keys that sign tokens, as a backup holds them: encrypted with the key that encrypts credentials."""

from __future__ import annotations

import msgspec

from ledger.errors import InvalidInput
from ops.opening.key_files import read_or_make
from ops.opening.ledger import CREDENTIAL_KEY_FILE, TOKEN_KEY_FILE, credential_cipher, keyring_source
from ops.settings.settings import Settings
from projections.accounts.credentials import CredentialUnreadable
from projections.accounts.tokens import read_keyring

_AGAIN = (
    "that they were encrypted with, nor can what providers entrusted be read. Set that key, or give the signing keys "
    "as LEDGER_TOKEN_KEY, and restore into an empty server again"
)


def seal_keys(settings: Settings) -> tuple[bytes | None, str]:
    """Encrypt the signing keys; gives what a backup holds, None if it must do without, and says so in words.

    Makes no key that is not there.
    """
    if settings.token_key is None and not (settings.data_dir / TOKEN_KEY_FILE).exists():
        return None, "signing keys are not in it: there are none here"
    file = settings.data_dir / CREDENTIAL_KEY_FILE
    if not settings.credential_keys and not file.exists():
        return None, "signing keys are not in it: no LEDGER_CREDENTIAL_KEY to encrypt them with"
    keys = [key.as_dict(private=True) for key in keyring_source(settings)()]
    sealed = credential_cipher(settings).encrypt(msgspec.json.encode({"keys": keys}))
    where = "LEDGER_CREDENTIAL_KEY" if settings.credential_keys else str(file)
    return sealed, f"signing keys are in it, encrypted: keep a copy of the key of {where} elsewhere"


def open_keys(settings: Settings, sealed: bytes) -> tuple[bool, str]:
    """Put signing keys of a backup into the data folder, if it has none.

    Tells whether they are there now, or others that were, and says what was done.
    """
    if settings.token_key is not None:
        return True, "signing keys: those of LEDGER_TOKEN_KEY are used, the backup's were left alone"
    file = settings.data_dir / TOKEN_KEY_FILE
    if file.exists():
        return True, f"signing keys: {file} was there and stays as it is, the backup's were left alone"
    if not settings.credential_keys and not (settings.data_dir / CREDENTIAL_KEY_FILE).exists():
        return False, f"signing keys: not restored, because there is no LEDGER_CREDENTIAL_KEY {_AGAIN}"
    try:
        text = credential_cipher(settings).decrypt(sealed).decode()
        read_keyring(text)
    except (CredentialUnreadable, InvalidInput, ValueError):
        return False, f"signing keys: not restored, because LEDGER_CREDENTIAL_KEY is not the one {_AGAIN}"
    if read_or_make(file, lambda: text) != text:
        return True, f"signing keys: {file} was made by somebody else meanwhile and stays as it is"
    return True, f"signing keys: restored to {file}"
