"""Commands for where a ledger lies: checked, rebuilt, archived, backed up, upgraded."""
