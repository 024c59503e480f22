"""The preview holds what the recording holds, stays small, and looks at a bounded part of a large one."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.ingest.ingest_examples import example_recording
from worker.ingest.quality_control import preview
from worker.ingest.quality_control.preview import make_preview
from worker.ingest.recording import Recording

MOST_BYTES = 300_000


def recording(spikes: Any, width_s: float = 0.02, **changes: Any) -> Recording:
    spikes = np.asarray(spikes)
    trials, bins, _ = spikes.shape
    fields: dict[str, Any] = {
        "trial_length_bins": np.full(trials, bins),
        "split": np.full(trials, -1, np.int8),
    }
    return Recording(spikes.astype(np.uint16), width_s, **(fields | changes))


def size(document: dict[str, Any]) -> int:
    return len(json.dumps(document, allow_nan=False))


def test_means_and_errors_by_condition() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(10, 26, 60)
    spikes = random.poisson(0.8, (60, 25, 5)) * (np.arange(25)[:, None] < lengths[:, None, None])
    target = [("left", "right", "up")[number % 3] for number in range(60)]
    made = recording(spikes, trial_length_bins=lengths, trial_metadata={"target": target}, time_zero_s=-0.1)
    psth = make_preview(made)["psth"]
    assert psth["by"] == "target"
    assert [one["value"] for one in psth["conditions"]] == ["left", "right", "up"]
    assert psth["time_s"] == pytest.approx(-0.1 + np.arange(lengths.max()) * 0.02)
    is_up = np.array([value == "up" for value in target])
    for neuron in psth["neurons"]:
        for at in range(lengths.max()):
            reaching = spikes[is_up & (lengths > at), at, neuron["neuron"]] / 0.02
            assert psth["trials_per_bin"][2][at] == len(reaching)
            if len(reaching) > 1:
                assert neuron["mean_hz"][2][at] == pytest.approx(reaching.mean(), rel=1e-3)
                error = reaching.std(ddof=1) / np.sqrt(len(reaching))
                assert neuron["sem_hz"][2][at] == pytest.approx(error, rel=1e-3)
            else:
                assert neuron["sem_hz"][2][at] is None
    by_trial = spikes[is_up, 0].mean(axis=1) / 0.02
    assert psth["population"]["mean_hz"][2][0] == pytest.approx(by_trial.mean(), rel=1e-3)


def test_narrow_bins_are_put_together() -> None:
    spikes = np.random.default_rng(0).poisson(0.1, (10, 203, 4))
    psth = make_preview(recording(spikes, 0.005))["psth"]
    assert psth["bin_width_s"] == 0.02
    assert len(psth["time_s"]) == 50  # the last three bins do not fill one
    wide = spikes[:, :200].reshape(10, 50, 4, 4).sum(axis=2)
    first = psth["neurons"][0]
    assert first["mean_hz"][0] == pytest.approx(wide[..., first["neuron"]].mean(axis=0) / 0.02, rel=1e-3)
    assert psth["by"] is None
    assert psth["conditions"] == [{"value": None, "trials": 10}]


def test_the_raster_has_the_spikes() -> None:
    made = example_recording()
    made.spikes[2, 3, 1] = 5
    document = make_preview(made)["raster"]
    assert sorted(document["neurons"]) == list(range(7))
    assert len(document["trials"]) == 4
    for trial in document["trials"]:
        for neuron, bins in zip(document["neurons"], trial["spikes"], strict=True):
            counts = np.bincount(bins, minlength=20)
            np.testing.assert_array_equal(counts, made.spikes[trial["trial"], :, neuron])


def test_trials_are_spread_over_the_session() -> None:
    starts_s = np.arange(40)[::-1] * 10.0
    document = make_preview(recording(np.ones((40, 5, 3)), trial_start_s=starts_s))
    assert [trial["start_s"] for trial in document["raster"]["trials"]] == [50, 150, 250, 350]
    assert document["session"]["unit"] == "s"
    assert document["session"]["at"] == sorted(starts_s.tolist())


def test_modulated_neurons_come_first() -> None:
    time = np.linspace(0, 2 * np.pi, 40)[:, None]
    rates = np.full((40, 30), 0.5)
    rates[:, [4, 17]] += 0.45 * np.sin(time)
    spikes = np.random.default_rng(0).poisson(rates, (80, 40, 30))
    neurons = make_preview(recording(spikes))["psth"]["neurons"]
    assert {neurons[0]["neuron"], neurons[1]["neuron"]} == {4, 17}
    assert len(neurons) == 6


def test_of_many_conditions_twelve_are_shown() -> None:
    condition = [number % 20 for number in range(200)]
    psth = make_preview(
        recording(
            np.random.default_rng(0).poisson(0.3, (200, 10, 4)), trial_metadata={"condition": condition}
        )
    )["psth"]
    assert [one["value"] for one in psth["conditions"]] == [0, 1, 3, 5, 6, 8, 10, 12, 13, 15, 17, 19]
    assert psth["conditions_in_all"] == 20
    frequent = [*[3] * 60, *condition[60:]]
    psth = make_preview(recording(np.ones((200, 10, 4)), trial_metadata={"condition": frequent}))["psth"]
    assert {"value": 3, "trials": 67} in psth["conditions"]


@pytest.mark.parametrize(
    ("trials", "bins", "neurons", "rate"),
    [(200, 150, 400, 0.5), (6, 30_000, 20, 2.0), (3000, 20, 30, 1.0), (8, 2, 3, 60_000), (2, 2, 1, 1.0)],
)
def test_it_is_small(trials: int, bins: int, neurons: int, rate: float) -> None:
    spikes = np.random.default_rng(0).poisson(rate, (trials, bins, neurons))
    metadata = {"condition": [f"{'x' * 500}{number % 8}" for number in range(trials)]}
    document = make_preview(recording(spikes, 0.001, trial_metadata=metadata))
    assert size(document) < MOST_BYTES
    shown = [sum(map(len, trial["spikes"])) for trial in document["raster"]["trials"]]
    assert 0 < sum(shown) <= preview.MOST_SPIKES
    assert len(document["raster"]["neurons"]) == min(60, neurons)
    assert len(document["psth"]["time_s"]) <= 150
    assert len(document["session"]["at"]) <= 500
    assert sum(document["rates"]["neurons"]) + document["rates"]["silent"] == neurons


def test_of_a_large_recording_a_part_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    spikes = np.random.default_rng(0).poisson(1.0, (50, 40, 10))
    monkeypatch.setattr(preview, "MOST_COUNTS", 5000)
    document = make_preview(recording(spikes))
    assert document["trials_looked_at"] == 13
    assert document["psth"]["conditions"][0]["trials"] == 13
    monkeypatch.setattr(preview, "BLOCK_BYTES", 800)  # trials are too long for memory
    document = make_preview(recording(spikes))
    assert document["raster"]["bins"] == 20
    assert document["psth"]["population"]["mean_hz"][0][0] == pytest.approx(
        spikes[::4, 0].mean() / 0.02, rel=1e-3
    )


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(2, 12), st.integers(2, 30), st.integers(1, 6)),
    st.sampled_from([1e-4, 0.001, 0.02, 1.0]),
    st.sampled_from([0.0, 0.2, 300.0]),
    st.lists(st.sampled_from([None, True, 1, 2.5, "a", "b"]), min_size=12, max_size=12),
    st.integers(0, 99),
)
def test_every_recording_has_one(
    shape: tuple[int, int, int], width_s: float, rate: float, column: list[Any], seed: int
) -> None:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, shape[1] + 1, shape[0])
    spikes = random.poisson(rate, shape) * (np.arange(shape[1])[:, None] < lengths[:, None, None])
    spikes[0, 0, 0] = 1
    made = recording(
        spikes,
        width_s,
        trial_length_bins=lengths,
        trial_metadata={"cue": column[: shape[0]]},
        trial_start_s=random.normal(size=shape[0]) if seed % 2 else None,
    )
    assert size(make_preview(made)) < MOST_BYTES
