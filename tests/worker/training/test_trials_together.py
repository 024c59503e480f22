"""Windows of one trial, and trials that share bins, on one side of every fold and split: through ingest, HTTP and jobs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sqlalchemy import select

from domain.scores import ridge_decode_r2
from store.tables import Trial
from tests.worker.lab import Lab
from worker.context.data import read_sessions

TRIALS, BINS, NEURONS, WIDTH_S = 24, 60, 40, 0.02
CHOP = {"chop": {"window_s": 20 * WIDTH_S, "overlap_s": 0.0}}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = Lab(tmp_path_factory.mktemp("lab"))
    yield found
    found.database.close()


def drifting(path: Path, seed: int = 0, trials: int = TRIALS, neurons: int = NEURONS) -> Path:
    """Trials with a pattern of rates and a level of behaviour each, drawn apart: no decoder can predict another trial."""
    random = np.random.default_rng(seed)
    rates = random.uniform(0.1, 3.0, (trials, 1, neurons))
    drift = np.linspace(0, 0.1, BINS)[:, None]
    hand = random.normal(size=(trials, 1, 2)) + drift + 0.05 * random.normal(size=(trials, BINS, 2))
    spikes = random.poisson(np.broadcast_to(rates, (trials, BINS, neurons))).astype(np.uint8)
    np.savez(path, spikes=spikes, bin_width_s=WIDTH_S, hand=hand)
    return path


def ask(lab: Lab, path: str, status: int = 200, **query: Any) -> Any:
    answer = lab.client.get(path, params=query)
    assert answer.status_code == status, answer.text
    return answer.json()


def groups_of(lab: Lab, dataset_id: str) -> list[int | None]:
    with lab.database.read() as session:
        rows = select(Trial.split_group).where(Trial.dataset_id == dataset_id).order_by(Trial.trial)
        return list(session.execute(rows).scalars())


def test_half_a_trial_does_not_give_the_other_half_away(lab: Lab, tmp_path: Path) -> None:
    dataset_id = lab.ingest(drifting(tmp_path / "drifting.npz"), **CHOP)
    assert groups_of(lab, dataset_id) == np.repeat(np.arange(TRIALS), 3).tolist()
    path = f"/v1/datasets/{dataset_id}/decoding"
    found = ask(lab, path, smooth_s=0.1)
    x = lab.array(f"datasets/{dataset_id}", "spikes?smooth_s=0.1").astype(np.float64)
    y = lab.array(f"datasets/{dataset_id}", "hand").astype(np.float64)
    divided = ridge_decode_r2(x, y)
    assert divided > 0.5, "the leak that windows drawn one by one have"
    assert found["r2"] < 0.0
    assert found["groups"] == {"number": TRIALS, "kept_together": True, "left_out": 0.0}

    fold_of = np.repeat(np.random.default_rng(0).permutation(TRIALS) % 5, 3)
    predicted = np.empty_like(y)
    for fold in range(5):
        train, test = x[fold_of != fold].reshape(-1, NEURONS), fold_of == fold
        scale = train.std(0)
        ridge = Ridge(alpha=found["alphas"][fold]).fit(train / scale, y[fold_of != fold].reshape(-1, 2))
        predicted[test] = ridge.predict(x[test].reshape(-1, NEURONS) / scale).reshape(-1, 20, 2)
    expected = r2_score(y.reshape(-1, 2), predicted.reshape(-1, 2), multioutput="raw_values")
    np.testing.assert_allclose(found["r2_of_components"], expected, rtol=1e-5)

    valid = ask(lab, path, smooth_s=0.1, held_out="valid")
    assert valid["r2"] < 0.1
    assert valid["groups"]["kept_together"]


def test_few_groups_are_divided_by_time_and_a_few_windows_not_at_all(lab: Lab, tmp_path: Path) -> None:
    chop = {"chop": {"window_s": 20 * WIDTH_S, "overlap_s": 10 * WIDTH_S}}
    dataset_id = lab.ingest(drifting(tmp_path / "few.npz", trials=4, neurons=3), **chop)
    path = f"/v1/datasets/{dataset_id}/decoding"
    found = ask(lab, path)
    # Folds are 4 windows of 20; each of their ends that lies within a trial costs a window.
    assert found["groups"] == {"number": 4, "kept_together": False, "left_out": 1.6}
    assert ask(lab, path, folds=4)["groups"] == {"number": 4, "kept_together": True, "left_out": 0.0}
    refused = ask(lab, path, 422, folds=3, slice="0:3")
    assert refused["errors"][0]["pointer"] == "folds"
    assert "The 3 selected trials form 1 recorded trials" in refused["errors"][0]["message"]
    assert "less overlap" in refused["errors"][0]["hint"]


def overlapping_events(path: Path, seed: int = 0) -> tuple[Path, NDArray[np.float64]]:
    """Spike times, and trials cut from 0.5 s before to 0.5 s after events that come in bursts of one to three."""
    random = np.random.default_rng(seed)
    bursts = np.arange(30)[:, None] * 5.0 + 1.0 + np.array([0.0, 0.7, 1.4])
    events = bursts[np.arange(3) < 1 + np.arange(30)[:, None] % 3]
    times = np.sort(random.uniform(0, 152, 8 * 1200))
    np.savez(
        path,
        spike_times=times,
        spike_clusters=np.arange(len(times)) % 8,
        trial_start=events,
        trial_stop=events + 0.6,
    )
    return path, events


def test_a_job_keeps_overlapping_trials_on_one_side(lab: Lab, tmp_path: Path) -> None:
    path, events = overlapping_events(tmp_path / "events.npz")
    options = {"bin_width_s": 0.05, "trials": {"align_to": "start_time", "window_s": [-0.5, 0.5]}}
    dataset_id = lab.ingest(path, **options)
    groups = groups_of(lab, dataset_id)
    burst = np.floor(events / 5).astype(int)
    assert [group is None for group in groups] == (burst % 3 == 0).tolist()
    for seed in (0, 1, 2):
        job_id = lab.begin(dataset_id, training={"test_fraction": 0.2, "evaluation_seed": seed})
        split = lab.work(job_id).split()
        assert all(len(set(split[burst == one].tolist())) == 1 for one in range(30))
        assert (split == "valid").sum() == pytest.approx(12, abs=2)
        assert (split == "test").sum() == pytest.approx(12, abs=2)
        assert lab.client.post(f"/v1/jobs/{job_id}:cancel").status_code < 300
    listed = ask(lab, f"/v1/datasets/{dataset_id}/trials", page_size=6)["items"]
    assert [one["split_group"] for one in listed] == groups[:6]


def test_a_split_of_the_file_that_divides_trials_is_told(lab: Lab, tmp_path: Path) -> None:
    path, events = overlapping_events(tmp_path / "divided.npz", 1)
    split = np.where(np.arange(len(events)) % 4 == 0, "valid", "train")
    with np.load(path) as archive:
        np.savez(path, **dict(archive), split=split)
    options = {"bin_width_s": 0.05, "trials": {"align_to": "start_time", "window_s": [-0.5, 0.5]}}
    dataset_id = lab.ingest(path, **options)
    found = ask(lab, f"/v1/datasets/{dataset_id}")["report"]["warnings"]
    [warning] = [one for one in found if one["code"] == "split_divides_trials"]
    is_valid, starts = split == "valid", events - 0.5
    near = np.abs(np.subtract.outer(starts, starts)) < 0.999
    shared = int((near[:, is_valid].any(1) & ~is_valid).sum())
    assert f"{shared} training trials share bins" in warning["message"]
    body = {"dataset_id": dataset_id}
    told = lab.client.post("/v1/jobs", params={"validate_only": True}, json=body).json()["warnings"]
    assert any(f"{shared} training trials share bins with validation or test trials" in one for one in told)
    assert (lab.work(lab.begin(dataset_id)).split() == split).all()


def test_a_job_neither_trains_on_gaps_nor_scores_them(lab: Lab, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.savez(tmp_path / "long.npz", spikes=random.poisson(1.0, (1200, 6)).astype(np.uint8), bin_width_s=0.02)
    dataset_id = lab.ingest(tmp_path / "long.npz", chop={"window_s": 0.4, "overlap_s": 0.1})
    work = lab.work(lab.begin(dataset_id, training={"test_fraction": 0.2}))
    split, first = work.split(), work.groups.first_bin
    assert set(split.tolist()) == {"train", "valid", "test", "gap"}
    used = {
        part: {bin for start in first[split == part] for bin in range(int(start), int(start) + 20)}
        for part in ("train", "valid", "test")
    }
    assert not used["train"] & used["valid"]
    assert not used["train"] & used["test"]
    assert not used["valid"] & used["test"]
    session = read_sessions(lab.arrays, work)[0]
    assert (session.is_training == (split == "train")).all()
    data = lab.process.data.load(work).training
    for part, trials in (
        ("train", data.training_trials),
        ("valid", data.validation_trials),
        ("test", data.test_trials),
    ):
        assert [one.tolist() for one in trials] == [np.flatnonzero(split == part).tolist()]


def test_sessions_have_groups_of_their_own(lab: Lab, tmp_path: Path) -> None:
    ids = [lab.ingest(drifting(tmp_path / f"{n}.npz", n + 1, trials=6, neurons=5), **CHOP) for n in (0, 1)]
    combined = lab.combine(ids)
    assert groups_of(lab, combined) == np.repeat(np.arange(12), 3).tolist()
    model_id = lab.selected(lab.search(combined, budget={"models": 1, "epochs": 2})).id
    split = lab.array(f"models/{model_id}", "split").reshape(12, 3)
    assert (split == split[:, :1]).all()
    found = ask(lab, f"/v1/models/{model_id}/decoding", behaviour="hand_0", where="session:eq:0")
    assert (found["array"], found["features"], found["groups"]["number"]) == ("factors", 3, 6)
    assert found["baselines"] == []
    assert "several sessions" in found["notes"][0]
    # Trials without this behaviour are in no fold: the other session's change nothing.
    whole = ask(lab, f"/v1/models/{model_id}/decoding", behaviour="hand_0")
    assert whole["tested"]["trials"] == found["tested"]["trials"] == 18
    assert whole["r2"] == pytest.approx(found["r2"], rel=1e-6)


def waves(path: Path) -> Path:
    """Rates that follow the same two waves as the hand, with a phase that each trial draws."""
    random = np.random.default_rng(5)
    phase = random.uniform(0, 2 * np.pi, (TRIALS, 1)) + np.linspace(0, 6, BINS)
    hand = np.stack([np.sin(phase), np.cos(phase)], axis=2)
    rates = 0.5 * np.exp(hand @ random.normal(0, 0.7, (2, 12)))
    np.savez(path, spikes=random.poisson(rates).astype(np.uint8), bin_width_s=WIDTH_S, hand=hand)
    return path


def test_rates_are_decoded_beside_smoothed_spikes(lab: Lab, tmp_path: Path) -> None:
    dataset_id = lab.ingest(waves(tmp_path / "waves.npz"), **CHOP)
    of_spikes = ask(lab, f"/v1/datasets/{dataset_id}/decoding", smooth_s=0.1)
    assert (of_spikes["array"], of_spikes["baselines"], of_spikes["notes"]) == ("spikes", [], [])
    model_id = lab.selected(lab.search(dataset_id, budget={"models": 1, "epochs": 2})).id
    path = f"/v1/models/{model_id}/decoding"
    found = ask(lab, path)
    assert (found["array"], found["features"]) == ("rates", 12)
    [baseline] = found["baselines"]
    assert baseline["width_s"] in (0.08, 0.1, 0.15)
    assert baseline["r2"] == pytest.approx(of_spikes["r2"], abs=0.05)
    assert baseline["r2"] > 0.6 > found["r2"], "two epochs learn little"
    assert "Smoothed spikes decode this behaviour better than rates" in found["notes"][0]
    assert "train more epochs" in found["notes"][0]
    factors = ask(lab, path, array="factors")
    assert factors["features"] == 3
    assert "array=rates" in factors["notes"][0]
    without = ask(lab, path, baseline=False)
    assert (without["baselines"], without["notes"], without["r2"]) == ([], [], found["r2"])
    valid = ask(lab, path, held_out="valid")
    split = lab.array(f"models/{model_id}", "split").reshape(TRIALS, 3)
    assert (split == split[:, :1]).all()
    assert valid["tested"]["trials"] == (split == 1).sum() == 15
    assert valid["groups"]["kept_together"]
    assert valid["baselines"][0]["r2"] > 0.6
