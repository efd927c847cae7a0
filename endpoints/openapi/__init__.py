"""/openapi.json, made of the route table and the structs, and /docs, pages to read and try it by."""
