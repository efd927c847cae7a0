"""Keys that verify a log or a witness, as options give them."""

from __future__ import annotations

import click

from ledger.transparency.notes import BadNote, VerifierKey, parse_verifier


def verifier_keys(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[VerifierKey]:
    """Read the keys of an option, of which each may be what `proof keys` prints: a key a line.

    Raises BadParameter, which names the option and the key.
    """
    keys: list[VerifierKey] = []
    for value in (line for given in values for line in given.split("\n") if line.strip() or not given.strip()):
        try:
            keys.append(parse_verifier(value.strip()))
        except BadNote as error:
            raise click.BadParameter(f"{value[:80]!r}: {error}") from None
    return keys
