"""The page for a browser as the server serves it. tests/web shows it in a browser."""

import re
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

WEB = Path(__file__).resolve().parents[2] / "web"
IMPORT = re.compile(r"""(?:from|import)\s*\(?\s*["'](\.[^"']+)["']""")


def test_the_page_needs_no_key_and_is_served_under_any_path(light_client: TestClient) -> None:
    page = light_client.get("/", headers={"Authorization": ""})
    assert page.status_code == 200
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(addresses) > 8
    for address in addresses:
        assert not address.startswith(("/", "http")), "a proxy may serve the page under a path of its own"
        assert light_client.get(urljoin("/", address)).status_code == 200, address
    assert light_client.get("/", headers={"If-None-Match": page.headers["ETag"]}).status_code == 304


def test_the_page_allows_no_script_but_its_own(light_client: TestClient) -> None:
    page = light_client.get("/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page.text)


def test_files_are_kept_by_browsers_and_compressed(light_client: TestClient) -> None:
    address = re.search(r'src="(assets/[^"]+main.js)"', light_client.get("/").text)
    assert address is not None
    answer = light_client.get(f"/{address[1]}")
    assert answer.headers["Content-Type"].startswith("text/javascript")
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.text == (WEB / "js/main.js").read_text()
    plain = light_client.get(f"/{address[1]}", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    plotly = light_client.get(f"/{address[1].replace('js/main.js', 'vendor/plotly.min.js')}")
    assert len(plotly.content) > 1_000_000


@pytest.mark.parametrize(
    "path", ["js/none.js", "../api/app.py", "vendor/vendor.py", "__init__.py", "index.html"]
)
def test_other_files_are_not_served(light_client: TestClient, path: str) -> None:
    digest = re.search(r"assets/(\w+)/", light_client.get("/").text)
    assert digest is not None
    answer = light_client.get(f"/assets/{digest[1]}/{path}")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert light_client.get("/assets/0000/js/main.js").status_code == 404


def test_every_module_imports_files_that_exist() -> None:
    modules = list((WEB / "js").rglob("*.js"))
    assert modules
    for module in modules:
        for name in IMPORT.findall(module.read_text()):
            assert (module.parent / name).is_file(), f"{module.relative_to(WEB)} imports {name}"


def test_every_imported_name_is_used() -> None:
    for module in (WEB / "js").rglob("*.js"):
        text = module.read_text()
        for names in re.findall(r"^import \{([^}]*)\} from", text, re.MULTILINE):
            for name in re.findall(r"(\w+)\s*(?:,|$)", names):
                used = len(re.findall(rf"\b{re.escape(name)}\b", text))
                assert used > 1, f"{module.relative_to(WEB)} does not use {name}"


def test_the_page_refers_to_no_other_host() -> None:
    for path in [*(WEB / "js").rglob("*.js"), *WEB.glob("*.css"), WEB / "index.html"]:
        found = re.findall(r"https?://[\w.-]+", path.read_text())
        assert set(found) <= {"https://doi.org"}, path
