"""Generators: each kind keeps the contract."""

from tests.models.generator_contract import GeneratorContract


class TestGru(GeneratorContract):
    """The generator of LFADS."""

    kind = "gru"
