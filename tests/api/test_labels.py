"""Names, notes and tags of data sets and jobs: written, changed, and found again."""

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, text

from domain.states import DatasetState, JobState
from store.database import Database
from store.tables import Dataset, Job
from tests.api.api_examples import OTHER_TENANT, PROBLEM, add_dataset, add_job, add_model, add_tenant
from tests.api.test_inferences import add_trained

LABELS = {"notes": "Größe\n50 % of_trials \\ ok", "tags": ["Pilot", "monkey J"]}


def ids(client: TestClient, path: str, **filters: Any) -> list[str]:
    answer = client.get(path, params=filters or None)
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["items"]]


def patch(client: TestClient, path: str, media_type: str = "application/json", **changes: Any) -> Any:
    answer = client.patch(path, content=json.dumps(changes), headers={"Content-Type": media_type})
    assert answer.status_code == 200, answer.text
    return answer.json()


def both(database: Database) -> tuple[str, str]:
    """Return the paths of a data set and of a job of it."""
    with database.write() as session:
        dataset_id = add_dataset(session)
        return f"/v1/datasets/{dataset_id}", f"/v1/jobs/{add_job(session, dataset_id, state=JobState.DONE)}"


def test_a_merge_patch_changes_what_it_names(client: TestClient, database: Database) -> None:
    for path, default in zip(both(database), ("spikes.npz", ""), strict=True):
        before = client.get(path).json()
        changed = patch(client, path, "application/merge-patch+json", name="day 3", **LABELS)
        assert {key: changed[key] for key in ("name", "notes", "tags")} == {"name": "day 3", **LABELS}
        assert changed == client.get(path).json()
        assert patch(client, path) == changed, "nothing is named"
        assert patch(client, path, tags=None)["tags"] == []
        assert patch(client, path, notes=None, name=None)["name"] == default
        changed = patch(client, path, tags=[" a ", "A", "b"])
        assert (changed["notes"], changed["tags"]) == ("", ["a", "b"])
        unchanged = set(before) - {"name", "notes", "tags", "specification", "progress"}
        assert {key: changed[key] for key in unchanged} == {key: before[key] for key in unchanged}
    assert changed["specification"]["tags"] == ["a", "b"], "a copy of the job has its labels too"
    assert patch(client, path, priority=3)["specification"]["priority"] == 3
    assert patch(client, path, priority=None)["specification"]["priority"] == 0


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"name": "x" * 201}, "/name"),
        ({"notes": "x" * 10_001}, "/notes"),
        ({"notes": "a\x00b"}, "/notes"),
        ({"tags": [str(number) for number in range(21)]}, "/tags"),
        ({"tags": ["x" * 51]}, "/tags/0"),
        ({"tags": ["ok", " "]}, "/tags/1"),
        ({"tags": ["a\nb"]}, "/tags/0"),
        ({"tags": "pilot"}, "/tags"),
        ({"state": "ready"}, "/state"),
    ],
)
def test_what_does_not_fit_is_refused(
    light_client: TestClient, sqlite_database: Database, changes: dict[str, Any], pointer: str
) -> None:
    for path in both(sqlite_database):
        answer = light_client.patch(path, json=changes)
        assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
        assert answer.json()["errors"][0]["pointer"] == pointer


def test_every_way_to_create_takes_them_and_the_content_stays_equal(
    client: TestClient, dataset_id: str, database: Database
) -> None:
    with database.write() as session:
        session.get_one(Dataset, dataset_id).original = "00" * 32
        other = add_dataset(session)
    upload = client.put("/v1/uploads?filename=a.npz", content=b"123").json()["id"]
    form = {"file": ("b.npz", b"4567")}
    lists = {"notes": LABELS["notes"], "tags": LABELS["tags"]}
    made = [
        client.post("/v1/datasets", params={"filename": "c.npz", **lists}, content=b"89"),
        client.post("/v1/datasets", data=lists, files=form),
        client.post("/v1/datasets", json={"upload_id": upload, **LABELS}),
        client.post(f"/v1/datasets/{dataset_id}:derive", json={"options": {"rebin_s": 0.04}, **LABELS}),
        client.post("/v1/datasets:synthesize", json={"system": "lorenz", **LABELS}),
        client.post("/v1/datasets:combine", json={"dataset_ids": [dataset_id, other], **LABELS}),
        client.post("/v1/jobs", json={"dataset_id": dataset_id, **LABELS}),
    ]
    for answer in made:
        assert answer.status_code == 202, answer.text
        assert {key: answer.json()[key] for key in LABELS} == LABELS, answer.request.url
    for path, again in (
        ("/v1/datasets:synthesize", {"system": "lorenz", "notes": "others", "tags": ["x"]}),
        ("/v1/datasets", {"upload_id": upload, "name": "others", "tags": []}),
    ):
        found = client.post(path, json=again)
        assert (found.status_code, found.json()["notes"]) == (200, LABELS["notes"])


