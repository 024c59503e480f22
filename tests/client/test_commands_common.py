"""What all commands have in common: help with an example, JSON, exit codes, the page that describes them."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi import FastAPI
from latentry import errors
from latentry.commands.calling import ExitCode, code_of
from latentry.commands.reading import read_document, set_values
from latentry.main import app

from domain.states import JobState
from store.array_store import open_array_store
from store.database import Database
from store.settings import Settings
from tests.api.api_examples import Example, add_dataset, add_job
from tests.api.conftest import serve
from tests.app_copies import app_of
from tests.client.command_line import CommandLine
from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/command-line.md"
NOT_OF_A_SERVICE = {"worker", "up", "demo", "sample", "version"}


def all_commands() -> dict[str, Any]:
    """Every command by what is typed after ``latentry``."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for name, one in command.commands.items():
                yield from walk(one, (*path, name))
        else:
            yield " ".join(path), command

    return dict(walk(typer.main.get_command(app), ()))


COMMANDS = all_commands()


def _options(command: Any) -> set[str]:
    return {one for parameter in command.params for one in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[name]
    assert command.main(["--help"], prog_name=f"latentry {name}", standalone_mode=False) == 0
    shown = capsys.readouterr().out
    assert command.help.split()[0] in shown
    example = re.fullmatch(r"Example: latentry (.*)", command.epilog)
    assert example, command.epilog
    assert example[1].startswith(name)
    words = re.sub(r" [|>] .*", "", example[1]).removeprefix(name)
    command.make_context(name, shlex.split(words))


@pytest.mark.parametrize("path", ["", "jobs", "jobs submit", "version"])
def test_help_is_shown_and_mistakes_of_typing_end_with_2(path: str) -> None:
    """As other programs: -h and --help end with 0; without a command, or with one that is unknown, the end is 2."""
    words, latentry = path.split(), CommandLine("http://127.0.0.1:1")
    assert "Usage:" in latentry(*words, "-h").out
    assert latentry(*words, "-h").out == latentry(*words, "--help").out
    mistake = latentry(*words, "--bogus", expect=2)
    assert mistake.out == ""
    assert "No such option" in mistake.messages
    if path in ("", "jobs"):
        assert latentry(*words, expect=2).out + latentry(*words, expect=2).messages
        assert "No such command 'shwo'" in latentry(*words, "shwo", expect=2).messages


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - NOT_OF_A_SERVICE))
def test_every_command_answers_in_json_and_takes_an_address(name: str) -> None:
    assert {"--json", "--url", "--key"} <= _options(COMMANDS[name])


