"""Conditions on trials as SQL over the table of trials, with the same result on SQLite and on PostgreSQL.

A value is compared with stored values of the same kind: number, text, or boolean. Texts are ordered by their code points.
"""

import difflib
import json
import operator
from collections.abc import Mapping
from dataclasses import replace
from threading import Lock
from typing import Any, NamedTuple, Protocol

from cachetools import LRUCache
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Numeric,
    Text,
    any_,
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

from api.arrays.grammar import ORDERING, Condition, Value, parse_conditions, where_error
from api.caches import of_resources
from api.errors import Invalid
from domain.conditions import CONDITION, condition_names_of_trials
from store.tables import Trial

_COLUMNS: Mapping[str, frozenset[str]] = {
    "trial": frozenset({"number"}),
    "split": frozenset({"text"}),
    "length_bins": frozenset({"number"}),
}
"""Names that are columns of the table instead of metadata, and their kinds."""

_KINDS = {
    "integer": "number", "real": "number", "number": "number", "text": "text", "string": "text",
    "true": "boolean", "false": "boolean", "boolean": "boolean",
}  # fmt: skip
"""Kind of each type, as either database names it; a list or an object is of the kind ``other``."""

_IN_WORDS = {"number": "numbers", "text": "text", "boolean": "true and false", "other": "lists or objects"}
_MOST_NAMED = 30

_lock = Lock()
_metadata: LRUCache[tuple[str, str], dict[str, frozenset[str]]] = of_resources(LRUCache(1000), _lock)
_conditions: LRUCache[tuple[str, str], list[str]] = of_resources(LRUCache(1000), _lock)


