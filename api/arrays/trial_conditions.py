"""Conditions on trials as SQL over the table of trials: they hold of the same ones on SQLite and on PostgreSQL.

A value is compared with what is stored by its kind: number with number, text with text, true and false with these. Texts are
ordered by their code points.
"""

import difflib
import operator
from collections.abc import Mapping
from dataclasses import replace
from threading import Lock
from typing import Any, NamedTuple, Protocol

from cachetools import LRUCache
from sqlalchemy import (
    ColumnElement,
    Numeric,
    Text,
    case,
    cast,
    collate,
    false,
    func,
    literal,
    not_,
    or_,
    select,
)
from sqlalchemy.orm import Session

from api.arrays.where import ORDERING, Condition, Value, parse_conditions, where_problem
from api.errors import Invalid
from domain.conditions import CONDITION, condition_names_of_trials
from store.tables import Trial

_COLUMNS: Mapping[str, frozenset[str]] = {
    "trial": frozenset({"number"}),
    "split": frozenset({"text"}),
    "length_bins": frozenset({"number"}),
}
"""Names that are no metadata, but known of every trial, and their kinds."""

_KINDS = {
    "integer": "number", "real": "number", "number": "number", "text": "text", "string": "text",
    "true": "boolean", "false": "boolean", "boolean": "boolean",
}  # fmt: skip
"""Of types as either database names them; a list or an object is of the kind ``other``."""

_IN_WORDS = {"number": "numbers", "text": "text", "boolean": "true and false", "other": "lists or objects"}
_MOST_NAMED = 30

_metadata: LRUCache[tuple[str, str], dict[str, frozenset[str]]] = LRUCache(1000)
_conditions: LRUCache[tuple[str, str], list[str]] = LRUCache(1000)
_lock = Lock()


def trial_conditions(session: Session, dataset_id: str, given: list[str]) -> list[ColumnElement[bool]]:
    """Conditions on rows of the table of trials.

    Parameters
    ----------
    session
        Of the database.
    dataset_id
        Whose trials they are about; it is ready, so that they change no more.
    given
        As `api.arrays.where` has it.

    Raises
    ------
    Invalid
        If one can't be read, names what the trials do not have, or compares it with what it is not.
    """
    conditions = parse_conditions(given)
    if not conditions:
        return []
    known = {**metadata_kinds(session, dataset_id), **_COLUMNS}
    conditions = [
        replace(one, name=condition_name(session, dataset_id, one.name) or one.name) for one in conditions
    ]
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    return [_as_sql(condition, _meant(condition, known), is_sqlite) for condition in conditions]


def metadata_kinds(session: Session, dataset_id: str) -> dict[str, frozenset[str]]:
    """The names of the metadata of trials, and of which kinds their values are."""
    bind = session.get_bind()
    key = (str(bind.engine.url), dataset_id)
    with _lock:
        found = _metadata.get(key)
    if found is None:
        is_sqlite = bind.dialect.name == "sqlite"
        members = _members(("key", "value", "type") if is_sqlite else ("key", "value"))
        stored_type = members.c.type if is_sqlite else func.json_typeof(members.c.value)
        pairs = select(members.c.key, stored_type).select_from(Trial).join(members, literal(True))
        kinds: dict[str, set[str]] = {}
        for name, kind in session.execute(pairs.where(Trial.dataset_id == dataset_id).distinct()):
            kinds.setdefault(name, set()).update({_KINDS.get(kind, "other")} if kind != "null" else ())
        found = {name: frozenset(kinds[name]) for name in sorted(kinds)}
        with _lock:
            _metadata[key] = found
    return found


def condition_candidates(session: Session, dataset_id: str) -> list[str]:
    """Return the metadata of trials that look like conditions, the likeliest first."""
    key = (str(session.get_bind().engine.url), dataset_id)
    with _lock:
        found = _conditions.get(key)
    if found is None:
        details = select(Trial.details).where(Trial.dataset_id == dataset_id).order_by(Trial.trial)
        found = condition_names_of_trials(session.execute(details).scalars().all())
        with _lock:
            _conditions[key] = found
    return found


