"""What all commands share: the options that name the service, the output of answers, errors and exit codes."""

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer

from latentry import errors
from latentry.errors import LatentryError
from latentry.formatting import print_plain, rows_table

if TYPE_CHECKING:
    from rich.console import Console

    from latentry import Client

DEFAULT_URL = "http://127.0.0.1:8000"
_WIDTH_OF_A_PIPE = 200  # no terminal, no edge: a row of a table stays on its line

Document = dict[str, Any]

Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help=f"Address of the service; default: LATENTRY_URL, else {DEFAULT_URL}.",
        show_default=False, rich_help_panel="Every command",
    ),
]  # fmt: skip
Secret = Annotated[
    str | None,
    typer.Option(
        "--key", metavar="KEY", help="Your key; default: LATENTRY_KEY.",
        show_default=False, rich_help_panel="Every command",
    ),
]  # fmt: skip
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document on standard output and nothing else.",
        rich_help_panel="Every command",
    ),
]


class ExitCode(IntEnum):
    """How a command ended, for scripts; ``docs/command-line.md`` has the same table."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    NO_ANSWER = 5
    ENDED_BADLY = 6
    INTERRUPTED = 130


class UsageProblem(Exception):
    """The command line, or a file that it names, is not valid.

    Parameters
    ----------
    message
        What was expected, and what was given.
    hint
        What to do.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


_OF_KIND: tuple[tuple[type[LatentryError], ExitCode], ...] = (
    (errors.BadRequest, ExitCode.USAGE),
    (errors.Invalid, ExitCode.USAGE),
    (errors.TooLarge, ExitCode.USAGE),
    (errors.UnsupportedFormat, ExitCode.USAGE),
    (errors.NotFound, ExitCode.NOT_FOUND),
    (errors.Gone, ExitCode.NOT_FOUND),
    (errors.Unauthorized, ExitCode.NOT_ALLOWED),
    (errors.Forbidden, ExitCode.NOT_ALLOWED),
    (errors.Unavailable, ExitCode.NO_ANSWER),
    (errors.DatasetRejected, ExitCode.ENDED_BADLY),
    (errors.NotDone, ExitCode.ENDED_BADLY),
)


def code_of(error: LatentryError) -> ExitCode:
    """Return the exit code for an error of the client."""
    return next((code for kind, code in _OF_KIND if isinstance(error, kind)), ExitCode.FAILED)


@dataclass(frozen=True)
class Connection:
    """Address and key of the service, from options before the name of the command or from the environment."""

    url: str | None
    key: str | None


