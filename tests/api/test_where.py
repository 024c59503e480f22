"""Conditions on trials: on each kind of database the same ones as plain Python finds."""

import io
import json
import operator
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from unittest.mock import ANY

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import insert, select

from api.arrays.grammar import Condition, Operator, Value, parse_conditions
from api.arrays.trial_conditions import trial_conditions
from api.errors import Invalid
from store.array_store import open_array_store
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from store.migrate import migrate
from store.settings import Settings
from store.tables import Trial
from tests.api.api_examples import PROBLEM, add_dataset
from tests.app_copies import app_of

TEXTS = [
    "left",
    "right",
    "Left",
    "",
    "3",
    "03",
    "true",
    "null",
    "a, b",
    "a:b",
    'say "hi"',
    "it's",
    "50%",
    "héllo",
    "日本",
    "😀",
    "ﬁ",
    "\\",
    "a\nb",
    "z",
    "'; DROP TABLE trials; --",
    "\uffff",
]
NUMBERS: list[int | float] = [
    0,
    1,
    3,
    -1,
    2**53 + 1,
    2**53,
    2**62,
    0.5,
    0.1,
    0.30000000000000004,
    0.3,
    3.0,
    1e-9,
    -2.5,
    1e22,
    123456.789,
    0.20000000000000001,
]
COLUMNS: dict[str, list[Any]] = {
    "condition": [0, 1, 2, 3],
    "number": [*NUMBERS, None],
    "text": [*TEXTS, None],
    "flag": [True, False, None],
    "mixed": [*NUMBERS, *TEXTS, True, False, None],
    "nothing": [None],
    "a.b": [1, 2],
    "$[0]": [1, 2],
    'x"y': ["p", "q"],
    "it's": [1.5, "q"],
    "na:me": [1, 2],
    "ключ": ["да", "нет"],
    "%s": [1, 2],
    ":key_1": [1, 2],
    "back\\slash": [1, 2],
    "listed": [[1, 2], {"a": 1}],
}
KINDS: dict[type, str] = {bool: "boolean", int: "number", float: "number", str: "text"}
ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
TRIALS = 120


def made_up_details() -> list[dict[str, Any]]:
    """Metadata of trials: every value there is, keys that are missing, values of other kinds in one column."""
    chance = random.Random(0)
    rows: list[dict[str, Any]] = []
    for trial in range(TRIALS):
        row = {name: values[trial % len(values)] for name, values in COLUMNS.items()}
        rows.append({name: value for name, value in row.items() if chance.random() < 0.85 or trial < 60})
    return rows


DETAILS = made_up_details()
SPLITS = [("train", "valid", "test", None)[trial % 4] for trial in range(TRIALS)]
SPIKES = np.arange(TRIALS * 4).reshape(TRIALS, 4)
LENGTHS = [5 - trial % 3 for trial in range(TRIALS)]


@dataclass(frozen=True)
class Recorded:
    """A service with one data set of these trials, and arrays of theirs."""

    database: Database
    client: TestClient
    dataset_id: str

    @property
    def url(self) -> str:
        return f"/v1/datasets/{self.dataset_id}"

    def found(self, *conditions: str) -> list[int]:
        with self.database.read() as session:
            query = select(Trial.trial).where(Trial.dataset_id == self.dataset_id).order_by(Trial.trial)
            query = query.where(*trial_conditions(session, self.dataset_id, list(conditions)))
            return list(session.execute(query).scalars())


def record(folder: Path, url: str) -> Recorded:
    database = Database(url)
    migrate(database)
    arrays = open_array_store("sql:", database)
    writer = ArrayGroupWriter(arrays, "groups/where")
    writer.write(NamedArray("spikes", SPIKES, ("trial", "neuron")))
    writer.write(NamedArray("spikes_1", SPIKES[50:], ("trial_1", "neuron_1")))
    writer.write(NamedArray("trial_1", np.arange(50, TRIALS), ("trial_1",)))
    writer.close()
    with database.write() as session:
        dataset_id = add_dataset(session, splits=(), array_path="groups/where")
        rows = [
            {
                "dataset_id": dataset_id,
                "trial": trial,
                "length_bins": LENGTHS[trial],
                "split": SPLITS[trial],
                "details": DETAILS[trial],
            }
            for trial in range(TRIALS)
        ]
        session.execute(insert(Trial), rows)
    app = app_of(Settings(data_dir=folder), database, arrays)
    return Recorded(database, TestClient(app, raise_server_exceptions=False), dataset_id)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """On SQLite, where the kind of database does not matter."""
    folder = tmp_path_factory.mktemp("where")
    recorded = record(folder, f"sqlite:///{folder / 'test.db'}")
    yield recorded
    recorded.database.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """On a database of each kind."""
    if request.param == "sqlite":
        yield request.getfixturevalue("light")
        return
    url = request.getfixturevalue("postgres_server").new_database()
    recorded = record(tmp_path_factory.mktemp("where"), url)
    yield recorded
    recorded.database.close()


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def said(value: Any) -> str:
    """A value in the grammar, of its own kind only."""
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def kind_of(value: Any) -> str | None:
    return None if value is None else KINDS.get(type(value), "other")