def condition_name(session: Session, dataset_id: str, name: str | None) -> str | None:
    """Return the metadata that a request means by a name, or by none.

    None, and `condition` where no metadata have this name, stand for the likeliest conditions; None if nothing looks like them.
    """
    if name is not None and (name != CONDITION or name in metadata_kinds(session, dataset_id)):
        return name
    return next(iter(condition_candidates(session, dataset_id)), name)


class _Meant(NamedTuple):
    """What a value stands for: one of a kind, or null of none."""

    kind: str | None
    value: str | None


def _meant(condition: Condition, known: Mapping[str, frozenset[str]]) -> list[_Meant]:
    """What the values of a condition stand for: that of the kinds of metadata there are, numbers and true and false before text.

    Raises
    ------
    Invalid
        If it can't hold of any trial, for what their metadata is.
    """
    name, given = condition.name, condition.given
    if name not in known:
        raise _unknown(condition, known)
    kinds = known[name]
    is_ordering = condition.operator in ORDERING
    comparable = kinds - {"other"} - ({"boolean"} if is_ordering else set())
    words = " and ".join(_IN_WORDS[kind] for kind in sorted(kinds))
    if condition.values and kinds and not comparable:
        able = "eq, ne, in, notin, exists and missing" if "boolean" in kinds else "exists and missing"
        said = f"{name} holds {words}; of these {condition.operator} says nothing"
        raise where_problem(given, said, f"use {able}")
    meant = [_meaning(value, comparable if kinds else frozenset(_IN_WORDS)) for value in condition.values]
    for value, found in zip(condition.values, meant, strict=True):
        if found is None:
            hint = "write true or false" if kinds == {"boolean"} else None
            raise where_problem(given, f"{name} holds {words}; got {value.shown!r}", hint)
        if found.kind is None and is_ordering:
            raise where_problem(
                given, f"{condition.operator} compares numbers or text; got null", "use missing"
            )
    pairs = [found for found in meant if found is not None]
    if condition.operator == "between":
        _check_bounds(given, *pairs)
    return pairs


def _unknown(condition: Condition, known: Mapping[str, frozenset[str]]) -> Invalid:
    likely = difflib.get_close_matches(condition.name, known, 1)
    names = ", ".join(list(known)[:_MOST_NAMED])
    more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
    hint = f"did you mean {likely[0]}? " if likely else ""
    said = f"the trials have no metadata {condition.name!r}; they have {names}{more}"
    return where_problem(condition.given, said, f"{hint}GET /v1/datasets/{{dataset_id}}/trials shows them")


def _meaning(value: Value, kinds: frozenset[str]) -> _Meant | None:
    if value.is_null:
        return _Meant(None, None)
    if value.number is not None and "number" in kinds:
        return _Meant("number", value.number)
    if value.boolean is not None and "boolean" in kinds:
        return _Meant("boolean", str(value.boolean).lower())
    return _Meant("text", value.text) if value.text is not None and "text" in kinds else None


def _check_bounds(given: str, low: _Meant, high: _Meant) -> None:
    if low.kind != high.kind:
        raise where_problem(
            given, f"between needs two numbers or two texts; got {low.value} and {high.value}"
        )
    if low.kind == "number" and float(str(low.value)) > float(str(high.value)):
        raise where_problem(given, f"between needs the lower value first; got {low.value} and {high.value}")


def _as_sql(condition: Condition, meant: list[_Meant], is_sqlite: bool) -> ColumnElement[bool]:
    stored = _stored(condition.name, is_sqlite)
    match condition.operator:
        case "exists":
            return stored.holds(stored.is_known)
        case "missing":
            return not_(stored.holds(stored.is_known))
        case "eq" | "in":
            return _equals(stored, meant)
        case "ne" | "notin":
            return not_(_equals(stored, meant))
        case "between":
            low, high = (_operand(one) for one in meant)
            return stored.holds(stored.of_kind(meant[0].kind).between(low, high))
        case _:
            compare = getattr(operator, condition.operator)
            return stored.holds(compare(stored.of_kind(meant[0].kind), _operand(meant[0])))


class _Stored(Protocol):
    """What is stored of a trial under a name."""

    is_known: ColumnElement[bool]

    def of_kind(self, kind: str | None) -> ColumnElement[Any]:
        """It as a number, a text or ``true`` and ``false``; NULL if it is of another kind."""

    def holds(self, predicate: ColumnElement[bool]) -> ColumnElement[bool]:
        """Whether something holds of it: true or false, never NULL."""


