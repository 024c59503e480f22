"""The latents of a model in a browser: one trial by the keyboard, trajectories, PSTHs, decoding, and models without latents."""

import io
import re
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from tests.web.browser import Watch, open_view, wait_until_ready
from tests.web.service import SeededService

DRAWING = "GPU stall due to ReadPixels|willReadFrequently"
"""Warnings of Chromium about its own drawing where no graphics card is."""


def array(lab: SeededService, name: str, **query: Any) -> dict[str, Any]:
    """Return an array of the model as the service tells it."""
    model = lab.ids["model"]
    parameters = {**query, "format": "json"}
    document: dict[str, Any] = httpx.get(
        f"{lab.url}/v1/models/{model}/arrays/{name}", params=parameters
    ).json()
    return document


def traces(page: Page, fields: str) -> list[dict[str, Any]]:
    """Return some fields of the traces of the first plot."""
    script = f"""() => document.querySelector('.plot-area').data.map((trace) => {{
      const picked = {{}};
      const plain = (value) => ArrayBuffer.isView(value) ? Array.from(value) : value;
      for (const name of {fields.split()!r}) picked[name] = plain(trace[name]);
      if (picked.z?.length && ArrayBuffer.isView(picked.z[0])) picked.z = picked.z.map((row) => Array.from(row));
      return picked; }})"""
    found: list[dict[str, Any]] = page.evaluate(script)
    return found


def test_keys_step_through_trials_and_only_shown_trials_are_read(page: Page, lab: SeededService) -> None:
    read: list[str] = []
    page.on("request", lambda request: read.append(request.url))
    open_view(page, lab.url, f"/models/{lab.ids['model']}")
    caption = page.locator("figure.plot figcaption").first
    expect(caption).to_contain_text("Trial 0")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("j")
    expect(caption).to_contain_text("Trial 2")
    expect(page).to_have_url(re.compile("trial=2"))
    rates = np.array(array(lab, "rates", trial=2)["values"][0])
    [shown] = [one for one in traces(page, "name z") if one["name"] == "Rates"]
    np.testing.assert_allclose(np.array(shown["z"]).T, rates / rates.max(axis=0), rtol=1e-5)  # by its maximum
    number = page.get_by_role("spinbutton", name="Trial")
    number.focus()
    page.keyboard.press("ArrowLeft")
    expect(caption).to_contain_text("Trial 2")  # the key belongs to the field
    whole = [
        url for url in read if re.search(r"arrays/(rates|spikes|factors)\?", url) and "trial=" not in url
    ]
    assert not whole, "only trials that are shown, and their neighbours, are read"


