"""Read what commands take: documents in JSON, YAML or TOML, values as ``path.to.it=value``, and spike counts."""

import io
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentry.commands.calling import Document, UsageProblem


def read_document(path: Path) -> Document:
    """Read a file of JSON, YAML or TOML; the ending of its name gives the format.

    Raises
    ------
    UsageProblem
        If the file cannot be read, or is not a set of named values.
    """
    try:
        text = path.read_text("utf-8")
        document = _parse(path, text)
    except (OSError, ValueError) as error:
        raise UsageProblem(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise UsageProblem(f"{path}: expected named values, got {type(document).__name__}")
    return document


def _parse(path: Path, text: str) -> Any:
    if path.suffix in (".yaml", ".yml"):
        return _parse_yaml(text)
    if path.suffix == ".toml":
        return tomllib.loads(text)
    return json.loads(text)


def _parse_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        hint = "`pip install PyYAML`, or write JSON or TOML instead"
        raise UsageProblem("reading YAML needs PyYAML, which is not installed", hint) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def set_values(document: Document, assignments: Sequence[str]) -> Document:
    """Return the document with values set; each assignment is ``path.to.it=value``, where the value is JSON or else a text.

    Raises
    ------
    UsageProblem
        If an assignment is not valid, or its path leads through a value that has no parts.
    """
    made: Document = json.loads(json.dumps(document))
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names):
            raise UsageProblem(
                f"expected name=value, got {assignment!r}", "such as trials.align_to=go_cue_time"
            )
        inner = made
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise UsageProblem(f"{assignment!r}: {name} is {inner!r}, which has no parts")
        inner[names[-1]] = _value(text)
    return made


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_spikes(path: Path) -> bytes:
    """Read spike counts of shape bins × neurons or trials × bins × neurons from npy, npz (array `spikes`) or JSON.

    Returns
    -------
    bytes
        The counts as `numpy.save` writes them.

    Raises
    ------
    UsageProblem
        If the file does not have an array of whole numbers.
    """
    import numpy as np

    try:
        if path.suffix == ".json":
            loaded = json.loads(path.read_text("utf-8"))
            loaded = loaded.get("spikes", loaded) if isinstance(loaded, dict) else loaded
        else:
            loaded = np.load(path, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                loaded = loaded["spikes"]
        spikes = np.asarray(loaded)
        if spikes.dtype.kind == "f" and (spikes == np.floor(spikes)).all():
            spikes = spikes.astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UsageProblem(
            f"{path} cannot be read: {error}", "expected npy, npz with `spikes`, or JSON"
        ) from error
    if spikes.ndim not in (2, 3) or spikes.dtype.kind not in "iub":
        shape = " × ".join(str(size) for size in spikes.shape)
        raise UsageProblem(
            f"{path}: expected whole counts of trials × bins × neurons, got {spikes.dtype} of {shape or 'no axis'}"
        )
    written = io.BytesIO()
    np.save(written, spikes, allow_pickle=False)
    return written.getvalue()
