"""The client for scripts and notebooks, generated of `latentry.asynchronous`."""
