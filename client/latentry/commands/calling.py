"""What every command has: the options that say where the service is, one way to answer, one way to fail."""

import functools
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer

from latentry.commands.exits import ExitCode, UsageProblem, code_of
from latentry.errors import LatentryError

if TYPE_CHECKING:
    from rich.console import Console

    from latentry.client import Client

DEFAULT_URL = "http://127.0.0.1:8000"
_WIDTH_OF_A_PIPE = 200  # no terminal, no edge: a row of a table stays on its line

Document = dict[str, Any]

Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help=f"The service; else LATENTRY_URL, else {DEFAULT_URL}.",
        show_default=False, rich_help_panel="Every command",
    ),
]  # fmt: skip
Secret = Annotated[
    str | None,
    typer.Option(
        "--key", metavar="KEY", help="Your key; else LATENTRY_KEY.",
        show_default=False, rich_help_panel="Every command",
    ),
]  # fmt: skip
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="JSON on standard output, and nothing else there.", rich_help_panel="Every command"
    ),
]


@dataclass(frozen=True)
class Connection:
    """Where the service is, as said before the name of the command or in the environment."""

    url: str | None
    key: str | None


class Call:
    """One run of a command.

    Parameters
    ----------
    url, key
        Of the service.
    as_json
        Answer in JSON.
    """

    def __init__(self, url: str, key: str | None, as_json: bool) -> None:
        self.url, self.key, self.as_json = url, key, as_json
        self.options: dict[str, str] = {}
        """Options of the command, by the names of the parameters and the pointers to the fields that they are sent as."""

    @cached_property
    def client(self) -> "Client":
        """The client, made when it is first needed."""
        from latentry.client import Client

        return Client(self.url, key=self.key)

    @cached_property
    def messages(self) -> "Console":
        """Standard error: progress, and what is said beside the answer."""
        from rich.console import Console

        return Console(stderr=True, width=_width(sys.stderr.isatty()))

    @cached_property
    def page(self) -> "Console":
        """Standard output of an answer for people."""
        from rich.console import Console

        return Console(width=_width(sys.stdout.isatty()))

    def say(self, text: str) -> None:
        """Say something beside the answer."""
        self.messages.print(text, highlight=False, markup=False, soft_wrap=True)

    def answer(self, document: Any, show: "Callable[[Console], None]") -> None:
        """Print the answer: as one JSON document, or as `show` draws it."""
        if self.as_json:
            indent = 2 if sys.stdout.isatty() else None
            print(json.dumps(document, ensure_ascii=False, indent=indent))
        else:
            show(self.page)

    def answer_line(self, document: Document) -> None:
        """Print one of a stream of documents as a line of JSON."""
        print(json.dumps(document, ensure_ascii=False), flush=True)

    def page_of(
        self, path: str, limit: int, everything: bool, page_token: str | None, **filters: Any
    ) -> list[Document]:
        """Return items of a paged list, and say how to see the rest."""
        self.options |= _OPTIONS_OF_LISTS
        if everything:
            return self.items(path, None, page_token=page_token, **filters)
        asked = {name: value for name, value in filters.items() if value is not None}
        page = self.client.get(path, params={**asked, "page_size": limit, "page_token": page_token})
        if token := page["next_page_token"]:
            self.say(f"There are more: --page-token {token} shows the next {limit}, --all shows all.")
        found: list[Document] = page["items"]
        return found

    def items(self, path: str, limit: int | None, **parameters: Any) -> list[Document]:
        """Items of a paged list, the first `limit` of them or all."""
        asked = {name: value for name, value in parameters.items() if value is not None}
        found: list[Document] = []
        while True:
            page = self.client.get(path, params=asked)
            found += page["items"]
            if limit is not None and len(found) >= limit:
                return found[:limit]
            if not page["next_page_token"]:
                return found
            asked["page_token"] = page["next_page_token"]


