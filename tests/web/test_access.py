"""Who sees what: keys that a service asks for, keys that may only read, shared links, and addresses of what does not exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, expect

from store.settings import Settings
from tests.app_copies import app_of
from tests.web.browser import Watch, assert_accessible, open_view, wait_until_ready
from tests.web.seeded_access import SECRETS, TOKENS
from tests.web.seeded_storage import Seeded
from tests.web.seeding import seeded
from tests.web.service import ApiThread, SeededService


@pytest.fixture(scope="module")
def guarded(seeded_folders: Path) -> Iterator[SeededService]:
    """The service of a lab that requires a key; tests only read it."""
    opened = Seeded.open(seeded(seeded_folders, "lab"))
    settings = Settings(
        data_dir=opened.settings.data_dir, require_key=True, admin_key="of-the-operator-0123456789"
    )
    api = ApiThread(app_of(settings, opened.database, opened.arrays))
    api.start()
    yield SeededService(api, opened.ids)
    api.stop()
    opened.database.close()


def _enter(page: Page, key: str) -> None:
    page.get_by_role("button", name=re.compile("Enter a key|Use a key")).first.click()
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()


def _open_with(page: Page, service: SeededService, key: str, route: str) -> None:
    """Open a view with a key in the session."""
    page.add_init_script(f"sessionStorage.setItem('latentry.key', '{key}')")
    open_view(page, service.url, route)


def test_service_asks_for_a_key_and_only_the_session_keeps_it(
    page: Page, watch: Watch, guarded: SeededService
) -> None:
    watch.allow("status 401")
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.goto(f"{guarded.url}/#/jobs/{guarded.ids['job_done']}")
    expect(page.get_by_role("heading", name="A key is required")).to_be_visible()
    assert_accessible(page)
    _enter(page, "lat_wrong")
    expect(page.get_by_role("heading", name="This key is not valid")).to_be_visible()
    page.get_by_role("button", name="Go on without a key").click()
    expect(page.get_by_role("heading", name="A key is required")).to_be_visible()
    _enter(page, SECRETS["member"])
    wait_until_ready(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("AutoLFADS on reaches")
    assert not [url for url in [*urls, page.url] if SECRETS["member"] in url]
    kept = page.evaluate(
        "() => [JSON.stringify(sessionStorage), JSON.stringify(localStorage) + document.cookie]"
    )
    assert SECRETS["member"] in kept[0]
    assert SECRETS["member"] not in kept[1]


@pytest.mark.parametrize(
    "kind",
    ["job", pytest.param("dataset", marks=pytest.mark.slow), pytest.param("model", marks=pytest.mark.slow)],
)
def test_shared_link_shows_its_target_without_a_key(
    page: Page, watch: Watch, guarded: SeededService, kind: str
) -> None:
    watch.allow("status 401: GET .*/v1/caller")  # the page asks who it is before it has read the link
    target = {"dataset": "dataset", "job": "job_done", "model": "model"}[kind]
    page.goto(f"{guarded.url}/#/share/{TOKENS[kind]}")
    page.wait_for_url(re.compile(guarded.ids[target]))
    wait_until_ready(page)
    expect(page.get_by_role("note").filter(has_text="shared")).to_be_visible()
    expect(page.get_by_role("navigation", name="Views").get_by_role("link")).to_have_text(["Help", "API"])
    expect(page.get_by_role("button", name=re.compile("^(Delete|Share|Cancel|Extend|Name)"))).to_have_count(0)
    expect(page.get_by_role("link", name="Latentry")).to_have_attribute(
        "href", re.compile(guarded.ids[target])
    )
    assert TOKENS[kind] not in page.url
    assert_accessible(page)


@pytest.mark.parametrize("service", ["guarded", pytest.param("lab", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "token",
    [
        "",
        f"/{TOKENS['revoked']}",
        pytest.param("/ltshare_unknown", marks=pytest.mark.slow),
        pytest.param(f"/{SECRETS['member']}", marks=pytest.mark.slow),
    ],
)
def test_link_that_shows_nothing_says_so_once(
    page: Page, watch: Watch, request: pytest.FixtureRequest, service: str, token: str
) -> None:
    watch.allow("status 401: GET .*/v1/caller")
    asked: list[Request] = []
    page.on("request", lambda one: asked.append(one))
    open_view(page, request.getfixturevalue(service).url, f"/share{token}")
    expect(page.get_by_role("alert")).to_contain_text(re.compile("Copy the whole link|Ask whoever sent it"))
    page.wait_for_timeout(500)
    assert sum("/v1/" in one.url for one in asked) <= 3
    assert not page.evaluate("() => sessionStorage.getItem('latentry.key')")


@pytest.mark.parametrize("service", ["lab", "guarded"])
def test_tab_of_a_link_that_was_revoked_says_so_and_leads_home(
    page: Page, watch: Watch, request: pytest.FixtureRequest, service: str
) -> None:
    watch.allow("status 401")
    opened = request.getfixturevalue(service)
    _open_with(page, opened, TOKENS["revoked"], f"/models/{opened.ids['model']}")
    expect(page.get_by_role("alert")).to_contain_text("has ended or was revoked")
    assert_accessible(page)
    page.get_by_role("button", name="Leave the shared view").click()
    heading = {"lab": "Home", "guarded": "A key is required"}[service]
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    assert not page.evaluate("() => sessionStorage.getItem('latentry.key')")


@pytest.mark.slow
def test_link_opens_on_the_view_that_it_was_made_on(
    page: Page, watch: Watch, lab: SeededService, guarded: SeededService
) -> None:
    watch.allow("status 401: GET .*/v1/caller")
    state = "tab=scores&neuron=1"
    open_view(page, lab.url, f"/models/{lab.ids['model']}?{state}")
    page.route("**/v1/shares", lambda route: route.fulfill(json={"token": TOKENS["model"]}))
    page.get_by_role("button", name="Share…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Opens on: Scores, with the choices that you see now.")
    expect(dialog).to_contain_text("This address works only on this computer")
    page.get_by_role("button", name="Make the link").click()
    expect(dialog.locator("pre")).to_have_text(f"{lab.url}/#/share/{TOKENS['model']}?{state}")
    page.goto(f"{guarded.url}/#/share/{TOKENS['model']}?{state}")
    page.wait_for_url(f"**/#/models/{guarded.ids['model']}?{state}")
    wait_until_ready(page)
    expect(page.get_by_role("link", name="Scores")).to_have_attribute("aria-current", "page")


@pytest.mark.parametrize("kind", ["dataset", "job", "model"])
@pytest.mark.slow
def test_shared_view_offers_nothing_that_the_share_may_not_read(
    page: Page, guarded: SeededService, kind: str
) -> None:
    route = {"dataset": "datasets/{dataset}", "job": "jobs/{job_done}", "model": "models/{model}"}[kind]
    _open_with(page, guarded, TOKENS[kind], f"/{route.format_map(guarded.ids)}")  # `watch` fails on a refusal
    tabs = page.get_by_role("navigation", name="Parts of this view").get_by_role("link")
    for number in range(tabs.count()):
        tabs.nth(number).click()
        expect(tabs.nth(number)).to_have_attribute("aria-current", "page")
        page.wait_for_load_state("networkidle")
        wait_until_ready(page)
        expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator("main a[href*='#/datasets/']:not(.tabs a)")).to_have_count(0)
    assert "/v1/" not in page.locator("main").inner_text()


def test_key_that_may_only_read_is_told_so_and_changes_nothing(page: Page, guarded: SeededService) -> None:
    _open_with(page, guarded, SECRETS["reader"], f"/jobs/{guarded.ids['job_running']}")
    expect(page.get_by_role("note").filter(has_text="Your key may only read")).to_be_visible()
    for name in ("Pause", "Cancel…", "Share…", "Delete…"):
        button = page.get_by_role("button", name=name, exact=True)
        expect(button).to_be_disabled()
        expect(button).to_have_attribute("title", re.compile("permission “write”"))
    assert_accessible(page)


@pytest.mark.parametrize(
    "route",
    ["/", "/datasets/{dataset}", "/jobs/{job_done}", "/models/{model}", "/search?dataset={dataset}"]
    + [f"/use?tab={tab}" for tab in ("quotas", "shares", "webhooks")],
)
@pytest.mark.slow
def test_key_that_may_only_read_sees_all(
    page: Page, watch: Watch, guarded: SeededService, route: str
) -> None:
    watch.allow("status 403: POST .*validate_only")
    _open_with(page, guarded, SECRETS["reader"], route.format_map(guarded.ids))
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    assert_accessible(page)


def test_member_sees_devices_and_steers_nothing(page: Page, guarded: SeededService) -> None:
    _open_with(page, guarded, SECRETS["member"], "/use?tab=workers")
    expect(page.locator("main")).to_contain_text("cuda:0 (1 worker)")
    expect(page.get_by_role("button", name=re.compile("Drain|Pause|Quotas"))).to_have_count(0)
    expect(page.get_by_role("link", name="Tenants")).to_have_count(0)
    assert_accessible(page)


@pytest.mark.parametrize("tab", ["keys", "audit", "retention", "tenants"])
@pytest.mark.slow
def test_forbidden_view_says_which_key_it_needs(
    page: Page, watch: Watch, guarded: SeededService, tab: str
) -> None:
    watch.allow("status 403")
    _open_with(page, guarded, SECRETS["reader"], f"/use?tab={tab}")
    expect(page.get_by_role("alert").first).to_contain_text(re.compile("admin|operator"))
    assert_accessible(page)


@pytest.mark.parametrize("route", ["/datasets/dat_none", "/jobs/job_none", "/models/mod_none", "/inferences/inf_none",
                                   "/compare?models=mod_none,mod_other", "/search?dataset=dat_none"])  # fmt: skip
@pytest.mark.slow
def test_id_that_does_not_exist_is_said_in_words(
    page: Page, watch: Watch, lab: SeededService, route: str
) -> None:
    watch.allow("status 404")
    open_view(page, lab.url, route)
    expect(page.locator("main")).to_contain_text(
        re.compile("not found|(no|not) .*exist|does not exist|was deleted", re.IGNORECASE)
    )
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    assert_accessible(page)


def test_address_that_names_no_view_leads_home(page: Page, lab: SeededService) -> None:
    page.goto(f"{lab.url}/#/nothing")
    page.get_by_role("alert").get_by_role("link", name="Go to Home").click()
    wait_until_ready(page)
