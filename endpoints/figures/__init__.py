"""What one worker counts beside the ledger, all its figures together, and how they are printed."""
