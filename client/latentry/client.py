"""The client for scripts and notebooks; `latentry.AsyncClient` is the one for programs on asyncio."""

from latentry.synchronous.client import Client

__all__ = ["Client"]