def test_every_command_and_exit_code_is_on_the_page() -> None:
    page = PAGE.read_text()
    named = re.findall(r"^\| `latentry ([a-z-]+(?: [a-z-]+)?)[^`]*` \|", page, re.MULTILINE)
    assert sorted(named) == sorted(COMMANDS)
    for name, command in COMMANDS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `latentry {name}"))
        for option in re.findall(r"--[a-z-]+", row):
            assert option in _options(command), f"{name} {option}"
    codes = re.findall(r"^\| (\d+) \|", page, re.MULTILINE)
    assert [int(code) for code in codes] == sorted(ExitCode)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Invalid("a", status=422), 2),
        (errors.DigestMismatch("a"), 2),
        (errors.NotFound("a"), 3),
        (errors.Unauthorized("a"), 4),
        (errors.Forbidden("a"), 4),
        (errors.NoAnswer("a"), 5),
        (errors.Unavailable("a"), 5),
        (errors.DatasetRejected("a"), 6),
        (errors.NotDone("a"), 6),
        (errors.WrongState("a"), 1),
        (errors.ServiceFault("a"), 1),
    ],
)
def test_exit_codes_of_errors(error: errors.LatentryError, code: int) -> None:
    assert code_of(error) == code


def test_how_commands_end(example: Example, example_url: str) -> None:
    latentry = CommandLine(example_url)
    missing = latentry("jobs", "show", "job_" + "0" * 24, expect=3)
    assert missing.out == ""
    assert missing.messages.startswith("Error: there is no job job_0")
    assert "GET /v1/jobs lists yours" in missing.messages
    assert latentry("jobs", "pause", example.job_id, "--json", expect=1).out == ""
    assert "No such command" in latentry("jobs", "shwo", expect=2).messages
    assert "extend" in latentry("jobs", "extend", example.job_id, "--models", "-1", expect=2).messages
    away = CommandLine(f"http://127.0.0.1:{free_port()}")("jobs", "list", "--json", expect=5)
    assert away.out == ""
    assert "`latentry up` starts one" in away.messages
    for url in ("nonsense", "ftp://127.0.0.1", "http://", "http://127.0.0.1:x", "http://[1"):
        assert "is not the address" in CommandLine(url)("jobs", "list", expect=2).messages


def test_the_address_of_the_api_is_that_of_the_service(example: Example, example_url: str) -> None:
    shown = CommandLine(f"{example_url}/v1")("jobs", "show", example.job_id, "--json").json()
    assert shown["id"] == example.job_id


@pytest.mark.parametrize("said", [(), ("--data-dir", "said", "--threads", "3")])
def test_up_takes_its_folder_and_threads_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, said: tuple[str, ...]
) -> None:
    begun: list[tuple[Path, int]] = []

    class Service:
        def __init__(self, data_dir: Path, **options: Any) -> None:
            begun.append((data_dir, options["threads"]))

        def configure_logs(self) -> None:
            pass

        def start(self) -> None:
            raise RuntimeError("it need not run")

        def stop(self) -> None:
            pass

    monkeypatch.setattr("latentry.main.load_embedded_service", lambda: Service)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("LATENTRY_DATA_DIR", "kept")
    monkeypatch.setenv("LATENTRY_THREADS", "2")
    assert "need not run" in CommandLine("http://service")("up", *said, expect=1).messages
    assert begun == [(Path("said"), 3) if said else (Path("kept"), 2)]


def test_the_address_goes_anywhere(example: Example, example_url: str) -> None:
    nowhere = CommandLine(f"http://127.0.0.1:{free_port()}")
    for arguments in (
        ("jobs", "show", example.job_id, "--json", "--url", example_url),
        ("--url", example_url, "jobs", "show", example.job_id, "--json"),
    ):
        assert nowhere(*arguments).json()["id"] == example.job_id


@pytest.fixture
def guarded_url(tmp_path: Path, sqlite_database: Database) -> Iterator[str]:
    """A service that requires a key."""
    settings = Settings(data_dir=tmp_path / "data", require_key=True, admin_key="operator-" + "0" * 20)
    guarded: FastAPI = app_of(settings, sqlite_database, open_array_store("sql:", sqlite_database))
    yield from serve(guarded)


def test_a_key_is_asked_for_and_taken_from_everywhere(guarded_url: str) -> None:
    without = CommandLine(guarded_url)("datasets", "list", expect=4)
    assert "requires a key" in without.messages
    secret = "operator-" + "0" * 20
    assert CommandLine(guarded_url, key=secret)("datasets", "list", "--json").json() == []
    assert CommandLine(guarded_url)("datasets", "list", "--json", "--key", secret).json() == []
    assert CommandLine(guarded_url)("--key", secret, "datasets", "list", "--json").json() == []
    made = CommandLine(guarded_url, key=secret)("keys", "create", "reader", "--scope", "read")
    reader = made.out.strip()
    assert reader.startswith("lat_")
    assert CommandLine(guarded_url, key=reader)("keys", "list", expect=4).code == 4


def test_a_service_that_can_not_be_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = CommandLine("")("up", "--data-dir", tmp_path / "data", "--port", port, expect=1)
    assert f"port {port} of 127.0.0.1 can't be taken" in refused.messages


def test_the_version() -> None:
    number = version("latentry")
    assert CommandLine("")("version").out == f"{number}\n"
    assert CommandLine("")("--version").out == f"{number}\n"
    assert CommandLine("")("--version", "jobs", "list").out == f"{number}\n"  # and runs no command
    assert CommandLine("")("version", "--json").json() == {"version": number}


def test_ctrl_c_ends_with_130(light_url: str, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, add_dataset(session), state=JobState.QUEUED)
    command = [sys.executable, "-m", "latentry.main", "jobs", "watch", job_id, "--url", light_url, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "job.state" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_help_comes_at_once() -> None:
    """No package that takes long is imported for it; the time itself depends on the machine."""
    script = (
        "import sys; from typer.testing import CliRunner; from latentry.main import app\n"
        "assert CliRunner().invoke(app, ['jobs', 'submit', '--help']).exit_code == 0\n"
        "print(*sorted({'httpx', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240)
    assert done.stdout == "\n", done.stderr


def test_completion_is_offered() -> None:
    environment = {
        **os.environ,
        "_LATENTRY_COMPLETE": "complete_bash",
        "COMP_WORDS": "latentry jo",
        "COMP_CWORD": "1",
    }
    script = Path(sys.executable).parent / "latentry"
    done = subprocess.run([script], env=environment, capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == ["jobs"]


def test_documents_are_read_from_json_yaml_and_toml(tmp_path: Path) -> None:
    for name, text in {
        "a.json": '{"budget": {"models": 3}, "name": "x"}',
        "a.yaml": "budget: {models: 3}\nname: x\n",
        "a.toml": 'name = "x"\n[budget]\nmodels = 3\n',
    }.items():
        (tmp_path / name).write_text(text)
        assert read_document(tmp_path / name) == {"budget": {"models": 3}, "name": "x"}


@pytest.mark.parametrize(
    ("assignments", "made"),
    [
        (["a.b=1"], {"a": {"b": 1, "kept": 0}}),
        (["a.b=[1, 2]", "c=word"], {"a": {"b": [1, 2], "kept": 0}, "c": "word"}),
        (["c.d.e=null"], {"a": {"kept": 0}, "c": {"d": {"e": None}}}),
    ],
)
def test_single_values_are_set(assignments: list[str], made: dict[str, Any]) -> None:
    before = {"a": {"kept": 0}}
    assert set_values(before, assignments) == made
    assert before == {"a": {"kept": 0}}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--specification", "broken.json"),
        ("--specification", "list.json"),
        ("--specification", "broken.yaml"),
        ("--set", "budget"),
        ("--set", "=3"),
        ("--set", "name=a", "--set", "name.first=b"),
        ("--dataset", "no_such_file.npz"),
        (),
    ],
)
def test_documents_that_make_no_sense(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "list.json").write_text("[]")
    nowhere = CommandLine(f"http://127.0.0.1:{free_port()}")
    dataset = () if "--dataset" in arguments or not arguments else ("--dataset", "dat_1")
    assert nowhere("jobs", "submit", *dataset, *arguments, expect=2).messages.startswith("Error: ")
