"""The `syncledger` command, one module per subcommand."""
