"""Two sessions of different neurons as one data set: combined, trained, their latents read over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domain.scores import bits_per_spike, r2_true_rates
from domain.states import DatasetState
from models import Architecture, infer_latents, principal_components_initial_values, sample_validation_mask
from store.array_store import object_size
from store.arrays import open_group
from store.identifiers import new_id
from store.tables import DEFAULT_TENANT, Dataset
from tests.worker.conftest import SPECIFICATION
from tests.worker.fake_workers import read_job, read_models, read_slices
from tests.worker.lab import Lab
from tests.worker.real_training import curves, unhurried
from worker.context.checkpoints import load_checkpoint
from worker.context.data import read_conditions, read_sessions
from worker.ingest import combine
from worker.ingest.service import ingest_dataset
from worker.training.train import _populations, _read_in_initial_values

FIRST = {
    "conditions": 6,
    "trials_per_condition": 5,
    "bins": 20,
    "neurons": 9,
    "mean_count_per_bin": 0.4,
    "seed": 1,
}
SECOND = {**FIRST, "trials_per_condition": 4, "bins": 16, "neurons": 7}
TRIALS, BINS, NEURONS = (30, 24), (20, 16), (9, 7)


class Sessions(Lab):
    """With two sessions and their combination."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.session_ids = [
            self.ingest({"kind": "synthetic", "system": "two_sessions", "session": number, **system})
            for number, system in enumerate((FIRST, SECOND))
        ]
        self.dataset_id = self.combine(self.session_ids)

    def search(self, dataset_id: str | None = None, **changes: Any) -> str:
        """A job that has run to its end, on the combination unless another is named."""
        return super().search(dataset_id or self.dataset_id, **changes)

    def begin(self, dataset_id: str | None = None, **changes: Any) -> str:
        """A job that is only asked for."""
        return super().begin(dataset_id or self.dataset_id, **changes)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    found = Sessions(tmp_path_factory.mktemp("lab"))
    yield found
    found.database.close()


@pytest.fixture(scope="module")
def job_id(lab: Sessions) -> str:
    return lab.search()


def test_a_combination_has_the_arrays_and_trials_of_its_sessions(lab: Sessions) -> None:
    document = lab.client.get(f"/v1/datasets/{lab.dataset_id}").json()
    assert document["state"] == "ready"
    with lab.database.read() as session:
        ids = lab.dataset_id, *lab.session_ids
        combined, *sizes = (session.get_one(Dataset, one).trial_bytes or 0 for one in ids)
    assert combined >= sum(sizes) > 0  # the rows of trials count for a quota
    assert (document["trials"], document["bins"], document["neurons"]) == (54, 20, 16)
    told = document["report"]["sessions"]
    sizes = zip(lab.session_ids, TRIALS, BINS, NEURONS, strict=True)
    names = ("dataset_id", "trials", "bins", "neurons")
    assert [tuple(one[name] for name in names) for one in told] == list(sizes)
    owner, rows = f"datasets/{lab.dataset_id}", slice(0, 30)
    trials = lab.client.get(f"/v1/datasets/{lab.dataset_id}/trials?page_size=500").json()["items"]
    for number, session_id in enumerate(lab.session_ids):
        bins = BINS[number]
        for name in ("spikes", "true_rates_hz", "true_latents"):
            ours, theirs = lab.array(owner, f"{name}_{number}"), lab.array(f"datasets/{session_id}", name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours[:, :bins], theirs)
            assert not ours[:, bins:].any()
        of_session = lab.client.get(f"/v1/datasets/{session_id}/trials?page_size=500").json()["items"]
        for one in of_session:
            one["details"]["session"] = number
            one["trial"] += rows.start
        assert trials[rows] == of_session
        rows = slice(30, 54)
    group = lab.open(owner)
    assert group["spikes_1"].dims == ("trial_1", "time_s", "neuron_1")
    assert group["spikes_1"].attrs["units"] == "spikes"
    assert group["trial_1"].values.tolist() == list(range(30, 54))
    assert {"session", "trial_length_bins", "condition_0", "condition_1"} <= set(group.coords)
    assert group["trial_length_bins"].values.tolist() == [20] * 30 + [16] * 24
    assert set(document["report"]["arrays"]) == set(group.variables)


def read_dataset(lab: Sessions, dataset_id: str) -> Dataset:
    with lab.database.read() as session:
        return session.get_one(Dataset, dataset_id)


