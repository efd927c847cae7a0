"""The embedded durable server of a data folder."""

import ledger.store  # noqa: F401 - PERF: how redis-py is imported, before what is here does
