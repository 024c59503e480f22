"""A question to one array: which part of it, what is done to it, in which format it is answered."""

from pydantic import ConfigDict

from api.arrays.formats import FormatChoice
from api.arrays.group import ArrayGroup
from api.arrays.labelled import LabelledArray
from api.arrays.selection import Selection, select
from api.arrays.service import CACHE, REVALIDATED
from api.arrays.transformations import Transformation, transform
from api.arrays.transformations.parameters import Surroundings, depends_on


class ArrayQuery(Selection, Transformation, FormatChoice):
    """Parameters of the question; one that is not known is the name of a dim, or refused."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)


def ask(name: str, query: ArrayQuery, surroundings: Surroundings) -> tuple[LabelledArray, ...]:
    """The array that answers a question, and those that belong to it; nothing of size is read yet.

    Raises
    ------
    NotFound
        If there is no such array.
    Invalid
        If the question does not fit it.
    """
    group, store = surroundings.group, surroundings.store
    selected = select(group.array(store, name), query, group, store, surroundings.session)
    return transform(selected, query, surroundings)


def how_long_kept(query: ArrayQuery, group: ArrayGroup) -> str:
    """The header `Cache-Control` of an answer: for ever, unless the owner's latents, or those rotated to, may be replaced."""
    return REVALIDATED if group.may_change or query.rotate_to is not None else CACHE


def what_decides(name: str, query: ArrayQuery, surroundings: Surroundings) -> tuple[str, ...]:
    """Everything that an answer hangs on, but its format: the same texts are the same values, for ever.

    Raises
    ------
    Invalid
        If the question names what is not there.
    """
    asked = query.model_dump_json(exclude={"format_"}, exclude_defaults=True)
    return (surroundings.group.path, name, asked, *depends_on(query, surroundings))
