"""Computations of requests: in threads, in turns by tenant, as streams, and pictures."""
