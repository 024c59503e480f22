"""Codes and the words they stand for, as the CF conventions keep them: ``flag_values`` and ``flag_meanings``."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def words_of(attributes: Mapping[str, Any]) -> dict[int, str]:
    """The word of each code; nothing where numbers are no codes."""
    values = list(attributes.get("flag_values", ()))
    words = str(attributes.get("flag_meanings", "")).split()
    return dict(zip(map(int, values), words, strict=True)) if len(values) == len(words) else {}


def positions(codes: NDArray[Any], words: Mapping[int, str]) -> NDArray[np.int32]:
    """Where the word of each code is among the words, in their order; -1 for a code that stands for none."""
    known = np.array(list(words), np.int64)
    order = np.argsort(known)
    places = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
    return np.where(known[order][places] == codes, order[places], -1).astype(np.int32)


def as_words(values: NDArray[Any], attributes: Mapping[str, Any]) -> NDArray[Any]:
    """Values with codes replaced by their words, empty for none; other values as they are."""
    words = words_of(attributes)
    if not words or values.dtype.kind not in "iu":
        return values
    texts = np.array([*words.values(), ""], dtype=object)
    found: NDArray[Any] = texts[positions(values, words)]
    return found


def as_codes(values: NDArray[Any], attributes: Mapping[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Words as codes with their meanings, for formats that keep no text; other values as they are."""
    if values.dtype.kind not in "UO":
        return values, dict(attributes)
    words, codes = np.unique(["" if one is None else str(one) for one in values], return_inverse=True)
    meanings = " ".join("_".join(str(word).split()) or "_" for word in words)
    told = {"flag_values": list(range(len(words))), "flag_meanings": meanings}
    return codes.astype(np.int32), {**attributes, **told}
