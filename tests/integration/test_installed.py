"""The wheel in a fresh environment does the main job: nothing of the checkout is on its path, and its folder is elsewhere.

The environment has the wheel and the distributions that it requires, and no others. Their files are hard links to those of the
tests' environment, so that nothing is downloaded or unpacked.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from packaging.requirements import Requirement

from tests.waiting import wait_until
from tests.worker.ingest.reader_examples import EXAMPLE_FILES
from tests.worker.ingest.test_confinement import needs_landlock, probe
from worker.child_processes import die_with_parent

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {example.format: example for example in reversed(EXAMPLE_FILES)}
"""One file of each format."""

pytestmark = pytest.mark.timeout(900)

MAIN_JOB = """
    import json, sys
    import numpy as np
    from latentry import Client

    url, files, folder = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    found = {}
    with Client(url) as client:
        for name, (path, options) in files.items():
            dataset = client.upload_dataset(path, options=options)
            np.save(f"{folder}/{name}.npy", dataset.spikes[:])
        dataset = client.synthesize_dataset("lorenz", conditions=4, trials_per_condition=6, bins=20, neurons=8)
        job = client.submit(
            dataset,
            architecture={"encoder_units": 8, "initial_condition_dim": 8, "generator_units": 8, "factors": 3},
            training={"batch_size": 16, "ramp_epochs": 2},
            budget={"models": 2, "epochs": 4},
            inference={"posterior_samples": 4},
        )
        model = job.wait().selected_model
        rates = model.rates[:]
        found["rates"] = [list(rates.shape), bool(np.isfinite(rates).all())]
        at_once = model.infer(dataset.spikes[:2])["rates"]
        found["at_once"] = float(np.abs(at_once - rates[:2]).max())
        model.export(f"{folder}/model.zip")
        for format in ("npz", "hdf5", "nwb"):
            model.download(f"{folder}/latents.{format}", format=format)
        found["state"] = job.state
    print(json.dumps(found))
"""


@dataclass
class Installation:
    """An environment that has the wheel, and a service that runs from it.

    Attributes
    ----------
    programs
        Folder of its programs.
    folder
        Where they run: no project lies there.
    url, data
        Of the service.
    """

    programs: Path
    folder: Path
    url: str = ""
    data: Path = Path()

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a user who has just logged in."""
        kept = {name: value for name, value in os.environ.items() if name == "OMP_NUM_THREADS"}
        return {**kept, "PATH": f"{self.programs}{os.pathsep}{os.defpath}", "HOME": str(self.folder)}

    def run(self, program: str, *arguments: str) -> str:
        """Run a program to its end and return what it prints."""
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel of this checkout and all it depends on, in a fresh environment."""
    wheels, environment, folder = (
        tmp_path_factory.mktemp(name) for name in ("dist", "environment", "elsewhere")
    )
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, check=True, cwd=ROOT, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    done = subprocess.run(
        [*pip_for(environment), "install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (metadata,) = site_packages.glob("latentry-*.dist-info")
    required = [
        line for line in (metadata / "METADATA").read_text().splitlines() if "Requires-Dist: " in line
    ]
    link_requirements([line.removeprefix("Requires-Dist: ") for line in required], site_packages)
    return Installation(environment / "bin", folder)


def pip_for(environment: Path) -> list[str]:
    """Return the command of a pip that works on an environment that has none."""
    return [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]


def link_requirements(requirements: list[str], site_packages: Path) -> None:
    """Link the files of all distributions that are required, and of those that they require, and so on."""
    waiting, seen = [(Requirement(text), "") for text in requirements], set[tuple[str, str]]()
    linked = set[str]()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        found = distribution(requirement.name)
        if requirement.name not in linked:
            linked.add(requirement.name)
            for file in found.files or ():
                if ".." not in file.parts:  # programs, of which the service needs none but its own
                    link(Path(str(file.locate())), site_packages / file)
        for wanted in {"", *requirement.extras} - {one for name, one in seen if name == requirement.name}:
            seen.add((requirement.name, wanted))
            waiting += [(Requirement(text), wanted) for text in found.requires or ()]


def link(file: Path, target: Path) -> None:
    """Link a file, or copy it from another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        try:
            os.link(file, target)
        except OSError:
            shutil.copy2(file, target)