def holds(stored: Any, said_operator: str, values: list[Any]) -> bool:
    """Whether a condition holds of what is stored, None for nothing; the plain words of the documentation."""
    if said_operator in ("exists", "missing"):
        return (stored is not None) == (said_operator == "exists")
    if said_operator in ("ne", "notin"):
        return not holds(stored, "in", values)
    if said_operator in ("eq", "in"):
        return any(kind_of(stored) == kind_of(value) and stored == value for value in values)
    if kind_of(stored) not in ("number", "text"):
        return False
    if said_operator == "between":
        return holds(stored, "ge", values[:1]) and holds(stored, "le", values[1:])
    return kind_of(stored) == kind_of(values[0]) and ORDER[said_operator](stored, values[0])


@st.composite
def conditions(draw: st.DrawFn) -> tuple[str, str, str, list[Any]]:
    """A condition as text, with its name, operator and values."""
    name = draw(st.sampled_from(sorted(COLUMNS)))
    likely = [value for value in COLUMNS[name] if kind_of(value) != "other"] or [1]
    others = st.sampled_from(NUMBERS + TEXTS) | st.integers(-5, 2**60) | st.floats(-1e3, 1e3)
    value = st.sampled_from(likely) | st.sampled_from(likely) | others
    said_operator = draw(st.sampled_from(get_args(Operator)))
    count = {"exists": 0, "missing": 0, "between": 2}.get(said_operator, 1)
    if said_operator in ("in", "notin"):
        count = draw(st.integers(1, 4))
    values = [draw(value) for _ in range(count)]
    text = f"{quoted(name)}:{said_operator}" + (f":{','.join(map(said, values))}" if count else "")
    return text, name, said_operator, values


def kinds_in(name: str) -> set[str]:
    return {kind for row in DETAILS if (kind := kind_of(row.get(name))) is not None}


def as_compared(name: str, value: Any) -> Any:
    """A number, true or false is text where there is text alone."""
    is_text = kind_of(value) not in kinds_in(name) and "text" in kinds_in(name) and value is not None
    return said(value) if is_text and not isinstance(value, str) else value


def is_refused(name: str, said_operator: str, values: list[Any]) -> bool:
    """Whether a condition can't hold of anything, for what the column is."""
    kinds = kinds_in(name)
    is_ordering = said_operator in ORDER or said_operator == "between"
    comparable = kinds - {"other"} - ({"boolean"} if is_ordering else set())
    if values and ((kinds and not comparable) or (is_ordering and None in values)):
        return True
    if kinds and any(value is not None and kind_of(value) not in comparable for value in values):
        return True
    if said_operator != "between":
        return False
    low, high = values
    return kind_of(low) != kind_of(high) or (kind_of(low) == "number" and float(low) > float(high))


