"""Resources are the answered documents, with types and verbs."""

import copy
import json
import pickle
import threading
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from latentry import Client, Job
from latentry.display import NotebookDisplay, TerminalDisplay, live_display
from latentry.errors import DatasetRejected, NotDone

from domain.states import DatasetState, JobState
from store.database import Database
from store.tables import Dataset
from store.tables import Job as JobRow
from tests.api.api_examples import Example, add_dataset, add_job, add_population
from tests.waiting import wait_until


def test_a_resource_is_its_document(example_url: str, example: Example) -> None:
    with Client(example_url) as client:
        job = client.get_job(example.job_id)
        document = client.get(f"/v1/jobs/{example.job_id}")
        assert job == document
        assert json.loads(json.dumps(job)) == document
        assert dict(job) == {**job} == document
        for copied in (copy.deepcopy(job), pickle.loads(pickle.dumps(job))):
            assert (type(copied), copied) == (dict, document)
        assert (job.id, job.state, job.name) == (job["id"], "done", job["name"])
        assert job.created_at is not None
        assert job.created_at.tzinfo == UTC
        assert job.started_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert job.progress["models"] == job["progress"]["models"]
        assert job.links["self"] == f"/v1/jobs/{example.job_id}"
        assert job.dataset.id == example.dataset_id
        assert repr(job) == f"<Job {job.id} done>"
        model = job.selected_model
        assert model is not None
        assert (model.id, model.job.id) == (example.model_id, job.id)
        assert list(model.learning_curve["sv_loss"]) == [2.0, 1.0]
        assert model.learning_curve[-1]["epoch"] == 2
        trials = list(client.get_dataset(example.dataset_id).list_trials({"condition": [3]}))
        assert [trial["trial"] for trial in trials] == [3, 7, 11, 15, 19]


def test_a_resource_is_not_changed_here(example_url: str, example: Example) -> None:
    with Client(example_url) as client:
        job = client.get_job(example.job_id)
    before = dict(job)
    changes: list[Any] = [
        lambda: job.__setitem__("state", "failed"), lambda: job.update(state="failed"), lambda: job.pop("state"),
        job.clear, job.popitem, lambda: job.setdefault("x", 1), lambda: job.__delitem__("state"),
        lambda: job.__ior__({"state": "failed"}),
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(TypeError, match="comes from the service"):
            change()
    with pytest.raises(AttributeError, match="state comes from the service"):
        job.state = "failed"  # type: ignore[misc, assignment]
    assert job == before


def test_lists_are_read_page_by_page() -> None:
    asked: list[str | None] = []

    def service(request: httpx.Request) -> httpx.Response:
        token = request.url.params.get("page_token")
        asked.append(token)
        page = int(token or 0)
        items = [{"id": f"job_{page}{item}"} for item in range(2)]
        return httpx.Response(
            200, json={"items": items, "next_page_token": str(page + 1) if page < 9 else None}
        )

    jobs = Client("http://service", transport=httpx.MockTransport(service)).jobs()
    assert asked == []
    several = iter(jobs)
    assert [next(several).id for _ in range(3)] == ["job_00", "job_01", "job_10"]
    assert asked == [None, "1"]
    assert len(jobs.all()) == len(list(jobs)) == 20


def test_verbs_renew_the_job(light_url: str, light_dataset_id: str) -> None:
    with Client(light_url) as client:
        job = client.submit(light_dataset_id, preset="quick", name="mine", budget={"models": 2, "epochs": 5})
        assert (job.state, job.specification["budget"]["models"]) == ("queued", 2)
        states = [
            job.pause().state,
            job.resume().state,
            job.cancel().state,
            job.retry().state,
            job.stop().state,
        ]
        assert states == ["paused", "queued", "cancelled", "queued", "stopping"]
        assert job.change(name="yours").name == "yours"
        assert job.refresh().name == "yours"
        with pytest.raises(TimeoutError, match=r"is stopping after 0\.1 s; it continues"):
            job.wait(timeout_s=0.1)


def test_a_job_is_waited_for(light_url: str, sqlite_database: Database, light_dataset_id: str) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id)

    def end() -> None:
        time.sleep(0.3)
        with sqlite_database.write() as session:
            session.get_one(JobRow, job_id).state = JobState.CANCELLED

    thread = threading.Thread(target=end)
    thread.start()
    with Client(light_url) as client, pytest.raises(NotDone, match=f"the job {job_id} is cancelled"):
        client.get_job(job_id).wait()
    thread.join()


def test_a_rejected_data_set_says_why(light_url: str, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session, state=DatasetState.REJECTED)
    with Client(light_url) as client:
        with pytest.raises(DatasetRejected, match=r"rejected: no spikes \(add some\)") as raised:
            client.get_dataset(dataset_id).wait()
        assert raised.value.dataset_id == dataset_id
        assert client.get_dataset(dataset_id).problems[0]["hint"] == "add some"


def test_a_data_set_that_the_service_failed_to_read_is_not_done(
    light_url: str, sqlite_database: Database
) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session, state=DatasetState.FAILED)
    with Client(light_url) as client:
        dataset = client.get_dataset(dataset_id)
        with pytest.raises(NotDone, match=rf"{dataset_id} failed: no spikes \(add some\)"):
            dataset.wait()

        def mend() -> None:
            while True:
                with sqlite_database.write() as session:
                    row = session.get_one(Dataset, dataset_id)
                    if row.state == DatasetState.INGESTING:
                        row.state = DatasetState.READY
                        return

        thread = threading.Thread(target=mend)
        thread.start()
        assert dataset.retry().state == "ready"
        thread.join()


class Shell:
    """What a kernel of Jupyter has."""

    config = {"IPKernelApp": {}}  # noqa: RUF012


def test_where_a_job_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"specification": {"budget": {"epochs": 4, "models": 2}}}
    assert live_display(job) is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert isinstance(live_display(job), TerminalDisplay)
    ipython = type("ipython", (), {"get_ipython": staticmethod(Shell)})
    monkeypatch.setitem(__import__("sys").modules, "IPython", ipython)
    assert isinstance(live_display(job), NotebookDisplay)


def test_a_job_is_shown_while_it_is_waited_for(
    light_url: str, sqlite_database: Database, light_dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite_database.write() as session:
        job_id = add_population(session, light_dataset_id)
    shown: list[str] = []

    class Cell:
        def update(self, one: Any) -> None:
            shown.append(one._repr_html_())

    def display(one: Any, *, display_id: bool) -> Cell:
        shown.append(one._repr_html_())
        return Cell()

    notebook = type("ipython", (), {"get_ipython": staticmethod(Shell)})
    monkeypatch.setitem(__import__("sys").modules, "IPython", notebook)
    monkeypatch.setitem(
        __import__("sys").modules, "IPython.display", type("display", (), {"display": staticmethod(display)})
    )

    def end() -> None:
        wait_until(lambda: shown)
        with sqlite_database.write() as session:
            row = session.get_one(JobRow, job_id)
            row.state = JobState.DONE

    thread = threading.Thread(target=end)
    thread.start()
    with Client(light_url) as client:
        job: Job = client.get_job(job_id).wait()
    thread.join()
    assert job.state == "done"
    assert len(shown) >= 2
    assert all(text.startswith("<pre") and "<script" not in text for text in shown)
    assert "running" in shown[-1]
