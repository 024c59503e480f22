"""Checks of the parts of the service, which ``latentry doctor`` shows."""