@pytest.mark.slow
def test_neurons_come_in_the_order_of_their_prediction(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/models/{lab.ids['model']}?order=score&rates=map")
    scores = httpx.get(f"{lab.url}/v1/models/{lab.ids['model']}/neurons?split=valid").json()
    bits = np.array([-np.inf if one is None else one for one in scores["reconstruction_bits_per_spike"]])
    information = np.where(np.isfinite(bits), bits * np.array(scores["rate_hz"]), -np.inf)
    order = np.argsort(-information, kind="stable")
    rates = np.array(array(lab, "rates", trial=0)["values"][0])
    [shown] = [one for one in traces(page, "name z") if one["name"] == "Rates"]
    np.testing.assert_allclose(np.array(shown["z"]), rates.T[order], rtol=1e-5)


def constant_array(route: Route) -> None:
    """Answer a request for an array with one whose values are all equal."""
    response = route.fetch()
    content = io.BytesIO()
    np.save(content, np.full_like(np.load(io.BytesIO(response.body())), 7))
    route.fulfill(response=response, body=content.getvalue())


def undefined_score(route: Route) -> None:
    """Answer a request for decoding as for a behaviour that does not vary."""
    found = {"array": "rates", "behaviour": "hand_velocity", "r2": None, "r2_of_components": [None, None]}
    route.fulfill(json=found | {"tested": {"trials": 9}, "notes": []})


@pytest.mark.slow
def test_constant_behaviour_is_named_and_not_offered_first(page: Page, lab: SeededService) -> None:
    page.route("**/arrays/hand_velocity?*", constant_array)
    page.route("**/decoding?behaviour=hand_velocity&*", undefined_score)
    open_view(page, lab.url, f"/models/{lab.ids['model']}")
    box = page.get_by_label("Hand velocity (constant)")
    expect(box).not_to_be_checked()
    expect(page.get_by_label("Hand position")).to_be_checked()
    box.check()
    wait_until_ready(page)
    expect(box).to_be_checked()
    page.route("**/decoding?behaviour=hand_position&*", lambda route: None)  # nobody waits for it
    page.goto(f"{lab.url}/#/models/{lab.ids['model']}?tab=decoding")
    expect(page.get_by_label("Behaviour", exact=True)).to_have_value("hand_position")
    page.get_by_label("Behaviour", exact=True).select_option("hand_velocity")
    expect(page.get_by_text("Hand velocity is constant, so there is no R²")).to_be_visible()


@pytest.mark.slow
def test_trajectories_are_averaged_aligned_and_moved_along_time(
    page: Page, watch: Watch, lab: SeededService
) -> None:
    watch.allow(DRAWING)
    open_view(page, lab.url, f"/models/{lab.ids['model']}?tab=trajectories")
    average = array(lab, "factors", average="condition", components=3)
    conditions = average["coordinates"]["condition"]["values"]
    lines = [one for one in traces(page, "name mode x") if one["mode"] == "lines"]
    assert [one["name"] for one in lines] == [str(one) for one in conditions], "one trace for each colour"
    np.testing.assert_allclose(lines[0]["x"][0], average["values"][0][0][0], rtol=1e-4)
    page.get_by_label("Align to").select_option("move_onset")
    expect(page.locator("figcaption")).to_contain_text("thin before move onset")
    wait_until_ready(page)
    assert len([one for one in traces(page, "mode") if one["mode"] == "lines"]) == 2 * len(conditions)
    expect(page.get_by_role("button", name="Play along time")).to_have_count(
        0
    )  # the tests ask for less motion
    page.get_by_role("slider", name="Time").fill("25")
    expect(page.get_by_text("s from move onset", exact=False).first).to_be_visible()
    shown = "document.querySelector('.plot-area').data.at(-1)"
    page.wait_for_function(f"() => {shown}.name === 'now' && {shown}.x.length > 0")
    assert len(traces(page, "x")[-1]["x"]) <= len(conditions), (
        "without those of which few trials have the bin"
    )


@pytest.mark.slow
def test_all_single_trials_are_drawn_and_lead_to_their_pages(
    page: Page, watch: Watch, lab: SeededService
) -> None:
    watch.allow(DRAWING)
    page.set_viewport_size({"width": 420, "height": 800})
    open_view(page, lab.url, f"/models/{lab.ids['model']}?tab=trajectories")
    page.get_by_role("button", name="Single trials").click()
    wait_until_ready(page)
    labels = array(lab, "trial")["values"]
    expect(page.locator("figcaption")).to_contain_text(re.compile(rf"single trials.*\b{len(labels)} trials"))
    lines = [one for one in traces(page, "mode customdata") if one["mode"] == "lines"]
    assert {told[1] for one in lines for told in one["customdata"]} - {None} == set(labels)
    layout = page.evaluate("() => document.querySelector('.plot-area').layout")
    ratio = array(lab, "factors", components=3)["attributes"]["explained_variance_ratio"][0]
    assert layout["scene"]["xaxis"]["title"]["text"] == f"PC 1 ({100 * ratio:.0f} %)"
    assert layout["legend"]["y"] < layout["scene"]["domain"]["y"][0], "the legend is below the scene"
    page.get_by_role("slider", name="Time").fill("3")
    page.wait_for_function("() => document.querySelector('.plot-area').data.at(-1).name === 'now'")
    entries = [one for one in traces(page, "showlegend opacity name") if one["showlegend"] is not False]
    assert [one["opacity"] for one in entries] == [None] * len(lines), "the legend does not fade"
    point = "{ points: [{ customdata: [0, 5] }] }"
    page.evaluate(f"() => document.querySelector('.plot-area').emit('plotly_click', {point})")
    expect(page).to_have_url(re.compile("tab=trial&trial=5"))


@pytest.mark.slow
def test_single_trajectories_are_filtered_by_metadata(page: Page, watch: Watch, lab: SeededService) -> None:
    watch.allow(DRAWING)
    address = f"/models/{lab.ids['model']}?tab=trajectories&trials=single&where_name=condition&where_value=3"
    open_view(page, lab.url, address)
    trials = array(lab, "trial", where="condition:eq:3")["values"]
    expect(page.locator("figcaption")).to_contain_text(f"{len(trials)} trials")
    names = {one["name"] for one in traces(page, "name mode") if one["mode"] == "lines"}
    assert names == {"3"}


@pytest.mark.slow
def test_psths_show_data_with_errors_against_the_model(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/models/{lab.ids['model']}?tab=psth&neurons=4&smooth=0")
    model = array(lab, "rates", average="condition", neuron=4)["values"]
    address = f"{lab.url}/v1/datasets/{lab.ids['dataset']}/arrays/spikes"
    data = httpx.get(address, params={"average": "condition", "neuron": 4, "format": "json"}).json()
    width = httpx.get(f"{lab.url}/v1/datasets/{lab.ids['dataset']}").json()["bin_width_s"]
    band, mean, rate = traces(page, "y")[:3]
    np.testing.assert_allclose(rate["y"], np.array(model[0])[:, 0], rtol=1e-5)
    np.testing.assert_allclose(mean["y"], np.array(data["values"][0])[:, 0] / width, rtol=1e-5)
    errors = next(one for one in data["beside"] if one["name"].endswith("_sem"))["values"][0]
    assert band["y"][0] - mean["y"][0] == pytest.approx(errors[0][0] / width, rel=1e-4)


def test_behaviour_is_decoded(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/models/{lab.ids['model']}?tab=decoding&held_out=valid")
    query = {"behaviour": "hand_velocity", "held_out": "valid"}
    found = httpx.get(f"{lab.url}/v1/models/{lab.ids['model']}/decoding", params=query).json()
    expect(page.locator("main")).to_contain_text(f"R² is {found['r2']:.3f}")
    valid = array(lab, "trial", split="valid")["values"]
    expect(page.locator("main")).to_contain_text(f"on {len(valid)} trials")
    expect(page.get_by_text("The plane of hand velocity")).to_be_visible()


@pytest.mark.parametrize("tab", ["scores", "about"])
@pytest.mark.slow
def test_what_a_model_is_and_how_good_it_is(page: Page, lab: SeededService, tab: str) -> None:
    open_view(page, lab.url, f"/models/{lab.ids['model']}?tab={tab}")
    document = httpx.get(f"{lab.url}/v1/models/{lab.ids['model']}").json()
    if tab == "scores":
        score = document["scores"]["sv_bits_per_spike_valid"]
        expect(page.locator("main")).to_contain_text(f"with {score:.3f} bits per spike")
        expect(page.get_by_role("heading", name="Neurons")).to_be_visible()
    else:
        expect(
            page.get_by_text(f"the kept weights are of epoch {document['scores']['best_epoch']}")
        ).to_be_visible()
        expect(page.get_by_role("button", name="Delete…")).to_be_visible()


@pytest.mark.slow
def test_a_model_without_latents_says_what_to_do(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/models/{lab.ids['model_training']}")
    expect(page.get_by_role("heading", name="This model is still training")).to_be_visible()
    models = httpx.get(f"{lab.url}/v1/jobs/{lab.ids['job_done']}/models").json()["items"]
    other = next(one for one in models if "arrays" not in one["links"] and one["state"] == "trained")
    open_view(page, lab.url, f"/models/{other['id']}")
    expect(page.get_by_role("heading", name="This model has no latents")).to_be_visible()
    with page.expect_request("**/*:apply") as asked:
        page.route("**/*:apply", lambda route: route.fulfill(status=202, json={"id": "inf_1"}))
        page.get_by_role("button", name="Compute the latents").click()
    assert asked.value.method == "POST"


def few_trials_late(route: Route) -> None:
    """Answer an average of whose last bin only one trial of each condition is left."""
    response = route.fetch()
    document = response.json()
    for one in document["beside"]:
        if one["name"].endswith("_count"):
            for bins in one["values"]:
                bins[-1] = [1] * len(bins[-1])
    route.fulfill(response=response, json=document)


def test_averages_in_space_end_with_most_trials_and_the_wheel_scrolls_the_page(
    page: Page, watch: Watch, lab: SeededService
) -> None:
    watch.allow(DRAWING)
    page.route("**/arrays/factors?*average=*", few_trials_late)
    open_view(page, lab.url, f"/models/{lab.ids['model']}?tab=trajectories")
    expect(page.locator("figcaption")).to_contain_text("bins that fewer than half of their trials have")
    ends = max(told[0] for one in traces(page, "mode customdata") if one["mode"] == "lines"
               for told in one["customdata"] if told[0] is not None)  # fmt: skip
    average = array(lab, "factors", average="condition")
    starts = average["coordinates"]["time_s"]["values"]
    assert ends < starts[-1], "the last bin is not drawn"
    area = page.locator(".plot-area")
    area.scroll_into_view_if_needed()
    area.hover()
    before = page.evaluate("() => scrollY")
    eye = "() => JSON.stringify(document.querySelector('.plot-area')._fullLayout.scene._scene.getCamera())"
    camera = page.evaluate(eye)
    page.mouse.wheel(0, -200)
    page.wait_for_function(f"() => scrollY < {before}")
    assert page.evaluate(eye) == camera
