"""Join several cell arrays of counts, such as `train_trial` and `test_trial`."""

from dataclasses import dataclass

import numpy as np

from domain.errors import listed
from worker.ingest.problems import rejected
from worker.ingest.readers.axis_names import base_of
from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.matlab.leaves import prefix_of
from worker.ingest.readers.matlab.tree import Cell, Node, Numbers, Text, Unread, kind_of_cell
from worker.ingest.readers.split_layout import SPLIT_WORDS, Layout, part_of, parts_given
from worker.ingest.readers.variables import SPIKE_LIKE, SPIKES, are_counts
from worker.ingest.recording import SPLIT_NOT_GIVEN, Understood

_JOINED = "joined"


@dataclass
class Joined:
    """Result of joining: options that name the joined array, and what to report."""

    options: ReadOptions
    understood: list[Understood]
    notes: list[str]


def join_trials(leaves: dict[str, Node], options: ReadOptions) -> Joined | None:
    """Replace the cell arrays of a recording's parts by one, and likewise everything that all parts have.

    Parts are the variables that `mapping.spikes` lists, or those whose names differ only by a split.

    Raises
    ------
    RejectedFile
        If listed variables are not all of one kind.
    """
    layout = _listed(leaves, options) if options.mapping.spikes is not None else _by_name(leaves)
    if layout is None:
        return None
    layout.sort(leaves)
    numbers = {part: _length(leaves[name]) or 0 for part, name in layout.spikes.items()}
    first = next(iter(layout.spikes.values()))
    base = (part_of(first, layout.words) or ("", ""))[1] or f"{_JOINED}.spikes"
    prefix = prefix_of(base)
    groups = {base: layout.spikes} | {
        name: parts for name, parts in layout.names.items() if name not in leaves
    }
    for name, parts in groups.items():
        found = {part: leaves.pop(full) for part, full in parts.items()}
        if all(
            _length(found[part]) == number if part in found else False for part, number in numbers.items()
        ):
            leaves[name] = _together([found[part] for part in numbers])
        else:
            why = "it does not have one value (or one cell) for each trial of all parts"
            leaves.update({parts[part]: Unread(why) for part in found})
    source = [layout.spikes[part] for part, number in numbers.items() for _ in range(number)]
    leaves[f"{prefix}source"] = _texts(source)
    if any(code != SPLIT_NOT_GIVEN for code in layout.splits.values()) and f"{prefix}split" not in leaves:
        words = [SPLIT_WORDS.get(part, part) for part, number in numbers.items() for _ in range(number)]
        leaves[f"{prefix}split"] = _texts(words)
    mapping = options.mapping.model_copy(update={"spikes": base})
    understood = [
        Understood("spikes", name, f"{layout.how}; trials of {part}", (numbers[part],))
        for part, name in layout.spikes.items()
    ]
    told = listed(f"`{name}` ({numbers[part]} trials)" for part, name in layout.spikes.items())
    return Joined(
        options.model_copy(update={"mapping": mapping}), understood, [f"Trials were joined: {told}."]
    )


def _by_name(leaves: dict[str, Node]) -> Layout | None:
    groups: dict[str, dict[str, str]] = {}
    for name, node in leaves.items():
        found = part_of(name, SPLIT_WORDS)
        if found is not None and _are_counts(node):
            groups.setdefault(found[1], {}).setdefault(found[0], name)
    groups = {
        base: parts
        for base, parts in groups.items()
        if len(parts) > 1 and (base_of(base) in ("", *SPIKES) or SPIKE_LIKE.search(base_of(base)))
    }
    plain = [n for n, node in leaves.items() if base_of(n) in SPIKES[:5] and part_of(n, SPLIT_WORDS) is None]
    if len(groups) != 1 or any(_are_counts(leaves[name]) for name in plain):
        return None
    (parts,) = groups.values()
    layout = Layout(spikes={})
    layout.spikes = {part: parts[part] for part in layout.splits if part in parts}
    widths = [_neurons(leaves[name]) for name in layout.spikes.values()]
    return layout if set.intersection(*widths) else None


def _listed(leaves: dict[str, Node], options: ReadOptions) -> Layout | None:
    names = options.mapping.spikes
    if not isinstance(names, list) or not any(isinstance(leaves.get(name), Cell) for name in names):
        return None
    wrong = [name for name in names if name in leaves and not _are_counts(leaves[name])]
    if wrong:
        message = f"mapping.spikes lists {listed(names)}, but `{wrong[0]}` is no cell array of matrices, one for each trial."
        hint = "List variables of one kind; only the trials of counts are joined."
        raise rejected("cells_not_spikes", message, hint, "/mapping/spikes")
    missing = [name for name in names if name not in leaves]
    if missing:
        message = (
            f"mapping.spikes names `{missing[0]}`, which is not in the file. It holds: {listed(leaves, 30)}."
        )
        raise rejected("variable_unknown", message, "Name one of these.", "/mapping/spikes")
    return parts_given(names)


def _are_counts(node: Node) -> bool:
    if not isinstance(node, Cell) or kind_of_cell(node) != "matrices":
        return False
    return all(are_counts(item.array()) for item in node.items[:20] if isinstance(item, Numbers))


def _neurons(node: Node) -> set[int]:
    """Return the lengths that all matrices of a cell array share; one of them is the number of neurons."""
    shapes = (
        [set(item.shape) for item in node.items if isinstance(item, Numbers) and item.size]
        if isinstance(node, Cell)
        else []
    )
    return set.intersection(*shapes) if shapes else set()


def _length(node: Node) -> int | None:
    """Return the number of trials of a vector, or of a row or column of cells."""
    if isinstance(node, Cell) and len(node.shape) == 2 and min(node.shape) <= 1:
        return len(node.items)
    if isinstance(node, Numbers) and node.is_vector:
        return node.size
    return None


def _together(nodes: list[Node]) -> Node:
    if all(isinstance(node, Numbers) for node in nodes):
        values = np.concatenate([node.vector() for node in nodes if isinstance(node, Numbers)])
        return Numbers((len(values), 1), values.dtype, lambda: values.reshape(1, -1))
    items: list[Node] = []
    for node in nodes:
        items += node.items if isinstance(node, Cell) else _singles(node)
    return Cell((len(items), 1), items)


def _singles(node: Node) -> list[Node]:
    if not isinstance(node, Numbers):
        return [node]
    values = node.vector()
    return [Numbers((1, 1), values.dtype, lambda value=value: np.reshape(value, (1, 1))) for value in values]  # type: ignore[misc]


def _texts(words: list[str]) -> Cell:
    return Cell((len(words), 1), [Text([word]) for word in words])