def test_finds_what_python_finds(recorded: Recorded) -> None:
    answered = []

    @given(st.lists(conditions(), min_size=1, max_size=3))
    @hypothesis_settings(
        max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    def check(cases: list[tuple[str, str, str, list[Any]]]) -> None:
        texts = [text for text, *_ in cases]
        meant = [
            (name, named, [as_compared(name, one) for one in values]) for _, name, named, values in cases
        ]
        if any(is_refused(*one) for one in meant):
            with pytest.raises(Invalid):
                recorded.found(*texts)
            return
        expected = [
            trial
            for trial, row in enumerate(DETAILS)
            if all(holds(row.get(name), said_operator, values) for name, said_operator, values in meant)
        ]
        assert recorded.found(*texts) == expected, texts
        answered.append(bool(expected))

    check()
    assert answered.count(True) > 10
    assert answered.count(False) > 10


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("split:eq:train", lambda trial: SPLITS[trial] == "train"),
        ("split:ne:train", lambda trial: SPLITS[trial] != "train"),
        ("split:missing", lambda trial: SPLITS[trial] is None),
        ("split:in:valid,null", lambda trial: SPLITS[trial] in ("valid", None)),
        ("split:lt:train", lambda trial: SPLITS[trial] == "test"),
        ("length_bins:le:4", lambda trial: LENGTHS[trial] <= 4),
        ("length_bins:notin:3,5", lambda trial: LENGTHS[trial] == 4),
        ("trial:between:3,7", lambda trial: 3 <= trial <= 7),
        # without quotes a value is whatever the metadata are
        ("text:eq:3", lambda trial: DETAILS[trial].get("text") == "3"),
        ("text:eq:true", lambda trial: DETAILS[trial].get("text") == "true"),
        ("text:in: left , right", lambda trial: DETAILS[trial].get("text") in ("left", "right")),
        ('text:in:left,"a, b"', lambda trial: DETAILS[trial].get("text") in ("left", "a, b")),
        ("text:eq:a, b", lambda trial: DETAILS[trial].get("text") == "a, b"),
        ("text:eq:a:b", lambda trial: DETAILS[trial].get("text") == "a:b"),
        ("text:eq:", lambda trial: DETAILS[trial].get("text") == ""),
        ('text:eq:"null"', lambda trial: DETAILS[trial].get("text") == "null"),
        ("text:eq:null", lambda trial: DETAILS[trial].get("text") is None),
        ("mixed:eq:3", lambda trial: DETAILS[trial].get("mixed") == 3),
        ('mixed:eq:"3"', lambda trial: DETAILS[trial].get("mixed") == "3"),
        ("number:eq:3.00", lambda trial: DETAILS[trial].get("number") == 3),
        ("number:ge:1e22", lambda trial: (DETAILS[trial].get("number") or 0) >= 1e22),
        ("number:lt:-.5", lambda trial: (DETAILS[trial].get("number") or 0) < -0.5),
        ("flag:ne:true", lambda trial: DETAILS[trial].get("flag") is not True),
        ("a.b:eq:1", lambda trial: DETAILS[trial].get("a.b") == 1),
        ("it's:eq:q", lambda trial: DETAILS[trial].get("it's") == "q"),
        ("ключ:eq:да", lambda trial: DETAILS[trial].get("ключ") == "да"),
    ],
)
def test_grammar(light: Recorded, condition: str, expected: Callable[[int], bool]) -> None:
    wanted = [trial for trial in range(TRIALS) if expected(trial)]
    assert 0 < len(wanted) < TRIALS
    assert light.found(condition) == wanted


def test_columns_of_the_table_are_the_same_on_each_database(recorded: Recorded) -> None:
    assert recorded.found("split:ne:train", "length_bins:eq:5", "trial:lt:20") == [
        trial for trial in range(20) if SPLITS[trial] != "train" and LENGTHS[trial] == 5
    ]
    assert recorded.found("split:gt:test", "trial:lt:6") == [0, 1, 4, 5]


@pytest.mark.parametrize(
    ("condition", "says", "hint"),
    [
        (
            "conditon:eq:3",
            "no metadata 'conditon'; they have $[0], %s, :key_1, a.b",
            "did you mean condition?",
        ),
        ("condition", "expected a name and one of the operators eq, ne, in", "where=name:operator:value"),
        ("condition:", "got 'condition:'", None),
        ("condition:like:3", "got 'condition:like:3'", None),
        (":eq:3", "got ':eq:3'", None),
        ("condition:eq", "eq needs a value; none is given", None),
        ("condition:exists:3", "exists takes no value; got '3'", None),
        ("condition:between:1", "between needs two values, as in between:0.2,0.5; got 1", None),
        ("condition:between:3,1", "between needs the lower value first; got 3 and 1", None),
        ("mixed:between:3,true", "between needs two numbers or two texts; got 3 and true", None),
        ('mixed:between:3,"z"', "between needs two numbers or two texts", None),
        ("condition:eq:left", "condition holds numbers; got 'left'", None),
        ('condition:eq:"3"', "condition holds numbers; got '\"3\"'", None),
        ("condition:eq:nan", "condition holds numbers; got 'nan'", None),
        ("condition:eq:1e999", "condition holds numbers; got '1e999'", None),
        ("condition:lt:null", "lt compares numbers or text; got null", "use missing"),
        ("flag:eq:1", "flag holds true and false; got '1'", "write true or false"),
        (
            "flag:lt:true",
            "flag holds true and false; of these lt says nothing",
            "use eq, ne, in, notin, exists",
        ),
        ("listed:eq:1", "listed holds lists or objects; of these eq says nothing", "use exists and missing"),
        ('text:in:"a" b', "expected a comma after \"a\" ; got 'b'", None),
        ('text:eq:"a', "expected a quote at the end of '\"a'", None),
        ('text:eq:"\\x"', "expected a text in quotes as JSON has it", None),
        ('text:eq:"\\u0000"', "expected text without the character NUL", None),
        ('text:eq:"\\ud800"', "expected a text in quotes as JSON has it", None),
        ("text:eq:\x00", "expected text without the character NUL", None),
        ("condition:in:" + ",".join(["1"] * 501), "expected at most 500 values; got 501", None),
    ],
)
def test_what_is_wrong_is_told(light: Recorded, condition: str, says: str, hint: str | None) -> None:
    answer = light.client.get(f"{light.url}/trials", params={"where": condition})
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    problem = answer.json()
    assert says in problem["errors"][0]["message"]
    assert problem["errors"][0]["pointer"] == "where"
    assert (hint or "") in problem["hint"] if "hint" in problem else hint is None


