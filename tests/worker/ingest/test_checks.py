"""What the checks find in recordings that have a known fault, and that they are silent about those that have none."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from domain.dataset_options import ChopOptions, DatasetOptions
from domain.windows import Windows
from tests.worker.ingest.ingest_examples import example_recording
from worker.ingest import rows
from worker.ingest.preprocessing.chopping import chop, rebin
from worker.ingest.preprocessing.splits import apply_split
from worker.ingest.problems import Problem
from worker.ingest.quality_control import spike_statistics
from worker.ingest.quality_control.checks import examine
from worker.ingest.quality_control.conditions import find_conditions
from worker.ingest.quality_control.drift import find_drift
from worker.ingest.quality_control.preview import make_preview
from worker.ingest.quality_control.report import Report
from worker.ingest.quality_control.spike_statistics import gather_statistics
from worker.ingest.recording import Recording, Understood

TRIALS, BINS, NEURONS = 160, 60, 40


def recording(spikes: NDArray[Any], width_s: float = 0.01, **changes: Any) -> Recording:
    trials, bins, _ = spikes.shape
    fields: dict[str, Any] = {
        "trial_length_bins": np.full(trials, bins),
        "split": np.full(trials, -1, np.int8),
    }
    return Recording(spikes.astype(np.uint16), width_s, **(fields | changes))


def rates(seed: int, width_s: float = 0.01, bins: int = BINS) -> tuple[NDArray[Any], NDArray[Any]]:
    """Counts per bin that three oscillations drive, each condition from other phases, and the condition of each trial."""
    random = np.random.default_rng(seed)
    condition = random.integers(0, 6, TRIALS)
    phase = random.uniform(0, 2 * np.pi, (6, 1, 3))[condition]
    latents = np.sin(2 * np.pi * np.arange(bins)[:, None] * width_s * np.array([1, 2, 3]) + phase)
    weights = random.normal(0, 0.7, (3, NEURONS))
    return np.exp(latents @ weights + random.normal(1.7, 0.8, NEURONS)) * width_s, condition


def codes(report: Report) -> set[str]:
    return {warning.code for warning in report.warnings}


def message(report: Report, code: str) -> str:
    (found,) = [warning for warning in report.warnings if warning.code == code]
    assert found.hint
    assert found.pointer
    return found.message


def shared(counts: NDArray[Any], per_bin: NDArray[Any], neuron: int, share: float) -> NDArray[Any]:
    """Add a neuron with the same rate that has a share of another's spikes."""
    random = np.random.default_rng(9)
    its = random.binomial(counts[..., neuron], share) + random.poisson(per_bin[..., neuron] * (1 - share))
    return np.concatenate([counts, its[..., None]], axis=2)