def test_text_and_tags_are_found_whatever_their_case(client: TestClient, database: Database) -> None:
    """Also letters beyond ASCII, and characters that LIKE treats specially, on each database."""
    dataset, job = both(database)
    other_dataset, other_job = both(database)
    patch(client, dataset, name="Äffchen 100%", **LABELS)
    patch(client, job, name="first_TRY", notes="ΣΑΣ", tags=["Größe", "a#b"])
    patch(client, other_job, name="firstxtry", tags=["größe"])
    one, two = dataset.rsplit("/", 1)[1], other_dataset.rsplit("/", 1)[1]
    job_id, other = job.rsplit("/", 1)[1], other_job.rsplit("/", 1)[1]
    for found, wanted in (
        ("äFFCHEN", [one]), ("100%", [one]), ("0%Ä", []), ("GRÖSSE", [one]), ("50 % of_t", [one]), ("of.t", []),
        ("\\ OK", [one]), ("monkey j", [one]), ("SPIKES.npz", [two, one]), (one[:20], [two, one][two[:20] != one[:20] :]),
        (one, [one]), (one[4:], []), ("%", [one]), ("_", [one, two][:1]),
    ):  # fmt: skip
        assert ids(client, "/v1/datasets", text=found) == wanted, found
    assert ids(client, "/v1/jobs", text="first_") == [job_id]
    assert ids(client, "/v1/jobs", text="σας") == [job_id]
    assert ids(client, "/v1/jobs", text="äffchen") == [job_id], "of its data set"
    assert ids(client, "/v1/jobs", tag="GRÖSSE") == [other, job_id]
    assert ids(client, "/v1/jobs", tag=["größe", "A#B"]) == [job_id], "all of them"
    assert ids(client, "/v1/jobs", tag="gr") == [], "whole tags only"
    assert ids(client, "/v1/jobs", tag="first_try") == [], "a name is no tag"
    assert ids(client, "/v1/datasets", tag="pilot", text="äffchen", state="ready") == [one]
    for refused in ({"text": "a\x00"}, {"text": "x" * 201}, {"tag": "x" * 51}, {"created_by": "\x00"}):
        assert client.get("/v1/jobs", params=refused).status_code == 422


def test_states_times_and_pages(client: TestClient, database: Database) -> None:
    states = ["done", "running", "failed", "done", "paused"]
    with database.write() as session:
        dataset_id = add_dataset(session)
        made = sorted(add_job(session, dataset_id) for _ in states)
        for day, (job_id, state) in enumerate(zip(made, states, strict=True), 1):
            row = session.get_one(Job, job_id)
            row.state, row.created_at = JobState(state), datetime(2026, 1, day, tzinfo=UTC)
    a, _, c, d, e = made
    newest = made[::-1]
    assert ids(client, "/v1/jobs", state=["done", "failed"]) == [d, c, a]
    assert ids(client, "/v1/jobs", state="paused") == [e]
    assert ids(client, "/v1/jobs", created_after="2026-01-02", created_before="2026-01-05") == newest[1:4]
    seen: list[str] = []
    token: dict[str, str] = {}
    while token or not seen:
        params = {"state": ["done", "failed"], "page_size": 1, **token}
        page = client.get("/v1/jobs", params=params).json()
        seen += [one["id"] for one in page["items"]]
        token = {"page_token": page["next_page_token"]} if page["next_page_token"] else {}
    assert seen == [d, c, a]
    with database.write() as session:
        rejected = add_dataset(session, state=DatasetState.REJECTED)
        ingesting = add_dataset(session, state=DatasetState.INGESTING)
    assert sorted(ids(client, "/v1/datasets", state=["ingesting", "rejected"])) == sorted(
        [rejected, ingesting]
    )


