"""The client for programs on asyncio. `latentry.synchronous` is generated of it: `python client/generate_synchronous.py`."""
