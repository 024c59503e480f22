"""The command line, ``latentry``. Exit codes: 0 well, 1 the service or a job failed, 2 wrong usage."""

import logging
import signal
import threading
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, Any

import typer

from latentry.errors import LatentryError

app = typer.Typer(
    help="Single-trial latent dynamics from spikes.", no_args_is_help=True, pretty_exceptions_enable=False
)

DataDir = Annotated[Path, typer.Option(help="Folder of everything the service keeps.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Training workers; by default one with a GPU, else one for each core."),
]


def load_embedded_service() -> Any:
    """Return the class that runs the whole service here; the service offers it, the client knows no service code."""
    found = entry_points(group="latentry.service", name="embedded")
    if not found:
        raise LatentryError(
            "this installation has the client only",
            "install the service, `pip install latentry`, to run it here",
        )
    return next(iter(found)).load()


@app.command()
def up(
    data_dir: DataDir = Path("latentry-data"),
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for the whole network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    workers: Workers = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each worker.")] = 1,
) -> None:
    """Run the whole service on this machine: API, worker, maintenance loop, broker, SQLite."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    service = load_embedded_service()(data_dir, host=host, port=port, workers=workers, threads=threads)
    try:
        service.start()
        typer.echo(f"API    {service.url}/v1")
        typer.echo(f"Docs   {service.url}/docs")
        typer.echo(f"Data   {service.data_dir}")
        typer.echo(f"Train  {service.workers} workers")
        typer.echo(f"Logs   {service.log_dir}")
        typer.echo("Ctrl-C stops everything; the next `latentry up` goes on where it was.")
        service.watch(stopping.is_set)
        typer.echo("Stopping: workers end their epoch and save …")
    finally:
        service.stop()
    typer.echo("Stopped.")


@app.command()
def demo(
    data_dir: DataDir = Path("latentry-demo"),
    url: Annotated[str | None, typer.Option(help="Use a running service instead of starting one.")] = None,
    json_line: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    workers: Workers = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the data and of the search.")] = 0,
) -> None:
    """Run the main job on synthetic spikes whose rates are known: a search, the selected model, its latents."""
    from latentry.demo import run_demo

    run_demo(data_dir, url, json_line, workers, seed)


@app.command(name="version")
def show_version() -> None:
    """Print the version."""
    typer.echo(version("latentry"))


def main() -> None:
    """Run the command line; a problem is printed with its hint, not as a traceback."""
    try:
        app()
    except (LatentryError, RuntimeError) as error:
        typer.secho(f"Error: {error}", err=True, fg=typer.colors.RED)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
