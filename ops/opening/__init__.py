"""Opening what settings name: the store and its ledger, sources, providers, keys."""
