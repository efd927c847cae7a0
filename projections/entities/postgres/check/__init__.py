"""`source check`: the mapping against the schema, the rows that are there, and the plans of pages."""
