"""Traces by OpenTelemetry: one of each request, from HTTP to the store's scripts, SQL and other services.

All that is traced is wrapped where traces are on, and is as it is without this folder where they are off. What a span
tells is of a bounded size and of few values: routes, methods, names of scripts and tables, counts. No token, address,
path of a request, text of a statement, or message of an error is ever in one.
"""
