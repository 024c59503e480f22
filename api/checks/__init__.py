"""Checks of the service: what ``latentry doctor`` shows of the server."""
