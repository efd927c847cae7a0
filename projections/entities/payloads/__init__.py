"""What stands under `data` in each kind of line: strict structs, one module per subject."""