class Call:
    """One run of a command.

    Parameters
    ----------
    url, key
        Address of the service, and the key for it.
    as_json
        Whether to print the answer as JSON.
    """

    def __init__(self, url: str, key: str | None, as_json: bool) -> None:
        self.url, self.key, self.as_json = url, key, as_json
        self.options: dict[str, str] = {}
        """Options of the command, by the parameter or the pointer to the field that each is sent as."""

    @cached_property
    def client(self) -> "Client":
        """Return the client, made on first use."""
        from latentry import Client

        return Client(self.url, key=self.key)

    @cached_property
    def messages(self) -> "Console":
        """Return standard error, for progress and messages."""
        from rich.console import Console

        return Console(stderr=True, width=_width(sys.stderr.isatty()))

    @cached_property
    def page(self) -> "Console":
        """Return standard output, for an answer that people read."""
        from rich.console import Console

        return Console(width=_width(sys.stdout.isatty()))

    def say(self, text: str) -> None:
        """Print a message on standard error."""
        self.messages.print(text, highlight=False, markup=False, soft_wrap=True)

    def answer(self, document: Any, show: "Callable[[Console], None]") -> None:
        """Print the answer: as one JSON document, or by `show`."""
        if self.as_json:
            indent = 2 if sys.stdout.isatty() else None
            print(json.dumps(document, ensure_ascii=False, indent=indent))
        else:
            show(self.page)

    def answer_text(self, document: Any, text: str) -> None:
        """Print the answer: as one JSON document, or as this text."""
        self.answer(document, lambda page: print_plain(page, text))

    def answer_rows(self, document: Any, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print the answer: as one JSON document, or as a table of these rows."""
        self.answer(document, lambda page: page.print(rows_table(columns, rows)))

    def answer_line(self, document: Document) -> None:
        """Print one of a stream of documents as a line of JSON."""
        print(json.dumps(document, ensure_ascii=False), flush=True)

    def page_of(
        self, path: str, *, limit: int, everything: bool, page_token: str | None, **filters: Any
    ) -> list[Document]:
        """Return items of a paged list, and print how to see the rest."""
        self.options |= _OPTIONS_OF_LISTS
        if everything:
            return self.items(path, None, page_token=page_token, **filters)
        page = self.client.get(path, params={**filters, "page_size": limit, "page_token": page_token})
        if token := page["next_page_token"]:
            self.say(f"There are more: --page-token {token} shows the next {limit}, --all shows all.")
        found: list[Document] = page["items"]
        return found

    def items(self, path: str, limit: int | None, **parameters: Any) -> list[Document]:
        """Return items of a paged list: the first `limit`, or all of them if it is None."""
        from latentry.synchronous.resources import Pages

        return list(islice(Pages[Document](self.client, path, dict, **parameters), limit))


_OPTIONS_OF_LISTS = {
    "text": "--text", "tag": "--tag", "created_by": "--by", "state": "--state", "dataset_id": "--dataset",
    "name": "--name", "created_after": "--after", "created_before": "--before",
    "page_size": "--limit", "page_token": "--page-token",
}  # fmt: skip
Limit = Annotated[int, typer.Option(min=1, max=500, help="Number of entries at most, newest first.")]
Everything = Annotated[bool, typer.Option("--all", help="List all entries; --limit has no effect.")]
PageToken = Annotated[
    str | None, typer.Option(metavar="TOKEN", help="Continue an earlier list, which printed this token.")
]
NameFilter = Annotated[
    str | None, typer.Option("--name", metavar="TEXT", help="Only entries whose name contains this text.")
]
TextFilter = Annotated[
    str | None,
    typer.Option(
        "--text", metavar="TEXT", help="Only entries with this text in name, notes, tags or file name."
    ),
]
TagFilter = Annotated[
    list[str] | None,
    typer.Option(
        "--tag", metavar="TAG", help="Only entries with this tag; repeatable: with all of these tags."
    ),
]
ByFilter = Annotated[
    str | None,
    typer.Option("--by", metavar="KEY", help="Only what this key did: its id, or its exact name."),
]
Notes = Annotated[str | None, typer.Option("--notes", metavar="TEXT", help="Notes.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag; repeatable.")]
Untag = Annotated[
    list[str] | None, typer.Option("--untag", metavar="TAG", help="A tag to remove; repeatable.")
]
After = Annotated[
    str | None,
    typer.Option(
        "--after",
        metavar="TIME",
        help="Only entries created at or after this time, such as 2026-01-31 (UTC).",
    ),
]
Before = Annotated[
    str | None, typer.Option("--before", metavar="TIME", help="Only entries created before this time.")
]


def edit(call: Call, path: str, tag: list[str] | None, untag: list[str] | None, **fields: Any) -> None:
    """Change fields of a data set or a job, those that are not None; add and remove tags."""
    changes = {name: value for name, value in fields.items() if value is not None}
    if tag or untag:
        removed = {one.casefold() for one in untag or ()}
        kept = [one for one in call.client.get(path)["tags"] if one.casefold() not in removed]
        changes["tags"] = kept + (tag or [])
    if not changes:
        raise UsageProblem("nothing to change is given", "give --name, --notes, --tag or --untag")
    call.options |= {f"/{name}": f"--{name}" for name in fields} | {"/tags": "--tag"}
    done = call.client.request("PATCH", path, json=changes, is_repeatable=True).json()
    tags = ", ".join(done["tags"]) or "none"
    call.answer_text(done, f"{done['id']} is named {done['name']!r}; tags: {tags}")


def _width(is_terminal: bool) -> int | None:
    return None if is_terminal else _WIDTH_OF_A_PIPE


def command(
    group: typer.Typer, name: str, *, example: str, panel: str | None = None
) -> Callable[[Callable[..., None]], Any]:
    """Register a function as a command of a group, with the options that all commands have.

    Parameters
    ----------
    group, name
        Group and name of the command.
    example
        Arguments of an example, shown after ``latentry`` at the end of its help.
    panel
        Panel of the group's help that lists the command.
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
            with_errors_reported(lambda: function(call, **arguments), call.url, call.options)

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own] + common
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        group.command(name, epilog=f"Example: latentry {example}", rich_help_panel=panel)(run)
        return function

    return register


def with_errors_reported(
    run: Callable[[], None], url: str = DEFAULT_URL, options: Mapping[str, str] | None = None
) -> None:
    """Run a command; print an error with its hint on standard error, and exit with the code of its kind.

    Parameters
    ----------
    run, url
        The command, and the service that it calls.
    options
        See `Call.options`: errors name the option that was given, not the field of the request.
    """
    try:
        if not _is_address(url):
            raise UsageProblem(f"{url!r} is not the address of a service", f"such as {DEFAULT_URL}")
        run()
    except LatentryError as error:
        named = options or {}
        fail(code_of(error), _with_options(error.message, named), error.hint, _fields(error, named))
    except UsageProblem as problem:
        fail(ExitCode.USAGE, problem.message, problem.hint)
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise  # typer handles these; the last means that the reader of standard output has closed it
    except (OSError, RuntimeError) as error:
        fail(ExitCode.FAILED, str(error))


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, unclosed brackets
        return False


def fail(code: ExitCode, message: str, hint: str = "", fields: list[str] | None = None) -> NoReturn:
    """Print an error and end the command."""
    typer.secho(f"Error: {message}", err=True, fg=typer.colors.RED)
    for line in fields or []:
        typer.echo(f"  {line}", err=True)
    if hint:
        typer.echo(f"  {hint}", err=True)
    raise typer.Exit(code)


def _with_options(text: str, options: Mapping[str, str]) -> str:
    """Replace the field at the beginning of a text by the option that is sent as this field."""
    pointer, colon, rest = text.partition(": ")
    of_list = pointer.rstrip("0123456789").rstrip("./")  # an item of a repeatable option
    return f"{options.get(pointer) or options.get(of_list, pointer)}{colon}{rest}"


def _fields(error: LatentryError, options: Mapping[str, str]) -> list[str]:
    """Return a line for each field that is wrong, unless the message says it already."""
    if len(error.errors) == 1 and error.errors[0]["message"] in error.message:
        return []
    return [_with_options(f"{one['pointer']}: {one['message']}", options) for one in error.errors]
