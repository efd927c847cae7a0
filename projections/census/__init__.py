"""The state of a whole ledger in figures, counted once a minute by one worker of all, and kept for all to print."""