_OPTIONS_OF_LISTS = {
    "state": "--state", "dataset_id": "--dataset", "name": "--name", "created_after": "--after", "created_before": "--before",
    "page_size": "--limit", "page_token": "--page-token",
}  # fmt: skip
Limit = Annotated[int, typer.Option(min=1, max=500, help="So many at most, newest first.")]
Everything = Annotated[bool, typer.Option("--all", help="All, whatever --limit says.")]
PageToken = Annotated[
    str | None, typer.Option(metavar="TOKEN", help="Go on where an earlier list ended, which said the token.")
]
NameFilter = Annotated[
    str | None, typer.Option("--name", metavar="TEXT", help="Only those whose name has this in it.")
]
After = Annotated[
    str | None,
    typer.Option("--after", metavar="TIME", help="Only those made since then, such as 2026-01-31 (UTC)."),
]
Before = Annotated[str | None, typer.Option("--before", metavar="TIME", help="Only those made before then.")]


def _width(is_terminal: bool) -> int | None:
    return None if is_terminal else _WIDTH_OF_A_PIPE


def command(
    group: typer.Typer, name: str, *, example: str, panel: str | None = None
) -> Callable[[Callable[..., None]], Any]:
    """Make a function a command of a group, with the options that every command has.

    Parameters
    ----------
    group, name
        Where it is found.
    example
        Arguments of an example, shown at the end of its help: what comes after ``latentry``.
    panel
        Where it is listed in the help of the group.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function).parameters.values())[1:]
        common = [
            inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
            inspect.Parameter("url", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Url),
            inspect.Parameter("key", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Secret),
            inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson),
        ]

        @functools.wraps(function)
        def run(
            context: typer.Context, url: str | None, key: str | None, as_json: bool, **arguments: Any
        ) -> None:
            before = context.find_object(Connection) or Connection(None, None)
            address = (url or before.url or DEFAULT_URL).rstrip("/").removesuffix("/v1")
            call = Call(address, key or before.key, as_json)
            with_errors_told(lambda: function(call, **arguments), call.url, call.options)

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own] + common
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        group.command(name, epilog=f"Example: latentry {example}", rich_help_panel=panel)(run)
        return function

    return register


def with_errors_told(
    run: Callable[[], None], url: str = DEFAULT_URL, options: Mapping[str, str] | None = None
) -> None:
    """Run a command; what goes wrong is told on standard error with its hint, and the exit code says the kind.

    Parameters
    ----------
    run, url
        The command, and the service that it calls.
    options
        See `Call.options`: errors name the option that was given, not the field of the request.
    """
    try:
        if not _is_address(url):
            raise UsageProblem(f"{url!r} is no address of a service", f"such as {DEFAULT_URL}")
        run()
    except LatentryError as error:
        named = options or {}
        fail(code_of(error), _with_options(error.message, named), error.hint, _fields(error, named))
    except UsageProblem as problem:
        fail(ExitCode.USAGE, problem.message, problem.hint)
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise  # ends that typer knows; the last when the reader of standard output has had enough
    except (OSError, RuntimeError) as error:
        fail(ExitCode.FAILED, str(error))


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that are not closed
        return False


def fail(code: ExitCode, message: str, hint: str = "", fields: list[str] | None = None) -> NoReturn:
    """Tell what went wrong and end the command."""
    typer.secho(f"Error: {message}", err=True, fg=typer.colors.RED)
    for line in fields or []:
        typer.echo(f"  {line}", err=True)
    if hint:
        typer.echo(f"  {hint}", err=True)
    raise typer.Exit(code)


def _with_options(text: str, options: Mapping[str, str]) -> str:
    """Name the option in a text that begins with the field that it is sent as."""
    pointer, colon, rest = text.partition(": ")
    return f"{options.get(pointer, pointer)}{colon}{rest}"


def _fields(error: LatentryError, options: Mapping[str, str]) -> list[str]:
    """What is wrong with each field of a request, where it is more than the message says."""
    if len(error.errors) == 1 and error.errors[0]["message"] in error.message:
        return []
    return [_with_options(f"{one['pointer']}: {one['message']}", options) for one in error.errors]
