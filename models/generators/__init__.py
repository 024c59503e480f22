"""Generators: the recurrences g_(t+1) = F(g_t, v_t) that make the latent dynamics. One module for each kind.

`domain.generators.GENERATORS` has the kinds with the shapes of their parameters. The module of that name defines `GENERATOR`.
"""

from functools import cache
from importlib import import_module

from models.generators.base import Controller, Generator

__all__ = ["Controller", "Generator", "generator_of"]


@cache
def generator_of(kind: str) -> Generator:
    """Return the generator of a kind, e.g. "gru"."""
    generator: Generator = import_module(f"models.generators.{kind}").GENERATOR
    return generator