def trial_conditions(session: Session, dataset_id: str, given: list[str]) -> list[ColumnElement[bool]]:
    """Return conditions on rows of the table of trials.

    Parameters
    ----------
    session
        Session of the database.
    dataset_id
        The data set, which is ready, so that its trials no longer change.
    given
        Conditions in the grammar of `api.arrays.grammar`.

    Raises
    ------
    Invalid
        If one cannot be parsed, names unknown metadata, or compares values of different kinds.
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
    """Return the names of the metadata of trials, and the kinds of their values."""
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
    """Return the metadata that a name stands for.

    None, and `condition` where no metadata have this name, stand for the likeliest conditions. The result is None if no metadata
    look like conditions.
    """
    if name is not None and (name != CONDITION or name in metadata_kinds(session, dataset_id)):
        return name
    return next(iter(condition_candidates(session, dataset_id)), name)


class _Meant(NamedTuple):
    """A value with its kind; null has no kind."""

    kind: str | None
    value: str | None


def _meant(condition: Condition, known: Mapping[str, frozenset[str]]) -> list[_Meant]:
    """Return the values of a condition, each with a kind that the metadata have: number or boolean before text.

    Raises
    ------
    Invalid
        If the condition cannot hold for any trial, because of the kinds of its metadata.
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
        raise where_error(given, said, f"use {able}")
    meant = [_meaning(value, comparable if kinds else frozenset(_IN_WORDS)) for value in condition.values]
    for value, found in zip(condition.values, meant, strict=True):
        if found is None:
            hint = "write true or false" if kinds == {"boolean"} else None
            raise where_error(given, f"{name} holds {words}; got {value.shown!r}", hint)
        if found.kind is None and is_ordering:
            raise where_error(
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
    return where_error(condition.given, said, f"{hint}GET /v1/datasets/{{dataset_id}}/trials shows them")


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
        raise where_error(given, f"between needs two numbers or two texts; got {low.value} and {high.value}")
    if low.kind == "number" and float(str(low.value)) > float(str(high.value)):
        raise where_error(given, f"between needs the lower value first; got {low.value} and {high.value}")


def _as_sql(condition: Condition, meant: list[_Meant], is_sqlite: bool) -> ColumnElement[bool]:
    stored = _stored(condition.name, is_sqlite)
    match condition.operator:
        case "exists":
            return stored.holds(stored.is_known)
        case "missing":
            return not_(stored.holds(stored.is_known))
        case "eq" | "in":
            return _equals(stored, meant, is_sqlite)
        case "ne" | "notin":
            return not_(_equals(stored, meant, is_sqlite))
        case "between":
            low, high = (_operand(one) for one in meant)
            return stored.holds(stored.of_kind(meant[0].kind).between(low, high))
        case _:
            compare = getattr(operator, condition.operator)
            return stored.holds(compare(stored.of_kind(meant[0].kind), _operand(meant[0])))


class _Stored(Protocol):
    """The stored value of a trial under a name."""

    is_known: ColumnElement[bool]

    def of_kind(self, kind: str | None) -> ColumnElement[Any]:
        """Return the value as a number, a text or ``true`` and ``false``; NULL if it is of another kind."""

    def holds(self, predicate: ColumnElement[bool]) -> ColumnElement[bool]:
        """Return whether a predicate holds for the value: true or false, never NULL."""


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
        """Return the column, whose values are all of one kind."""
        return _by_code_point(self._stored, self._is_sqlite) if self._is_text else self._stored

    def holds(self, predicate: ColumnElement[bool]) -> ColumnElement[bool]:
        """Return the predicate, but false for NULL."""
        return func.coalesce(predicate, false())


class _SqliteDetail:
    """A member of the metadata on SQLite, as a row: SQLite's JSON paths do not allow quotes in names."""

    def __init__(self, name: str) -> None:
        self._name, self._members = name, _members(("key", "value", "type"))
        self._type = self._members.c.type
        self.is_known: ColumnElement[bool] = self._type != "null"

    def of_kind(self, kind: str | None) -> ColumnElement[Any]:
        """Return the value if its type matches `kind`, else NULL."""
        return case((_is_of(self._type, kind), self._type if kind == "boolean" else self._members.c.value))

    def holds(self, predicate: ColumnElement[bool]) -> ColumnElement[bool]:
        """Return whether a member of this name exists for which the predicate holds."""
        member = select(literal(1)).select_from(self._members)
        return member.where(self._members.c.key == self._name, predicate).correlate(Trial).exists()


class _PostgresDetail:
    """A member of the metadata on PostgreSQL, NULL for a trial that lacks it."""

    def __init__(self, name: str) -> None:
        details = Trial.__table__.c.details
        self._type: ColumnElement[str] = func.json_typeof(details.op("->")(literal(name, Text)))
        self._plain: ColumnElement[Any] = details.op("->>", return_type=Text())(literal(name, Text))
        self.is_known: ColumnElement[bool] = self._type != "null"

    def of_kind(self, kind: str | None) -> ColumnElement[Any]:
        """Return the value if its type matches `kind`, else NULL."""
        # A cast of a value that is no number fails; only CASE prevents the cast.
        plain = cast(self._plain, Numeric) if kind == "number" else self._plain
        found = case((_is_of(self._type, kind), plain))
        return _by_code_point(found, is_sqlite=False) if kind == "text" else found

    def holds(self, predicate: ColumnElement[bool]) -> ColumnElement[bool]:
        """Return the predicate, but false for NULL."""
        return func.coalesce(predicate, false())


def _members(columns: tuple[str, ...]) -> Any:
    """Return the metadata of a trial as rows."""
    return func.json_each(Trial.details).table_valued(*columns, name="member")


def _is_of(stored_type: ColumnElement[str], kind: str | None) -> ColumnElement[bool]:
    return stored_type.in_([name for name, of in _KINDS.items() if of == kind])


def _by_code_point(text: ColumnElement[Any], is_sqlite: bool) -> ColumnElement[Any]:
    """Return text that is ordered by code points, as SQLite does by default."""
    return text if is_sqlite else collate(text, "C")


def _equals(stored: _Stored, meant: list[_Meant], is_sqlite: bool) -> ColumnElement[bool]:
    """Return whether the stored value is one of several."""
    some: list[ColumnElement[bool]] = [false()]
    for kind in sorted({one.kind for one in meant if one.kind is not None}):
        wanted = sorted({str(one.value) for one in meant if one.kind == kind})
        some.append(_is_among(stored.of_kind(kind), wanted, kind, is_sqlite))
    is_one = stored.holds(or_(*some))
    is_unknown = not_(stored.holds(stored.is_known))
    return or_(is_one, is_unknown) if any(one.kind is None for one in meant) else is_one


def _is_among(
    stored: ColumnElement[Any], wanted: list[str], kind: str, is_sqlite: bool
) -> ColumnElement[bool]:
    """Return whether the stored value is among others, which are a single parameter: thousands of them are slow to compile."""
    if is_sqlite:
        value = func.json_each(literal(json.dumps(wanted), Text)).table_valued("value", name="wanted").c.value
        return stored.in_(select(cast(value, Numeric) if kind == "number" else value))
    texts = literal(wanted, ARRAY(Text))
    return stored == any_(cast(texts, ARRAY(Numeric)) if kind == "number" else texts)


def _operand(meant: _Meant) -> ColumnElement[Any]:
    """Return a value in SQL. A number is passed as text, so that the database parses it as it parses the stored ones."""
    text = literal(meant.value, Text)
    return cast(text, Numeric) if meant.kind == "number" else text