@pytest.fixture(scope="module")
def installation(bare: Installation) -> Iterator[Installation]:
    """The same, with its service running."""
    bare.data = bare.folder / "data"
    log = (bare.folder / "up.log").open("w+")
    process = subprocess.Popen(
        [str(bare.programs / "latentry"), "up", "--port", "0", "--workers", "1", "--data-dir", str(bare.data)],
        env=bare.environment | {"PYTHONUNBUFFERED": "1"}, cwd=bare.folder,
        stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=die_with_parent,
    )  # fmt: skip
    assert process.stdout is not None
    printed = ""
    while (found := re.search(r"http://127\.0\.0\.1:\d+", printed)) is None:
        line = process.stdout.readline()
        assert line, printed + Path(log.name).read_text()
        printed += line
    bare.url = found[0]
    yield bare
    process.terminate()
    process.communicate(timeout=60)
    log.close()
    assert process.returncode == 0
    assert "cannot read uploads" not in Path(log.name).read_text()


def test_nothing_of_the_checkout_is_on_the_path(bare: Installation) -> None:
    program = (
        "import json, sys, api, worker, models, store, latentry; "
        "print(json.dumps([sys.path, *(m.__file__ for m in (api, worker, models, store, latentry))]))"
    )
    path, *files = json.loads(bare.run("python", "-c", program))
    assert not any(Path(folder).is_relative_to(ROOT) for folder in path if folder)
    assert {Path(file).parents[1].name for file in files} == {"site-packages"}
    assert all(Path(file).is_relative_to(bare.programs.parent) for file in files)
    listed = subprocess.run(
        [*pip_for(bare.programs.parent), "check"], capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0, listed.stdout
    assert "tzdata" in bare.run("python", "-c", "import tzdata; print(tzdata.__name__)")
    with pytest.raises(AssertionError, match="No module named 'pytest'"):  # what only tests need is not there
        bare.run("python", "-c", "import pytest")


def test_the_main_job(installation: Installation, tmp_path: Path) -> None:
    files: dict[str, Any] = {}
    for name, example in EXAMPLES.items():
        files[name] = (str(example.write(tmp_path / f"{name}.file")), example.options)
    program = installation.folder / "main_job.py"
    program.write_text(textwrap.dedent(MAIN_JOB))
    printed = installation.run("python", str(program), installation.url, json.dumps(files), str(tmp_path))
    found = json.loads(printed.splitlines()[-1])
    for name, example in EXAMPLES.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), example.expected, err_msg=name)
    assert found["state"] == "done"
    assert found["rates"] == [[24, 20, 8], True]
    assert found["at_once"] < 1e-3
    for name in ("model.zip", "latents.npz", "latents.hdf5", "latents.nwb"):
        assert (tmp_path / name).stat().st_size > 1000, name


def test_the_page(installation: Installation) -> None:
    """Every module and library of the page is in the wheel; tests/web shows it in a browser."""
    page = httpx.get(f"{installation.url}/")
    (assets,) = set(re.findall(r"assets/\w+", page.text))
    for path in (ROOT / "web").rglob("*"):
        if path.suffix in (".js", ".css", ".svg") or path.name == "sample.npz":
            answer = httpx.get(f"{installation.url}/{assets}/{path.relative_to(ROOT / 'web').as_posix()}")
            assert answer.status_code == 200, path


def test_the_command_line(installation: Installation) -> None:
    url = ("--url", installation.url)

    def statuses_if_ingest_works() -> (
        dict[str, str] | None
    ):  # a busy worker may need more seconds than the doctor waits
        try:
            found = json.loads(installation.run("latentry", *url, "doctor", "--json"))
        except AssertionError:  # it fails as long as a worker has not registered
            return None
        statuses = {one["name"]: one["status"] for one in found["checks"]}
        return statuses if statuses["ingest"] == "ok" else None

    assert "failed" not in wait_until(statuses_if_ingest_works).values()
    made = json.loads(
        installation.run(
            "latentry", *url, "datasets", "synthesize", "lorenz", "--option", "bins=10", "--json"
        )
    )
    listed = json.loads(installation.run("latentry", *url, "datasets", "list", "--json"))
    assert made["id"] in [one["id"] for one in listed]


@needs_landlock
def test_the_parser_sees_no_file_of_the_service(installation: Installation, tmp_path: Path) -> None:
    canary = installation.data / "canary" / "secret"
    found = probe(
        tmp_path, secret=canary, python=installation.programs / "python", environment=installation.environment
    )
    assert (found["source"], found["code"]) == ("spikes", "worker.ingest.read")
    for name in (
        "secret",
        "list_folder",
        "truncate_secret",
        "delete_secret",
        "passwd",
        "program",
        "write_beside",
    ):
        assert found[name] == "PermissionError", name
    assert canary.read_text() == "canary"