@pytest.mark.parametrize(
    ("width_s", "share", "is_found"),
    [
        (0.01, 0, 0),
        (0.01, 0.35, 1),
        (0.01, 0.6, 1),
        (0.02, 0.9, 1),
        (0.1, 0, 0),
        (0.05, 0.9, 1),
        (0.1, 0.9, 1),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_neurons_that_share_spikes(width_s: float, share: float, is_found: int, seed: int) -> None:
    per_bin, condition = rates(seed, width_s, round(0.6 / width_s) if width_s < 0.05 else 12)
    counts = np.random.default_rng(seed).poisson(per_bin)
    neuron = int(np.argsort(counts.sum(axis=(0, 1)))[-5])
    report = examine(
        recording(
            shared(counts, per_bin, neuron, share), width_s, trial_metadata={"condition": condition.tolist()}
        )
    )
    assert report.correlated_neurons == [[neuron, NEURONS]] * is_found
    assert codes(report) == {"correlated_neurons"} if is_found else set() == codes(report)
    assert [pair["neurons"] for pair in report.correlated_pairs] == [(neuron, NEURONS)] * is_found


def test_an_artefact_on_many_electrodes_is_one_group() -> None:
    per_bin, _ = rates(0)
    counts = np.random.default_rng(0).poisson(per_bin)
    some = sorted(np.argsort(counts.sum(axis=(0, 1)))[4:8].tolist())
    counts[..., some] += np.random.default_rng(1).random((TRIALS, BINS, 1)) < 0.1
    report = examine(recording(counts))
    assert report.correlated_neurons == [some]
    assert f"{some}" in message(report, "correlated_neurons")


def test_copies_are_duplicates_and_a_split_unit_is_none() -> None:
    counts = np.random.default_rng(0).poisson(rates(0)[0])
    half = np.random.default_rng(1).binomial(counts[..., 5], 0.5)
    counts[..., 5] -= half
    report = examine(recording(np.concatenate([counts, half[..., None], counts[..., :1]], axis=2)))
    assert codes(report) == {"duplicate_neurons"}
    assert report.duplicate_neurons == [[0, NEURONS + 1]]


def session(seed: int, gain: NDArray[Any], **changes: Any) -> Report:
    per_bin, condition = rates(seed)
    counts = np.random.default_rng(seed).poisson(per_bin * gain)
    return examine(recording(counts, **({"trial_metadata": {"condition": condition.tolist()}} | changes)))


def test_lost_and_new_neurons() -> None:
    gain = np.ones((TRIALS, 1, NEURONS))
    fastest = np.argsort(rates(0)[0].sum(axis=(0, 1)))
    lost, new = int(fastest[-1]), int(fastest[-2])
    gain[100:, :, lost] = gain[:90, :, new] = 0
    report = session(0, gain)
    assert codes(report) == {"neurons_lost", "neurons_appear"}
    assert report.drift is not None
    assert (report.drift.lost, report.drift.appeared) == ([lost], [new])
    # The trials lie in the order of time, not of the file.
    backwards = session(0, gain, trial_start_s=np.arange(TRIALS)[::-1] * 3.0)
    assert backwards.drift is not None
    assert (backwards.drift.lost, backwards.drift.appeared) == ([new], [lost])


def test_a_population_that_drifts() -> None:
    report = session(0, np.linspace(1, 0.5, TRIALS)[:, None, None])
    assert codes(report) == {"population_drift"}
    assert report.drift is not None
    assert report.drift.population_ratio == pytest.approx(0.6, abs=0.05)
    assert "factor of 0.6" in message(report, "population_drift")


@pytest.mark.parametrize("seed", range(3))
def test_what_is_no_drift(seed: int) -> None:
    random = np.random.default_rng(seed)
    assert codes(session(seed, np.ones((1, 1, 1)))) == set()
    excitable = np.exp(0.3 * random.normal(size=(TRIALS, 1, 1)))
    assert codes(session(seed, excitable)) == set()
    slowly = np.exp(0.3 * np.sin(np.arange(TRIALS) / 8 + seed))[:, None, None]
    assert codes(session(seed, slowly)) == set()
    # Conditions in blocks, each driving other neurons.
    per_bin, condition = rates(seed)
    per_bin = per_bin * np.exp(random.normal(0, 1.5, (6, NEURONS)))[condition][:, None, :]
    order = np.argsort(condition, kind="stable")
    counts = random.poisson(per_bin[order])
    in_blocks = recording(counts, trial_metadata={"condition": condition[order].tolist()})
    assert codes(examine(in_blocks)) == set()


def test_few_trials_tell_no_drift() -> None:
    assert find_drift(np.ones((29, 3), np.float32), np.ones((29, 1)), np.zeros(29, np.int64)) is None
    silent = find_drift(np.zeros((30, 3), np.float32), np.ones((30, 1)), np.zeros(30, np.int64))
    assert silent is not None
    assert (silent.changed, silent.is_of_population) == ([], False)


@pytest.mark.parametrize(("unit", "said"), [(100, "1 ÷ bin_width_s"), (7, "multiple of 7")])
def test_counts_that_are_rates(unit: int, said: str) -> None:
    report = examine(recording(np.random.default_rng(0).poisson(rates(0)[0]) * unit))
    assert said in message(report, "counts_look_like_rates")


def test_counts_that_are_yes_or_no() -> None:
    counts = np.random.default_rng(0).poisson(rates(0, 0.02)[0]).clip(max=1)
    assert "more than one spike in a bin of 20 ms" in message(
        examine(recording(counts, 0.02)), "counts_clipped_maybe"
    )
    assert codes(examine(recording(counts, 0.002))) == set()  # neurons rest after a spike
    assert codes(examine(recording(np.random.default_rng(0).random(counts.shape) < 0.005, 0.02))) == set()


@pytest.mark.parametrize(
    ("seconds", "width_s", "spikes", "code"),
    [
        (800.0, 0.8, 4, "times_maybe_milliseconds"),
        (24000.0, 4.0, 4, "times_maybe_samples"),
        (800.0, 0.8, 2000, None),
    ],
)
def test_times_in_another_unit(seconds: float, width_s: float, spikes: int, code: str | None) -> None:
    """Trials of 0.8 s whose times were taken as seconds."""
    bins = round(seconds / width_s)
    counts = np.random.default_rng(0).poisson(spikes / bins, (120, bins, 8))
    report = examine(recording(counts, width_s, trial_start_s=np.arange(120) * seconds * 3))
    found = codes(report) & {"times_maybe_milliseconds", "times_maybe_samples", "mean_rate_implausible"}
    assert found == ({code} if code else set())
    if code is not None:
        assert "days" in message(report, code)


def test_trials_that_are_mostly_padding() -> None:
    counts = np.random.default_rng(0).poisson(rates(0)[0])
    lengths = np.full(TRIALS, 20)
    lengths[0] = BINS
    counts *= np.arange(BINS)[:, None] < lengths[:, None, None]
    report = examine(recording(counts, trial_length_bins=lengths))
    assert codes(report) == {"mostly_padding"}
    assert report.padding_fraction == pytest.approx(1 - (20 * 159 + 60) / (60 * 160), abs=1e-4)


def test_the_same_trial_twice() -> None:
    counts = np.random.default_rng(0).poisson(rates(0)[0])
    counts[7] = counts[90]
    counts[3] = counts[4] = 0
    report = examine(recording(counts))
    assert report.duplicate_trials == [[7, 90]]
    assert codes(report) == {"duplicate_trials", "empty_trials"}


def test_a_condition_with_one_trial() -> None:
    counts = np.random.default_rng(0).poisson(rates(0)[0])
    names = ["left", "right"] * (TRIALS // 2 - 1) + ["left", "rigth"]
    said = message(examine(recording(counts, trial_metadata={"target": names})), "rare_conditions")
    assert "1 of 3 values of `target`" in said
    assert "rigth" in said


def test_remarks_are_no_warnings() -> None:
    counts = np.random.default_rng(0).poisson(0.4, (20, 10, 4))
    report = examine(recording(counts, 0.1))
    assert report.warnings == []
    assert [note.split(" ", 1)[0] for note in report.notes] == ["20", "4", "Bins"]


def test_the_report_describes_what_came_with_the_spikes() -> None:
    made = example_recording()
    made.neuron_metadata = {"area": ["M1", "M1", "PMd", None, "M1", "M1", "PMd"]}
    made.understood = [Understood("spikes", "counts", "by its name", (12, 20, 7), ("rates (12, 20, 7)",))]
    made.time_zero_s, made.trial_start_s = -0.25, np.arange(12) * 2.0 + 5
    report = examine(made)
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["understood"][0]["alternatives"] == ["rates (12, 20, 7)"]
    assert document["neuron_metadata"]["area"] == {
        "kind": "text",
        "distinct": 2,
        "missing": 1,
        "values": [{"value": "M1", "count": 4}, {"value": "PMd", "count": 2}],
    }
    assert document["trial_metadata"]["rewarded"]["kind"] == "true or false"
    assert document["trial_metadata"]["reaction_time_s"]["missing"] == 1
    assert document["conditions"] == "target"
    assert document["time_zero_s"] == -0.25
    assert document["session_s"] == [5.0, pytest.approx(5 + 22 + made.trial_length_bins[-1] * 0.05)]
    assert document["chopped"] is None
    assert len(document["rates_hz"]) == 7
    assert np.mean(document["rates_hz"]) == pytest.approx(document["mean_rate_hz"], rel=1e-3)


def test_the_report_of_windows() -> None:
    counts = np.random.default_rng(0).poisson(0.5, (6, 20, 5))
    windows = Windows(
        np.array([0, 0, 0, 1, 1, 1]), np.array([0, 15, 30] * 2), np.array([0.0, 9.0]), np.array([50, 50])
    )
    starts_s = windows.segment_start_s[windows.segment] + windows.first_bin * 0.01
    report = examine(recording(counts, trial_start_s=starts_s, windows=windows))
    assert report.chopped == {"windows": 6, "segments": 2, "window_s": 0.2, "overlap_s": 0.05}
    assert report.session_s == [0.0, 9.5]
    windows.segment_start_s[:] = 0  # long trials that nothing is known of
    assert examine(recording(counts, trial_start_s=starts_s, windows=windows)).session_s is None


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"trial_id": list(range(20)), "condition": [1, 2] * 10}, "condition"),
        ({"block": [1, 2] * 10, "target_direction": [0.0, 1.5, 3.1, 4.5] * 5}, "target_direction"),
        ({"rewarded": [True, False] * 10, "speed": list(range(20))}, "rewarded"),
        ({"session": [1, 2] * 10, "one": [1] * 20, "none": [None] * 20}, None),
        ({}, None),
        ({"condition": [*range(18), 0, 1], "cue": [1, 2] * 10}, "condition"),
        ({"condition": list(range(20)), "cue": [1, 2] * 10}, "cue"),
    ],
)
def test_which_metadata_are_conditions(metadata: dict[str, list[Any]], name: str | None) -> None:
    found = find_conditions(recording(np.ones((20, 5, 3)), trial_metadata=metadata))
    assert (None if found is None else found.name) == name


