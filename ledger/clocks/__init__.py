"""What time it is, by clocks of which any may be wrong, and how much of it passed while the ledger was served."""