def test_links_lead_to_what_belongs_together(client: TestClient, database: Database) -> None:
    with database.write() as session:
        add_tenant(session)
        dataset_id, other = add_dataset(session), add_dataset(session)
        session.get_one(Dataset, dataset_id).original = "00" * 32
        model_id = add_trained(session, dataset_id)
        stranger = add_job(session, add_dataset(session, tenant=OTHER_TENANT), tenant=OTHER_TENANT)
    derived = client.post(f"/v1/datasets/{dataset_id}:derive", json={"options": {"rebin_s": 0.04}}).json()
    combined = client.post("/v1/datasets:combine", json={"dataset_ids": [other, dataset_id]}).json()
    applied = client.post(f"/v1/models/{model_id}:apply", json={}).json()
    document = client.get(f"/v1/datasets/{dataset_id}").json()
    follow = {name: ids(client, document["links"][name]) for name in ("derived", "combined", "inferences")}
    assert follow == {"derived": [derived["id"]], "combined": [combined["id"]], "inferences": [applied["id"]]}
    assert derived["links"]["derived_from"] == document["links"]["self"]
    (job_id,) = ids(client, document["links"]["jobs"])
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert job["links"]["dataset"] == document["links"]["self"]
    assert ids(client, job["links"]["inferences"]) == [applied["id"]]
    assert ids(client, f"/v1/inferences?job_id={stranger}") == []
    assert ids(client, f"/v1/jobs?text={stranger}") == []
    assert client.get("/v1/datasets?derived_from=x").status_code == 422


def test_a_long_list_of_jobs_takes_as_many_queries_as_a_short_one(
    client: TestClient, database: Database
) -> None:
    with database.write() as session:
        dataset_id = add_dataset(session)
        for number in range(12):
            job_id = add_job(session, dataset_id, state=JobState.DONE, name=f"job {number}")
            add_model(session, job_id, losses=(2.0, 1.0 + number))
    statements: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", count)
    numbers = []
    for size in (1, 12):
        statements.clear()
        page = client.get(f"/v1/jobs?page_size={size}").json()["items"]
        assert len(page) == size
        numbers.append(len(statements))
    assert numbers[0] == numbers[1] < 18
    for one in page:
        progress = one["progress"]
        assert client.get(one["links"]["self"]).json()["progress"] == progress
        assert progress["epochs_trained"] == 2
        assert progress["best_smoothed_sv_loss"] == min(2.0, 1.0 + int(one["name"].split()[1]))


def test_filters_of_ten_thousand_jobs_read_an_index_alone(sqlite_database: Database) -> None:
    """Rows have many kilobytes; SQLite would read all of them to find a rare state."""
    query = "SELECT id FROM {} WHERE tenant_id = 'default' AND {} ORDER BY id DESC LIMIT 51"
    conditions = (
        "1", "state IN ('failed', 'running')", "created_at < '2026-01-01'", "dataset_id = 'dat_1'",
        "(created_by_key = 'key_1' OR created_by_name = 'Ada')",
    )  # fmt: skip
    with sqlite_database.engine.connect() as connection:
        for table, condition in itertools.product(("jobs", "datasets"), conditions):
            condition = condition if table == "jobs" else condition.replace("dataset_id", "derived_from")
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query.format(table, condition)}").all()
            wanted = f"SEARCH {table} USING COVERING INDEX ix_{table}_listed"
            assert [row[-1].split(" (")[0] for row in plan] == [wanted], (table, condition)


def test_rows_of_before_are_found(sqlite_database: Database) -> None:
    """The migration writes the text in which a search looks."""
    from alembic import command

    from store.migrate import alembic_config, migrate

    config = alembic_config()
    with sqlite_database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0009")
        connection.execute(
            text(
                "INSERT INTO datasets (id, tenant_id, name, state, source, attempts, created_at) VALUES "
                "('dat_1', 'default', 'Größe', 'ready', '{\"filename\": \"A.nwb\"}', 0, '2026-01-01')"
            )
        )
    migrate(sqlite_database)
    with sqlite_database.read() as session:
        row = session.get_one(Dataset, "dat_1")
        assert (row.search_text, row.notes, row.tags, row.created_by) == ("grösse\n\na.nwb\x1f", "", [], None)