def test_the_report_names_the_conditions_and_other_candidates() -> None:
    metadata = {"outcome": ["hit", "miss"] * 10, "direction": [0.0, 1.5, 3.1, 4.5] * 5}
    report = examine(recording(np.ones((20, 5, 3)), trial_metadata=metadata))
    assert report.conditions == "direction"
    said = "Conditions are the 4 values of the trial metadata `direction`; others that may be: outcome."
    assert said in report.notes


def test_conditions_of_several_kinds_have_an_order() -> None:
    column = ["b", 2, None, True, 1.5, "a"] * 4
    found = find_conditions(recording(np.ones((24, 5, 3)), trial_metadata={"cue": column}))
    assert found is not None
    assert found.values == [True, 1.5, 2, "a", "b"]
    assert found.code[:6].tolist() == [4, 2, -1, 0, 1, 3]
    assert found.trials.tolist() == [4] * 5


def test_long_trials_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(0).poisson(0.3, (4, 5000, 6)).astype(np.uint8)
    counts[3] = counts[1]
    made = recording(counts)
    whole, report = gather_statistics(made), examine(made)
    for module in (rows, spike_statistics):
        monkeypatch.setattr(module, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr("worker.ingest.quality_control.correlations.BLOCK_BYTES", 20_000)
    in_parts = gather_statistics(made)
    for name, value in vars(whole).items():
        np.testing.assert_equal(vars(in_parts)[name], value, name)
    assert in_parts.duplicate_trials == [[1, 3]]
    assert examine(made).variance_per_mean_quartiles == pytest.approx(
        report.variance_per_mean_quartiles, rel=1e-3
    )


def presets_warning(made: Recording) -> Problem | None:
    return next((one for one in examine(made).warnings if one.code == "no_preset_fits"), None)


def derived(made: Recording, hint: str) -> Recording:
    """Apply the options that a hint shows first."""
    options = DatasetOptions.model_validate_json(hint[hint.index("{") : hint.index("}}") + 2])
    assert options.chop is not None
    chop(made, options.chop)
    apply_split(made, options.split)
    return made


@pytest.mark.parametrize(
    ("shape", "width_s", "said", "option"),
    [
        (
            (3, 2000, 5),
            0.01,
            "of its 3 trials 2 are for training and 1 for validation",
            '{"window_s": 1, "overlap_s": 0.2}',
        ),
        (
            (4, 60, 5),
            0.01,
            "of its 4 trials 3 are for training and 1 for validation",
            '{"window_s": 0.1, "overlap_s": 0.02}',
        ),
        (
            (12, 20_000, 3),
            0.001,
            "its trials have 20000 bins of 0.001 s",
            '{"window_s": 1, "overlap_s": 0.2}',
        ),
        ((2, 20_000, 3), 0.001, "of its 2 trials", '{"window_s": 1, "overlap_s": 0.2}'),
    ],
)
def test_what_no_preset_can_train_says_how_to_mend_it(
    shape: tuple[int, int, int], width_s: float, said: str, option: str
) -> None:
    made = recording(np.random.default_rng(0).poisson(0.2, shape).astype(np.uint8), width_s=width_s)
    warning = presets_warning(made)
    assert warning is not None
    assert said in warning.message
    assert option in warning.hint
    assert presets_warning(derived(made, warning.hint)) is None


def test_wider_bins_are_offered_for_long_trials_of_narrow_bins() -> None:
    made = recording(np.ones((20, 20_000, 1), np.uint8), width_s=0.001)
    warning = presets_warning(made)
    assert warning is not None
    assert '{"rebin_s": 0.01}, for spike times {"bin_width_s": 0.01}' in warning.hint
    rebin(made, 0.01)
    assert presets_warning(made) is None


def test_what_a_preset_can_train_has_no_such_warning() -> None:
    assert (
        presets_warning(recording(np.ones((6, 500, 3), np.uint8), split=np.array([0, 0, 0, 0, 1, 1]))) is None
    )
    few = recording(np.ones((40, 500, 3), np.uint8), split=np.array([0] * 3 + [1] * 37))
    assert presets_warning(few) is not None


def test_spikes_in_shared_bins_count_once() -> None:
    counts = np.random.default_rng(0).poisson(0.2, (1, 200, 4)).astype(np.uint8)
    whole = recording(counts, 0.01)
    whole.trial_start_s, whole.is_continuous = np.zeros(1), True
    total = int(counts.sum())
    chop(whole, ChopOptions(window_s=0.2, overlap_s=0.1))
    assert int(np.asarray(whole.spikes).sum()) > 1.5 * total
    report = examine(whole)
    assert (report.total_spikes, report.duration_s) == (total, 2.0)
    np.testing.assert_allclose(report.rates_hz, counts.sum(axis=(0, 1)) / 2.0, atol=1e-3)
    preview = make_preview(whole)
    np.testing.assert_allclose(
        np.mean(preview["session"]["rate_hz"]), total / 4 / 2.0, rtol=0.1
    )  # a mean over windows, the first of which has more bins of its own


def test_rates_are_over_observed_time() -> None:
    random = np.random.default_rng(0)
    counts = random.poisson(0.2, (60, 50, 6))
    missing = np.zeros(counts.shape, np.uint8)
    missing[20:50] = 1
    missing[50:, 10:20, 3] = 1
    missing[:20, :, 5] = 1  # observed in the last trials only: the neuron does not appear
    counts[missing == 1] = 0
    of_all = recording(counts, 0.01)
    of_all.missing = missing
    report = examine(of_all)
    assert report.total_spikes == counts.sum()
    observed_s = (1 - missing).sum(axis=(0, 1)) * 0.01
    np.testing.assert_allclose(report.rates_hz, counts.sum(axis=(0, 1)) / observed_s, atol=1e-3)
    assert report.duration_s == pytest.approx(30 * 50 * 0.01)
    assert report.missing_fraction == pytest.approx(missing.mean(), abs=1e-4)
    assert report.padding_fraction == 0
    assert report.drift is not None
    assert (report.drift.lost, report.drift.appeared) == ([], [])
    assert {"neurons_lost", "neurons_appear", "population_drift"}.isdisjoint(codes(report))
    preview = make_preview(of_all)
    rates_hz = [rate for rate in preview["session"]["rate_hz"] if rate is not None]
    assert min(rates_hz) > 10
    assert preview["psth"]["trials_per_bin"][0] == [30] * len(preview["psth"]["time_s"])
    np.testing.assert_allclose(np.mean(preview["psth"]["population"]["mean_hz"]), 20, rtol=0.1)
    gaps = {one["trial"]: one["unobserved"] for one in preview["raster"]["trials"]}
    assert all(gap == ([[0, 50]] if 20 <= trial < 50 else []) for trial, gap in gaps.items())
    assert any(gaps.values())