def test_trials_are_listed_page_by_page(recorded: Recorded) -> None:
    asked: dict[str, Any] = {"where": ["condition:in:1,3", "trial:lt:40"], "page_size": 7}
    pages, trials = 0, []
    while True:
        page = recorded.client.get(f"{recorded.url}/trials", params=asked).json()
        trials += [item["trial"] for item in page["items"]]
        pages += 1
        assert all(item["details"] == DETAILS[item["trial"]] for item in page["items"])
        if page.get("next_page_token") is None:
            break
        asked["page_token"] = page["next_page_token"]
    assert trials == [trial for trial in range(40) if trial % 4 in (1, 3)]
    assert pages == 3
    empty = recorded.client.get(f"{recorded.url}/trials", params={"where": "condition:eq:17"})
    assert empty.json() == {"items": [], "next_page_token": None}
    many = recorded.client.get(f"{recorded.url}/trials", params={"where": ["trial:lt:9"] * 21})
    assert many.status_code == 422


def test_many_long_conditions_at_once(light: Recorded) -> None:
    values = ",".join(str(value / 2) for value in range(500))
    assert light.found(*[f"condition:in:{values}"] * 3)[:3] == [0, 1, 2]


def test_nothing_of_a_condition_is_run(recorded: Recorded) -> None:
    for attack in (
        "x' OR '1'='1",
        'x" OR 1=1 --',
        "x'); DROP TABLE trials; --",
        "$.condition",
        "details->>'x'",
    ):
        answer = recorded.client.get(f"{recorded.url}/trials", params={"where": f"{quoted(attack)}:exists"})
        assert answer.status_code == 422
        answer = recorded.client.get(f"{recorded.url}/trials", params={"where": f"text:eq:{quoted(attack)}"})
        assert answer.json()["items"] == []
    assert len(recorded.found("trial:ge:0")) == TRIALS


def test_arrays_of_the_trials_that_match(recorded: Recorded) -> None:
    def read(name: str, *where: str) -> Any:
        answer = recorded.client.get(f"{recorded.url}/arrays/{name}", params={"where": where})
        assert answer.status_code == 200, answer.text
        return np.load(io.BytesIO(answer.content))

    of_three = np.array([row.get("condition") == 3 for row in DETAILS])
    np.testing.assert_array_equal(read("spikes", "condition:eq:3"), SPIKES[of_three])
    np.testing.assert_array_equal(read("spikes_1", "condition:eq:3"), SPIKES[50:][of_three[50:]])
    np.testing.assert_array_equal(read("spikes", "condition:eq:3", "trial:lt:9"), SPIKES[:9][of_three[:9]])
    assert read("spikes", "condition:eq:17").shape == (0, 4)


@given(st.text(alphabet='a:,"\\ 3.e-+null[]{}é\x00', max_size=20))
@hypothesis_settings(max_examples=500)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read = parse_conditions([f"name:{text}", f"name:in:{text}"])
    except Invalid:
        return
    assert all(isinstance(condition, Condition) and condition.name == "name" for condition in read)


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_quoted_texts_come_back(texts: list[str]) -> None:
    texts = [text.replace("\x00", "") for text in texts]
    [condition] = parse_conditions([f"{quoted('na:me')}:in:{','.join(map(quoted, texts))}"])
    assert condition == Condition(
        "na:me", "in", tuple(Value(None, text, None, False, ANY) for text in texts), ANY
    )


def test_values_of_all_conditions_are_bounded(recorded: Recorded) -> None:
    condition = f"number:in:{','.join(map(str, range(500)))}"
    answer = recorded.client.get(f"{recorded.url}/arrays/spikes", params={"where": [condition] * 4})
    assert answer.status_code == 200
    answer = recorded.client.get(f"{recorded.url}/arrays/spikes", params={"where": [condition] * 5})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "where")
    assert "at most 2000" in answer.json()["detail"]


def test_many_values_are_one_parameter(recorded: Recorded) -> None:
    """Compiling a parameter for each of thousands of values took seconds."""
    with recorded.database.read() as session:
        few, many = (
            trial_conditions(
                session, recorded.dataset_id, [f"mixed:in:{','.join(map(str, range(number)))},a"]
            )
            for number in (2, 499)
        )
        compiled = [select(Trial.trial).where(*one).compile(session.get_bind()) for one in (few, many)]
    assert len(compiled[0].params) == len(compiled[1].params)