def test_latents_are_those_of_every_trial_in_the_combined_order(lab: Sessions, job_id: str) -> None:
    model = lab.selected(job_id)
    owner = f"models/{model.id}"
    listed = {one["name"]: one for one in lab.client.get(f"/v1/{owner}/arrays").json()["items"]}
    assert listed["rates_1"]["dims"] == ["trial_1", "time_s", "neuron_1"]
    assert listed["rates_1"]["units"] == "spikes/s"
    assert "rates" not in listed
    factors, states = lab.array(owner, "factors"), lab.array(owner, "generator_states")
    assert (factors.shape, states.shape) == ((54, 20, 3), (54, 20, 8))
    architecture = lab_architecture(lab, job_id)
    checkpoint = load_checkpoint(lab.arrays, model.checkpoint_key or "")
    for number, rows in enumerate((slice(0, 30), slice(30, 54))):
        latents = infer_latents(
            architecture,
            checkpoint,
            lab.array(f"datasets/{lab.dataset_id}", f"spikes_{number}"),
            np.full(TRIALS[number], BINS[number]),
            session=number,
            posterior_samples=4,
            seed=model.seed + number,
        )
        rates = lab.array(owner, f"rates_{number}")
        assert rates.shape == (TRIALS[number], 20, NEURONS[number])
        np.testing.assert_allclose(rates, latents.rates / np.float32(0.01), rtol=1e-5)
        np.testing.assert_allclose(factors[rows], latents.factors, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(
            lab.array(owner, "initial_conditions")[rows], latents.initial_conditions
        )
        assert np.isnan(rates[:, BINS[number] :]).all()
        assert np.isfinite(rates[:, : BINS[number]]).all()
    group = lab.open(owner)
    assert group["rates_0"].dims == ("trial_0", "time_s", "neuron_0")
    assert group["session"].values.tolist() == [0] * 30 + [1] * 24
    assert {"session", "split", "trial_length_bins"} <= set(group["factors"].coords)
    later = group["factors"].isel(trial=(group["session"] == 1).values)
    np.testing.assert_array_equal(later["trial"].values, group["trial_1"].values)


def lab_architecture(lab: Sessions, job_id: str) -> Any:
    described = dict(lab.selected(job_id).architecture)
    assert described["read_in_dim"] == described["factors"] == 3
    return Architecture(neurons=NEURONS, **described | {"held_out_neurons": ()})


def test_scores_are_of_both_sessions(lab: Sessions, job_id: str) -> None:
    model = lab.selected(job_id)
    owner, split = f"models/{model.id}", lab.array(f"models/{model.id}", "split")
    gains, spikes, r2 = 0.0, 0.0, []
    for number, rows in enumerate((slice(0, 30), slice(30, 54))):
        valid = split[rows] == 1
        assert valid.sum() == 6  # one of each condition, as the synthetic sessions have it
        rates = lab.array(owner, f"rates_{number}")[valid, : BINS[number]] * 0.01
        session = f"datasets/{lab.session_ids[number]}"
        counts = lab.array(session, "spikes")[valid]
        gains += bits_per_spike(rates, counts) * counts.sum()
        spikes += counts.sum()
        truth = lab.array(session, "true_rates_hz")[valid] * 0.01
        r2 += [r2_true_rates(rates[..., n : n + 1], truth[..., n : n + 1]) for n in range(NEURONS[number])]
    assert model.scores["reconstruction_bits_per_spike_valid"] == pytest.approx(gains / spikes, rel=1e-4)
    assert model.scores["r2_true_rates_valid"] == pytest.approx(np.mean(r2), rel=1e-3)
    assert np.isfinite(list(model.scores.values())).all()
    assert {"psth_r2_valid", "sv_bits_per_spike_valid", "r2_true_rates"} <= set(model.scores)
    diagnostics = read_job(lab.database, job_id).diagnostics
    assert diagnostics is not None
    assert [one["number"] for one in diagnostics["models"]] == [0, 1, 2]


def test_many_short_slices_give_the_numbers_of_one_long(lab: Sessions, job_id: str) -> None:
    lab.settings.slice_seconds = 0.0001
    cut = lab.search()
    lab.settings.slice_seconds = 60
    assert len(read_slices(lab.database, cut)) == 5
    assert curves(lab.database, cut) == curves(lab.database, job_id)


def test_one_session_has_the_arrays_it_always_had(lab: Sessions) -> None:
    job_id = lab.search(lab.session_ids[1], budget={"models": 1, "epochs": 1})
    model = lab.selected(job_id)
    assert "read_in_dim" not in model.architecture
    group = open_group(lab.arrays, model.latents_path or "")
    assert set(group.array_keys()) == {
        "rates", "factors", "initial_conditions", "generator_states", "trial", "time_s", "neuron", "split",
        "trial_length_bins",
    }  # fmt: skip


def test_copies_a_last_fit_and_a_searched_read_in(lab: Sessions) -> None:
    job_id = lab.search(
        strategy={"kind": "pbt", "generation_epochs": 2, "burn_in_epochs": 2},
        budget={"models": 4, "epochs": 6},
        inference={"posterior_samples": 2, "refit": True, "arrays": ["rates"]},
    )
    decisions = lab.client.get(f"/v1/jobs/{job_id}/decisions").json()["items"]
    assert "copy" in {one["kind"] for one in decisions}
    final = lab.selected(job_id)
    assert final.id == read_job(lab.database, job_id).final_model_id
    group = open_group(lab.arrays, final.latents_path or "")
    assert {"rates_0", "rates_1"} <= set(group.array_keys())
    assert "factors" not in group
    sizes = {"encoder_units": 6, "initial_condition_dim": 4, "generator_units": 6, "factors": 3}
    job_id = lab.search(
        architecture={**sizes, "read_in_dim": [2, 5]}, strategy={"kind": "grid"}, space=FIXED,
        budget={"models": 2, "epochs": 1},
    )  # fmt: skip
    models = read_models(lab.database, job_id)
    assert sorted(model.architecture["read_in_dim"] for model in models) == [2, 5]


FIXED = {
    "learning_rate": 0.004, "dropout": 0.1, "cd_rate": 0.3, "kl_weight_initial_condition": 1e-5,
    "l2_weight_generator": 1e-3,
}  # fmt: skip


def test_read_ins_begin_with_what_conditions_have_in_common(lab: Sessions) -> None:
    work = lab.work(lab.begin(budget={"models": 1, "epochs": 1}))
    sessions = read_sessions(lab.process.arrays, work)
    initial_values = _read_in_initial_values(work, sessions, read_conditions(lab.database, work.dataset))
    masks = [sample_validation_mask(one.spikes.shape, 0.2, 0, number) for number, one in enumerate(sessions)]
    cut = [
        type(one)(
            one.spikes[:, :16], np.minimum(one.trial_length_bins, 16), one.is_validation, missing=mask[:, :16]
        )
        for one, mask in zip(sessions, masks, strict=True)
    ]
    conditions = [lab.array(f"datasets/{one}", "condition") for one in lab.session_ids]
    expected = principal_components_initial_values(work.architecture(), cut, conditions)
    assert set(initial_values) == {
        f"session{number}.{name}"
        for number in (0, 1)
        for name in ("read_in.weight", "read_in.bias", "rates.weight")
    }
    begun = _populations(lab.process, work, lab.process.data.load(work))([0], None).state(0)
    for name, values in expected.items():
        torch.testing.assert_close(initial_values[name], values)
        torch.testing.assert_close(begun[f"weights.{name}"], values)
    over_all = principal_components_initial_values(work.architecture(), cut)
    different = [f"only {trial}" for trial in range(54)]
    torch.testing.assert_close(_read_in_initial_values(work, sessions, different), over_all)
    torch.testing.assert_close(_read_in_initial_values(work, sessions, [None] * 54), over_all)


def test_read_ins_do_not_see_what_is_held_out(lab: Sessions) -> None:
    """Neither the held-out samples of training trials, nor any sample of other trials."""
    work = lab.work(lab.begin(training={**SPECIFICATION["training"], "test_fraction": 0.2}))
    assert set(work.split()) == {"train", "valid", "test"}
    sessions, conditions = (
        read_sessions(lab.process.arrays, work),
        read_conditions(lab.database, work.dataset),
    )
    before = _read_in_initial_values(work, sessions, conditions)
    for number, (recorded, one) in enumerate(zip(work.sessions, sessions, strict=True)):
        one.spikes[sample_validation_mask(one.spikes.shape, 0.2, 0, number)] += 7
        one.spikes[work.split()[recorded.rows] != "train"] += 9
    after = _read_in_initial_values(work, sessions, conditions)
    for name, values in before.items():
        torch.testing.assert_close(after[name], values, rtol=0, atol=0)


def test_a_warm_start_has_the_weights_of_other_stitched_models(lab: Sessions, job_id: str) -> None:
    warm = {"job_id": job_id, "models": 1}
    warmed = lab.search(warm_start=warm, budget={"models": 2, "epochs": 1})
    first, fresh = read_models(lab.database, warmed)
    assert first.smoothed_sv_loss is not None
    assert fresh.smoothed_sv_loss is not None
    assert first.smoothed_sv_loss < fresh.smoothed_sv_loss
    body = {"dataset_id": lab.session_ids[0], **SPECIFICATION, "warm_start": warm}
    answer = lab.client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert "9 + 7 neurons and this data set has 9" in answer.json()["detail"]


def test_sessions_that_begin_at_another_time_are_warned_of(lab: Sessions) -> None:
    given = [read_dataset(lab, one) for one in lab.session_ids]
    assert not list(combine._other_starts(given, [combine._start_s(lab.arrays, one) for one in given]))
    [warning] = combine._other_starts(given, [-0.1, 0.02])
    assert (warning["code"], warning["pointer"]) == ("other_time_zero", "/dataset_ids/1")
    assert "begin at 0.02 s, those of session 0 at -0.1 s" in warning["message"]


def test_a_session_that_is_gone(lab: Sessions) -> None:
    row = Dataset(
        id=new_id("dat"), tenant_id=DEFAULT_TENANT, name="later", state=DatasetState.INGESTING, attempts=0,
        source={"kind": "sessions", "dataset_ids": [lab.session_ids[0], "dat_gone"]},
    )  # fmt: skip
    with lab.database.write() as session:
        session.add(row)
    ingest_dataset(lab.database, lab.arrays, unhurried(lab.settings), row.id, "test")
    found = read_dataset(lab, row.id)
    assert found.state == DatasetState.REJECTED
    assert found.problems is not None
    assert found.problems[0]["code"] == "session_gone"
    assert "dat_gone" in found.problems[0]["message"]


def test_a_combination_that_went_to_another_worker_leaves_nothing(
    lab: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, lost = combine._report, []

    def lose(given: Any) -> dict[str, Any]:
        with lab.database.write() as session:
            [row] = session.query(Dataset).filter_by(state=DatasetState.INGESTING)
            lost.append(f"datasets/{row.id}/{row.lease_token}")
            row.lease_token = row.lease_expires_at = None
        return report(given)

    with monkeypatch.context() as patch:
        patch.setattr(combine, "_report", lose)
        dataset_id = lab.combine(lab.session_ids[::-1])
    assert object_size(lab.arrays, f"{lost[0]}/zarr.json") is None
    assert read_dataset(lab, dataset_id).state == DatasetState.INGESTING
    ingest_dataset(lab.database, lab.arrays, unhurried(lab.settings), dataset_id, "another")
    found = read_dataset(lab, dataset_id)
    assert found.state == DatasetState.READY
    assert found.array_path != lost[0]
    assert lab.array(f"datasets/{dataset_id}", "spikes_0").shape == (24, 20, 7)


def interrupted_file(folder: Path, seed: int) -> Path:
    """12 trials of 0.4 s given by trial; windows begin 0.1 s before some of them."""
    random = np.random.default_rng(seed)
    trial = np.repeat(np.arange(24), 60)
    path = folder / f"interrupted_{seed}.npz"
    np.savez(
        path, spike_times=random.uniform(0, 0.4, len(trial)), trial=trial, neuron=random.integers(0, 5, len(trial)),
        go=np.tile([0.0, 0.1], 12),
    )  # fmt: skip
    return path


def test_what_was_not_observed_goes_all_the_way(lab: Sessions, tmp_path: Path) -> None:
    options = {"bin_width_s": 0.02, "trials": {"align_to": "go", "window_s": [-0.1, 0.3]}}
    ids = [lab.ingest(interrupted_file(tmp_path, seed), **options) for seed in (0, 1)]
    expected = np.zeros((24, 20, 5), np.uint8)
    expected[::2, :5] = 1
    for dataset_id in ids:
        np.testing.assert_array_equal(lab.array(f"datasets/{dataset_id}", "missing"), expected)
        assert (lab.array(f"datasets/{dataset_id}", "spikes")[expected == 1] == 0).all()
    combined = lab.combine(ids)
    np.testing.assert_array_equal(lab.array(f"datasets/{combined}", "missing_1"), expected)
    job_id = lab.search(combined, budget={"models": 1, "epochs": 2})
    rates = lab.array(f"models/{lab.selected(job_id).id}", "rates_0")
    assert np.isfinite(rates).all()  # the model interpolates what was not observed
    work = lab.work(lab.begin(combined))
    for session in read_sessions(lab.process.arrays, work):
        np.testing.assert_array_equal(session.missing, expected == 1)
    data = lab.process.data.load(work).training
    for part in data.batch([torch.arange(24), torch.arange(24)]).parts:
        seen = (part.visible | part.held_out).numpy().transpose(1, 0, 2)
        np.testing.assert_array_equal(seen, expected == 0)
