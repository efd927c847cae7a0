"""How Redis is spoken to: one server or a cluster behind one interface, commands and scripts."""

from ledger.imports import without

with without("opentelemetry.sdk"):  # PERF: a tenth of a second, for figures that nobody has redis-py send
    import redis.asyncio  # noqa: F401
