"""The HTTP server: a folder per resource, each with `routes`, `schemas` and `service`. Imports `store` and `domain`."""
