"""The paragraph for a paper: every number in it is a fact of the model."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from domain.states import JobState, ModelState
from store.database import Database
from store.tables import Job
from tests.api.api_examples import add_dataset, add_job, add_model


def numbers(value: Any) -> Iterator[float]:
    """Yield all numbers of the facts, also those in their texts."""
    if isinstance(value, dict):
        for one in value.values():
            yield from numbers(one)
    elif isinstance(value, list):
        for one in value:
            yield from numbers(one)
    elif isinstance(value, str):
        yield from map(float, re.findall(r"\d+(?:\.\d+)?", value))
    elif value is not None:
        yield float(value)


@pytest.mark.parametrize("strategy", [{"kind": "pbt"}, {"kind": "tpe"}])
@pytest.mark.parametrize("controller", [0, 13])
def test_every_number_of_the_text_is_a_fact(
    light_client: TestClient, sqlite_database: Database, strategy: dict[str, str], controller: int
) -> None:
    splits = ["train"] * 11 + ["valid"] * 6 + ["test"] * 3
    architecture = {"generator": "gru", "generator_units": 77, "factors": 9, "encoder_units": 41, "controller_units": controller,
                    "inferred_inputs": 2, "initial_condition_dim": 17}  # fmt: skip
    scores = {
        "sv_loss": 0.4,
        "sv_bits_per_spike_valid": 0.21437,
        "sv_bits_per_spike_test": 0.1834,
        "best_epoch": 123,
    }
    with sqlite_database.write() as session:
        dataset = add_dataset(session, splits=splits, neurons=53)
        job = add_job(
            session,
            dataset,
            state=JobState.DONE,
            strategy=strategy,
            seed=31,
            budget={"models": 24, "epochs": 310},
        )
        model = add_model(session, job, 6, state=ModelState.TRAINED, architecture=architecture, scores=scores,
                          hyperparameters={"learning_rate": 0.004, "cd_rate": 0.37})  # fmt: skip
        row = session.get_one(Job, job)
        row.selected_model_id, row.trained_with = model, [{"latentry": "1.2.3", "torch": "2.13.0"}]
    path = f"/v1/models/{model}/methods"
    found = light_client.get(path).json()
    text, facts = found["text"], found["facts"]
    assert (facts["train_trials"], facts["valid_trials"], facts["test_trials"]) == (11, 6, 3)
    for told in ("53 neurons", "20 trials", "77 units", "9 factors", "rate 0.37", "24 models", "0.214 bits", "0.183 bits",
                 "Latentry 1.2.3 with PyTorch 2.13.0", "search 31", "Model 6 was selected"):  # fmt: skip
        assert told in text, told
    assert (f"controller of {controller} units" in text) == bool(controller)
    known = list(numbers(facts))
    without_citations = re.sub(r"\[[a-z]+\d+\]", "", text)
    for number in re.findall(r"\d+(?:\.\d+)?", without_citations):
        assert any(abs(float(number) - one) <= 0.005 * abs(one) for one in known), number
    keys = [one["key"] for one in found["citations"]]
    assert sorted(set(re.findall(r"\[([a-z]+\d+)\]", text))) == sorted(keys)
    assert ("keshtkaran2022" in keys) == (strategy["kind"] == "pbt")
    for one in found["citations"]:
        assert one["doi"] in one["text"]
        assert one["bibtex"].startswith("@")
        assert one["bibtex"].count("{") == one["bibtex"].count("}")
    bibtex = light_client.get(f"{path}?format=bibtex")
    assert bibtex.text.count("@") == len(keys)
    assert light_client.get(f"{path}?format=markdown").text.startswith(text)
    assert light_client.get(f"{path}?format=pdf").status_code == 422
