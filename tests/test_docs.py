"""Every setting, route, type of error, option of a data set, and field and code of its report is in the docs."""

import ast
import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from api.errors import TYPE_PREFIX, Problem
from api.jobs.schemas import JobDiagnostics, ModelDiagnostics
from api.jobs.search_schemas import JobImportance, MarginalPart, SearchedDimension
from api.models.card import REFERENCES
from domain.dataset_options import (
    ChopOptions,
    DatasetOptions,
    FileFormat,
    Mapping,
    NeuronOptions,
    SplitOptions,
    TrialOptions,
)
from domain.strategies import PbtStrategy
from store.settings import Settings
from worker.ingest.quality_control.report import Report

ROOT = Path(__file__).resolve().parents[1]

OF_THE_SERVICE = {"ingest_failed": "worker/ingest/service.py"} | dict.fromkeys(
    ("process_died", "worker_lost"), "worker/scheduling/leases.py"
)
"""Problems of a data set that are the service's own fault, and no `Problem` of the ingest."""

ENDINGS = {
    "no_{}_left": ("trials", "neurons"),
    "too_many_{}s": ("trial", "neuron"),
    "{}_left_out": ("behaviour", "events"),
}
"""What can stand in codes that are put together."""


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    line = next(
        line
        for line in (ROOT / "docs/settings.md").read_text().splitlines()
        if line.startswith(f"| `LATENTRY_{name.upper()}` |")
    )
    assert line.endswith(f"| {Settings.model_fields[name].description} |")


@pytest.mark.parametrize("kind", [Problem, *Problem.__subclasses__()])
def test_every_error_is_documented(kind: type[Problem]) -> None:
    assert f"| `{TYPE_PREFIX}{kind.code}` | {int(kind.status)} |" in (ROOT / "docs/api.md").read_text()


@pytest.mark.parametrize("name", [*JobDiagnostics.model_fields, *ModelDiagnostics.model_fields])
def test_every_field_of_diagnostics_is_documented(name: str) -> None:
    documented = (ROOT / "docs/scores.md").read_text().split("## Diagnostics")[1].split("\n## ")[0]
    assert f"`{name}`" in documented


@pytest.mark.parametrize("name", [name for name in PbtStrategy.model_fields if name != "kind"])
def test_every_field_of_a_population_is_documented(name: str) -> None:
    documented = (ROOT / "docs/searches.md").read_text().split("Fields of `pbt`:")[1].split("\n## ")[0]
    assert f"`{name}`" in documented


@pytest.mark.parametrize("document", [JobImportance, SearchedDimension, MarginalPart])
def test_importances_are_documented(document: type[BaseModel]) -> None:
    documented = (
        (ROOT / "docs/searches.md").read_text().split("## Importance of hyperparameters")[1].split("\n## ")[0]
    )
    for name in set(document.model_fields) - {"job_id", "name", "scale", "low", "high", "dimensions"}:
        assert f"`{name}`" in documented, name


