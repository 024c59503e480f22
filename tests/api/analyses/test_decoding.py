"""Behaviour decoded: the scores of `domain.scores`, of scikit-learn, and predictions that nobody was fitted on."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from api.analyses import baselines
from domain.scores import ridge_decode_r2
from tests.api.analyses.conftest import BINS, LAG_BINS, TRIALS, WIDTH_S, Lab

LAG_S = LAG_BINS * WIDTH_S


def recorded(lab: Lab) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = np.arange(BINS) < lab.lengths[:, None]
    return mask


def predictions(lab: Lab, **query: Any) -> NDArray[np.float32]:
    url = f"/v1/models/{lab.model_id}/decoding/predictions"
    answer = lab.client.get(url, params={"behaviour": "velocity", **query})
    assert answer.status_code == 200, answer.text
    found: NDArray[np.float32] = np.load(io.BytesIO(answer.content))
    return found


@pytest.mark.parametrize(("lag_bins", "folds", "seed"), [(0, 5, 0), (2, 5, 1), (7, 3, 2)])
def test_scores_are_those_of_models_metrics(lab: Lab, lag_bins: int, folds: int, seed: int) -> None:
    expected = ridge_decode_r2(
        lab.factors, lab.velocity, recorded(lab), lag_bins=lag_bins, folds=folds, seed=seed
    )
    query = {"lag_s": lag_bins * WIDTH_S, "folds": folds, "seed": seed}
    found = lab.get("decoding", behaviour="velocity", **query)
    assert found["r2"] == pytest.approx(expected, rel=1e-6)
    assert len(found["alphas"]) == folds
    assert found["tested"]["trials"] == TRIALS
    assert (
        found["tested"]["tested_bins"]
        == (recorded(lab)[:, : BINS - lag_bins] & recorded(lab)[:, lag_bins:]).sum()
    )


def test_lag_is_the_one_that_was_put_in(lab: Lab) -> None:
    by_lag = [
        lab.get("decoding", behaviour="velocity", lag_s=lag * WIDTH_S)["r2"] for lag in (0, LAG_BINS, 4)
    ]
    assert by_lag[1] > 0.9 > max(by_lag[0], by_lag[2])


def test_validation_trials_are_scored_by_scikit_learn(lab: Lab) -> None:
    found = lab.get("decoding", behaviour="velocity", lag_s=LAG_S, held_out="valid")
    x, y = lab.factors[:, :-LAG_BINS].astype(np.float64), lab.velocity[:, LAG_BINS:]
    known = np.isfinite(x).all(2) & np.isfinite(y).all(2)
    train, valid = (known & (lab.splits == code)[:, None] for code in (0, 1))
    scale = x[train].std(0)
    ridge = Ridge(alpha=found["alphas"][0]).fit(x[train] / scale, y[train])
    expected = ridge.predict(x[valid] / scale)
    np.testing.assert_allclose(
        found["r2_of_components"], r2_score(y[valid], expected, multioutput="raw_values"), rtol=1e-7
    )
    assert found["tested"] == {
        "trials": int((lab.splits == 1).sum()), "fitted_bins": int(train.sum()), "tested_bins": int(valid.sum()),
    }  # fmt: skip
    told = predictions(lab, lag_s=LAG_S, held_out="valid")
    assert told.shape == ((lab.splits == 1).sum(), BINS, 2)
    inside = np.isfinite(told[:, LAG_BINS:]).all(2) & valid[lab.splits == 1]
    assert inside.sum() == valid.sum()
    np.testing.assert_allclose(told[:, LAG_BINS:][inside], expected, rtol=1e-4, atol=1e-4)
    assert np.isnan(told[:, :LAG_BINS]).all()


def test_predictions_have_the_score_and_every_trial_once(lab: Lab) -> None:
    told = predictions(lab, lag_s=LAG_S)
    assert told.shape == lab.velocity.shape
    known = np.isfinite(told) & np.isfinite(lab.velocity)
    score = lab.get("decoding", behaviour="velocity", lag_s=LAG_S)
    for component in range(2):
        mine = known[:, :, component]
        r2 = r2_score(lab.velocity[:, :, component][mine], told[:, :, component][mine])
        assert score["r2_of_components"][component] == pytest.approx(r2, rel=1e-5)


def test_a_prediction_never_saw_its_trial(lab: Lab) -> None:
    """Without it in the fit: its own fold, drawn as the scores' is, left out of a regression of scikit-learn's."""
    told = predictions(lab, lag_s=LAG_S)
    fold_of = np.random.default_rng(0).permutation(TRIALS) % 5
    alphas = lab.get("decoding", behaviour="velocity", lag_s=LAG_S)["alphas"]
    x, y = lab.factors[:, :-LAG_BINS].astype(np.float64), lab.velocity[:, LAG_BINS:]
    known = np.isfinite(x).all(2) & np.isfinite(y).all(2)
    for trial in (1, 13, 41):
        train = known & (fold_of != fold_of[trial])[:, None]
        scale = x[train].std(0)
        ridge = Ridge(alpha=alphas[fold_of[trial]]).fit(x[train] / scale, y[train])
        np.testing.assert_allclose(
            told[trial, LAG_BINS:], ridge.predict(x[trial] / scale), rtol=1e-4, atol=1e-4
        )


def test_predictions_are_labelled_in_every_format(lab: Lab) -> None:
    url = f"/v1/models/{lab.model_id}/decoding/predictions"
    query = {"behaviour": "velocity", "lag_s": LAG_S, "where": "number:lt:20"}
    document = lab.client.get(url, params={**query, "format": "json"}).json()
    assert document["dims"] == ["trial", "time_s", "velocity_component"]
    assert document["coordinates"]["trial"]["values"] == list(range(20))
    values = np.array(document["values"], dtype=np.float64)
    np.testing.assert_allclose(values, predictions(lab, lag_s=LAG_S, where="number:lt:20"), rtol=1e-6)
    for one in ("csv", "arrow", "parquet", "npz", "hdf5"):
        answer = lab.client.get(url, params={**query, "format": one})
        assert answer.status_code == 200, answer.text
        assert len(answer.content) > 1000
    with np.load(io.BytesIO(lab.client.get(url, params={**query, "format": "npz"}).content)) as archive:
        np.testing.assert_allclose(archive["velocity_decoded"], values, rtol=1e-6)
    tag = answer.headers["ETag"]
    assert (
        lab.client.get(url, params={**query, "format": one}, headers={"If-None-Match": tag}).status_code
        == 304
    )


def test_transformations_of_bins_are_done_to_behaviour_too(lab: Lab) -> None:
    found = lab.get(
        "decoding", behaviour="velocity", rebin_s=0.04, lag_s=0.04, where="number:in:1,2,3,4,5,6,8,9"
    )
    trials = [1, 2, 3, 4, 5, 6, 8, 9]
    x, y = (
        a[trials].reshape(8, BINS // 2, 2, -1).mean(2) for a in (lab.factors.astype(np.float64), lab.velocity)
    )
    assert found["r2"] == pytest.approx(ridge_decode_r2(x, y, lag_bins=1), rel=1e-5)


def test_a_part_of_the_time_is_decoded_with_behaviour_after_it(lab: Lab) -> None:
    """The latents are selected; behaviour one lag later is taken wherever there is some."""
    found = lab.get("decoding", behaviour="velocity", time_s="0.0:0.1", lag_s=LAG_S, held_out="valid")
    assert found["tested"]["tested_bins"] == 5 * (lab.splits == 1).sum()
    assert found["r2"] > 0.8


def test_smoothed_spikes_are_decoded_as_well(lab: Lab) -> None:
    found = lab.ask(
        f"/v1/datasets/{lab.dataset_id}/decoding", array="spikes", behaviour="velocity", smooth_s=0.04
    )
    assert found["r2"] < 0.2
    assert found["features"] == 4


def smoothed_by_hand(values: NDArray[np.float64], deviation: float, length: int) -> NDArray[np.float64]:
    """Smooth [bins, neurons] of a trial: Gaussian weights up to four deviations, normalised over its bins."""
    apart = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    weights = np.exp(-0.5 * np.square(apart / deviation)) * (apart <= int(4 * deviation + 0.5))
    smooth = np.full(values.shape, np.nan)
    smooth[:length] = weights @ values[:length] / weights.sum(1, keepdims=True)
    return smooth


def test_the_baseline_is_nested_cross_validation_of_scikit_learn(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths_s = (0.02, 0.05, 0.3)
    monkeypatch.setattr(baselines, "WIDTHS_S", widths_s)
    found = lab.get("decoding", behaviour="velocity", lag_s=LAG_S)
    y, lengths = lab.velocity[:, LAG_BINS:], lab.lengths
    by_width = [
        np.stack([
            smoothed_by_hand(trial, width_s / WIDTH_S, length)
            for trial, length in zip(lab.spikes.astype(np.float64), lengths, strict=True)
        ])[:, :-LAG_BINS]
        for width_s in widths_s
    ]  # fmt: skip
    known = np.isfinite(lab.factors[:, :-LAG_BINS]).all(2) & np.isfinite(y).all(2)
    spread = y[known].var(0)
    fold_of = np.random.default_rng(0).permutation(TRIALS) % 5

    def predicted(x: Any, train: Any, test: Any, alpha: float) -> Any:
        scale = x[train].std(0)
        return Ridge(alpha=alpha).fit(x[train] / scale, y[train]).predict(x[test] / scale)

    errors, chosen = np.zeros(2), []
    for fold in range(5):
        inside = np.flatnonzero(fold_of != fold)
        part = np.full(TRIALS, -1)
        part[inside] = np.random.default_rng([0, fold]).permutation(len(inside)) % 5
        tries = {}
        for width_s, x in zip(widths_s, by_width, strict=True):
            for alpha in 10.0 ** np.arange(-2, 5):
                of_parts = [
                    np.square(predicted(x, known & rest[:, None], known & one[:, None], alpha) - y[known & one[:, None]])
                    for one, rest in (((part == p), (part >= 0) & (part != p)) for p in range(5))
                ]  # fmt: skip
                tries[width_s, alpha] = sum((one / spread).mean() for one in of_parts)
        width_s, alpha = min(tries, key=lambda key: tries[key])
        chosen.append(width_s)
        train, test = known & (fold_of != fold)[:, None], known & (fold_of == fold)[:, None]
        x = by_width[widths_s.index(width_s)]
        errors += np.square(predicted(x, train, test, alpha) - y[test]).sum(0)
    [baseline] = found["baselines"]
    expected = 1 - errors / np.square(y[known] - y[known].mean(0)).sum(0)
    np.testing.assert_allclose(baseline["r2_of_components"], expected, rtol=1e-6, atol=1e-9)
    assert baseline["r2"] == pytest.approx(expected.mean())
    assert baseline["width_s"] in chosen
    assert found["notes"] == []


def test_a_large_baseline_is_left_out_unless_it_is_asked_for(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "MUCH_WORK", 1000)
    found = lab.get("decoding", behaviour="velocity")
    assert found["baselines"] == []
    assert "baseline=true" in found["notes"][0]
    [baseline] = lab.get("decoding", behaviour="velocity", baseline=True)["baselines"]
    assert baseline["r2"] < 0.2


def test_behaviour_that_does_not_vary_has_no_score(lab: Lab) -> None:
    found = lab.get("decoding", behaviour="still")
    assert (found["r2"], found["r2_of_components"]) == (None, [None])


@pytest.mark.parametrize(
    ("query", "pointer", "told"),
    [
        ({}, "behaviour", "it has still, velocity"),
        ({"behaviour": "spikes"}, "behaviour", "it has still, velocity"),
        ({"behaviour": "velocity", "lag_s": 0.03}, "lag_s", "0.04 is the nearest"),
        ({"behaviour": "velocity", "lag_s": 59.98}, "behaviour", "no selected bin"),
        ({"behaviour": "velocity", "folds": 1}, "folds", "2"),
        (
            {"behaviour": "velocity", "folds": 20, "where": "number:lt:8"},
            "folds",
            "8 selected trials have behaviour",
        ),
        ({"behaviour": "velocity", "where": "number:lt:2"}, "array", "needs 3 trials"),
        ({"behaviour": "velocity", "array": "initial_conditions"}, "array", "with time"),
        ({"behaviour": "velocity", "held_out": "valid", "split": "train"}, "held_out", "45 and 0"),
        ({"behaviour": "velocity", "held_out": "test"}, "held_out", "and a test trial; 60 and 0"),
    ],
)
def test_mistakes_are_told(lab: Lab, query: dict[str, Any], pointer: str, told: str) -> None:
    answer = lab.get("decoding", 422, **query)
    assert pointer in [one["pointer"] for one in answer["errors"]]
    assert told in str(answer)
    assert lab.get("decoding/predictions", 422, **query) == answer
    assert lab.get("decoding.svg", 422, **query) == answer


def test_data_set_has_no_validation_trials(lab: Lab) -> None:
    answer = lab.ask(
        f"/v1/datasets/{lab.dataset_id}/decoding", 422, array="spikes", behaviour="velocity", held_out="valid"
    )
    assert answer["errors"][0]["pointer"] == "held_out"
    lab.ask(f"/v1/models/{lab.other_model_id}/decoding", 404)


@pytest.mark.parametrize(("ending", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_pictures(lab: Lab, ending: str, begins: bytes) -> None:
    url = f"/v1/models/{lab.model_id}/decoding.{ending}"
    answer = lab.client.get(url, params={"behaviour": "velocity", "held_out": "valid"})
    assert answer.content.startswith(begins)
    tag = answer.headers["ETag"]
    again = lab.client.get(
        url, params={"behaviour": "velocity", "held_out": "valid"}, headers={"If-None-Match": tag}
    )
    assert again.status_code == 304