def _stored(name: str, is_sqlite: bool) -> _Stored:
    if name in _COLUMNS:
        return _Column(name, is_sqlite)
    return _SqliteDetail(name) if is_sqlite else _PostgresDetail(name)


class _Column:
    """A column of the table itself."""

    def __init__(self, name: str, is_sqlite: bool) -> None:
        self._stored: ColumnElement[Any] = Trial.__table__.c[name]
        self._is_text, self._is_sqlite = _COLUMNS[name] == {"text"}, is_sqlite
        self.is_known: ColumnElement[bool] = self._stored.is_not(None)

    def of_kind(self, kind: str | None) -> ColumnElement[Any]:
        """It is of one kind."""
        return _by_code_point(self._stored, self._is_sqlite) if self._is_text else self._stored

    def holds(self, predicate: ColumnElement[bool]) -> ColumnElement[bool]:
        """As it is, but false for NULL."""
        return func.coalesce(predicate, false())


class _SqliteDetail:
    """A member of the metadata on SQLite, whose paths into JSON know no names with quotes: a row of those of the trial."""

    def __init__(self, name: str) -> None:
        self._name, self._members = name, _members(("key", "value", "type"))
        self._type = self._members.c.type
        self.is_known: ColumnElement[bool] = self._type != "null"

    def of_kind(self, kind: str | None) -> ColumnElement[Any]:
        """It, if its type is one of that kind."""
        return case((_is_of(self._type, kind), self._type if kind == "boolean" else self._members.c.value))

    def holds(self, predicate: ColumnElement[bool]) -> ColumnElement[bool]:
        """Whether there is a member of the name of which it holds."""
        member = select(literal(1)).select_from(self._members)
        return member.where(self._members.c.key == self._name, predicate).correlate(Trial).exists()


class _PostgresDetail:
    """A member of the metadata on PostgreSQL, NULL of a trial that lacks it."""

    def __init__(self, name: str) -> None:
        details = Trial.__table__.c.details
        self._type: ColumnElement[str] = func.json_typeof(details.op("->")(literal(name, Text)))
        self._plain: ColumnElement[Any] = details.op("->>", return_type=Text())(literal(name, Text))
        self.is_known: ColumnElement[bool] = self._type != "null"

    def of_kind(self, kind: str | None) -> ColumnElement[Any]:
        """It, if its type is one of that kind."""
        # A cast of what is no number fails, and only CASE keeps it from being tried.
        plain = cast(self._plain, Numeric) if kind == "number" else self._plain
        found = case((_is_of(self._type, kind), plain))
        return _by_code_point(found, is_sqlite=False) if kind == "text" else found

    def holds(self, predicate: ColumnElement[bool]) -> ColumnElement[bool]:
        """As it is, but false for NULL."""
        return func.coalesce(predicate, false())


def _members(columns: tuple[str, ...]) -> Any:
    """The metadata of a trial as rows."""
    return func.json_each(Trial.details).table_valued(*columns, name="member")


def _is_of(stored_type: ColumnElement[str], kind: str | None) -> ColumnElement[bool]:
    return stored_type.in_([name for name, of in _KINDS.items() if of == kind])


def _by_code_point(text: ColumnElement[Any], is_sqlite: bool) -> ColumnElement[Any]:
    """Text that is ordered by code points, as SQLite does by itself."""
    return text if is_sqlite else collate(text, "C")


def _equals(stored: _Stored, meant: list[_Meant]) -> ColumnElement[bool]:
    """Whether it is one of some values."""
    some: list[ColumnElement[bool]] = [false()]
    for kind in sorted({one.kind for one in meant if one.kind is not None}):
        some.append(stored.of_kind(kind).in_([_operand(one) for one in meant if one.kind == kind]))
    is_one = stored.holds(or_(*some))
    is_unknown = not_(stored.holds(stored.is_known))
    return or_(is_one, is_unknown) if any(one.kind is None for one in meant) else is_one


def _operand(meant: _Meant) -> ColumnElement[Any]:
    """A value in SQL. A number goes by its digits: the database reads them as it reads those that are stored."""
    text = literal(meant.value, Text)
    return cast(text, Numeric) if meant.kind == "number" else text