def test_no_setting_or_error_is_documented_that_is_not_there() -> None:
    settings = re.findall(r"^\| `LATENTRY_(\w+)`", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    assert sorted(name.lower() for name in settings) == sorted(Settings.model_fields)
    errors = re.findall(rf"^\| `{TYPE_PREFIX}([\w-]+)`", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert sorted(errors) == sorted(kind.code for kind in (Problem, *Problem.__subclasses__()))


def test_every_route_is_documented() -> None:
    page = (ROOT / "docs/api.md").read_text()
    paths = json.loads((ROOT / "api/openapi.json").read_text())["paths"]
    assert len(paths) > 15
    for path, methods in paths.items():
        for method in methods:
            assert method == "head" or f"`{method.upper()} {path}`" in page, f"{method.upper()} {path}"
    for method, path in re.findall(r"`([A-Z]+) (/[^`]+)`", page):
        assert method.lower() in paths.get(path, {}), f"{method} {path}"


def test_every_field_of_a_report_is_documented() -> None:
    page, _ = (ROOT / "docs/report.md").read_text().split("\n## Codes\n")
    added = ["arrays", "sessions"]  # by those who store it
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == sorted(
        [*(field.name for field in fields(Report)), *added]
    )


def test_every_code_of_a_report_is_documented_once() -> None:
    _, page = (ROOT / "docs/report.md").read_text().split("\n## Codes\n")
    codes = set(OF_THE_SERVICE)
    for path in (ROOT / "worker/ingest").rglob("*.py"):
        codes |= _codes_in(path.read_text())
    assert len(codes) > 100
    assert sorted(re.findall(r"^\| `(\w+)` \| [RWF] \|", page, re.MULTILINE)) == sorted(codes)
    assert len(re.findall(r"^\| `", page, re.MULTILINE)) == len(codes)
    for code, path_of in OF_THE_SERVICE.items():
        assert f'"{code}"' in (ROOT / path_of).read_text()


def _codes_in(source: str) -> set[str]:
    """Every code that a `Problem`, or a rejection, made in a module may have: its first argument.

    A text is the code, an f-string is completed as `ENDINGS` says. A variable may be any text that looks like a code in the
    function around it, or as the first argument in a call of that function.
    """
    tree, found = ast.parse(source), set()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in calls:
        if ast.unparse(call.func).split(".")[-1] not in ("Problem", "rejected"):
            continue
        code = call.args[0] if call.args else next(one.value for one in call.keywords if one.arg == "code")
        if isinstance(code, ast.Constant):
            found.add(str(code.value))
        elif isinstance(code, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in code.values]
            found |= {"".join(parts).format(ending) for ending in ENDINGS["".join(parts)]}
        else:
            around = [one for one in functions if one.lineno <= call.lineno <= (one.end_lineno or 0)][-1]
            if around.name == "rejected":  # its callers have the codes
                continue
            given = [one.args[0] for one in calls if one.args and _is_call_of(one, around.name)]
            texts = [
                str(node.value) for node in [*ast.walk(around), *given] if isinstance(node, ast.Constant)
            ]
            texts += _keys_of_tables(tree, call)
            likely = {text for text in texts if re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", text)}
            assert likely, f"no code is found for {ast.unparse(call)}"
            found |= likely
    return found


def _keys_of_tables(tree: ast.Module, call: ast.Call) -> list[str]:
    """Return the keys of the module's dicts that the arguments of a call look up."""
    names = {
        node.value.id
        for node in ast.walk(call)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)
    }
    tables = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Dict)
        and ast.unparse(node.targets[0]) in names
    ]
    return [str(key.value) for table in tables for key in table.keys if isinstance(key, ast.Constant)]


def _is_call_of(call: ast.Call, name: str) -> bool:
    return ast.unparse(call.func).split(".")[-1] == name


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [
        ("", DatasetOptions),
        ("mapping", Mapping),
        ("trials", TrialOptions),
        ("neurons", NeuronOptions),
        ("chop", ChopOptions),
        ("split", SplitOptions),
    ],
)
def test_every_option_of_a_data_set_is_documented(prefix: str, kind: type[BaseModel]) -> None:
    page = (ROOT / "docs/data.md").read_text()
    for name in kind.model_fields:
        assert f"`{name}`" in page or (prefix and f"`{prefix}.{name}`" in page), f"{prefix}.{name}"


def test_the_citation_names_this_version_and_the_papers_of_the_card() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    papers = {one.get("url") or f"https://doi.org/{one['doi']}" for one in cited["references"]}
    assert papers == {one.url for one in REFERENCES}
    assert "CITATION.cff" in (ROOT / "README.md").read_text()


def test_every_format_has_a_row() -> None:
    page = (ROOT / "docs/data.md").read_text()
    table = page.split("\n## Formats\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    named = [name for row in rows if row != "`format`" for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(get_args(FileFormat))


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!http)([^)\s]+)\)", text):
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not heading or heading in _headings(target), link


def _headings(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in plain}


def test_the_start_page_leads_to_every_page() -> None:
    linked = set(
        re.findall(r"\]\((?!http|\.\.)([^)#]+)\)", (ROOT / "docs/index.md").read_text(encoding="utf-8"))
    )
    assert linked - {"decisions/"} == {one.name for one in (ROOT / "docs").glob("*.md")} - {"index.md"}


def test_contributing_names_existing_files() -> None:
    text = re.sub(r"```.*?```", "", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    named = re.findall(r"`([a-z_]+/[\w./-]*)`", text)
    assert len(named) > 60
    for name in named:
        assert "NAME" in name or (ROOT / name).exists(), name
