"""The command line, ``latentry``. What the exit codes mean is in `latentry.commands.calling`."""

import contextlib
import json
import signal
import threading
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from latentry.commands import administration, datasets, doctor, jobs, latents, models, steering
from latentry.commands.calling import DEFAULT_URL, Connection, UsageProblem, with_errors_reported
from latentry.installation import load_embedded_service, own_version

app = typer.Typer(
    help="Single-trial latent dynamics from spikes.",
    epilog="Example: latentry jobs submit --dataset reaches.nwb --preset quick --watch",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)
USE, RUN = "Use a service", "Run or check a service"
for name, group in (
    ("datasets", datasets.app),
    ("jobs", jobs.app),
    ("models", models.app),
    ("latents", latents.app),
    ("inferences", models.inferences),
    ("keys", administration.keys),
    ("shares", administration.shares),
    ("retention", administration.retention),
    ("webhooks", administration.webhooks),
):
    app.add_typer(group, name=name, rich_help_panel=USE)
models.register_export(app, USE)
administration.register_usage(app, USE)
administration.register_audit(app, USE)
doctor.register(app, RUN)
app.add_typer(steering.workers, name="workers", rich_help_panel=RUN)
app.add_typer(steering.tenants, name="tenants", rich_help_panel=RUN)

Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of training workers; default: one for each GPU, else one for each core."
    ),
]

Threads = Annotated[int, typer.Option(min=1, envvar="LATENTRY_THREADS", help="CPU threads of each worker.")]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(own_version())
        raise typer.Exit


@app.callback()
def connect(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="LATENTRY_URL", metavar="URL", help=f"Address of the service; default: {DEFAULT_URL}."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="LATENTRY_KEY", metavar="KEY", help="Your key, if the service needs one."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version of this client and exit.",
        ),
    ] = False,
) -> None:
    """Single-trial latent dynamics from spikes."""
    context.obj = Connection(url, key)


@app.command(rich_help_panel=RUN, epilog="Example: latentry up --data-dir /data/latentry --port 8000")
def up(
    *,
    data_dir: Annotated[
        Path, typer.Option(envvar="LATENTRY_DATA_DIR", help="Folder for all data of the service.")
    ] = Path("latentry-data"),
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for the whole network.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free port.")
    ] = 8000,
    workers: Workers = None,
    threads: Threads = 1,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Let everyone who can reach --host use the service without a key."),
    ] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in your browser.")] = False,
) -> None:
    """Run the whole service on this machine: page, API, worker, maintenance loop, broker, SQLite."""
    options = {"host": host, "port": port, "workers": workers, "threads": threads, "insecure": insecure}
    with_errors_reported(lambda: _run_service(data_dir, open_page=open_page, **options))


@app.command(rich_help_panel=RUN, epilog="Example: latentry worker")
def worker(
    *,
    workers: Workers = None,
    threads: Threads = 1,
) -> None:
    """Train the models of a service that runs elsewhere, on all GPUs of this machine.

    LATENTRY_DATABASE_URL and LATENTRY_REDIS_URL are the addresses of the service.
    """
    with_errors_reported(lambda: _run_workers(workers, threads))


def _run_workers(workers: int | None, threads: int) -> None:
    stopping = _signals_that_stop()
    service = load_embedded_service().training_workers(workers, threads)
    service.configure_logs()
    try:
        devices = service.start()
        typer.echo(f"Train  {len(devices)} worker{'' if len(devices) == 1 else 's'}: {', '.join(devices)}")
        typer.echo("Ctrl-C stops them; the service gives their work to other workers.")
        service.watch(stopping.is_set)
        _print_if_open("Stopping: workers finish their epoch and save …")
    finally:
        service.stop()


def _signals_that_stop() -> threading.Event:
    """Return an event that a signal to end this process sets."""
    stopping = threading.Event()
    ends = [signal.SIGINT, signal.SIGTERM]
    if (
        signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    ):  # sent when the terminal is closed, unless `nohup` ignores it
        ends.append(signal.SIGHUP)
    for number in ends:
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def _run_service(data_dir: Path, open_page: bool, **options: Any) -> None:
    stopping = _signals_that_stop()
    service = load_embedded_service()(data_dir, **options)
    service.configure_logs()
    try:
        service.start()
        typer.echo(f"Page   {service.url}/")
        typer.echo(f"API    {service.url}/v1")
        typer.echo(f"Docs   {service.url}/docs")
        typer.echo(f"Data   {service.data_dir}")
        typer.echo(f"Train  {service.workers} worker{'' if service.workers == 1 else 's'}")
        typer.echo(f"Logs   {service.log_dir}")
        typer.echo("Ctrl-C stops the service; the next `latentry up` continues where it stopped.")
        if open_page and not webbrowser.open(f"{service.url}/"):
            typer.echo(f"No browser was found on this machine; open {service.url}/ in yours.", err=True)
        service.watch(stopping.is_set)
        _print_if_open("Stopping: workers finish their epoch and save …")
    finally:
        service.stop()
    _print_if_open("Stopped.")


def _print_if_open(text: str) -> None:
    """Print a line, unless the terminal is closed."""
    with contextlib.suppress(OSError):
        typer.echo(text)


@app.command(rich_help_panel=RUN, epilog="Example: latentry demo --data-dir /tmp/latentry-demo")
def demo(
    *,
    data_dir: Annotated[Path, typer.Option(help="Folder for all data of the service.")] = Path(
        "latentry-demo"
    ),
    url: Annotated[str | None, typer.Option(help="Use a running service instead of starting one.")] = None,
    json_line: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    workers: Workers = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data and of the search.")] = 0,
    epochs: Annotated[
        int, typer.Option(min=1, help="Number of epochs of each model: fewer are faster and less accurate.")
    ] = 36,
) -> None:
    """Run a search on synthetic spikes with known rates, and show the selected model and its latents."""
    from latentry.demo import run_demo

    with_errors_reported(
        lambda: run_demo(data_dir, url, json_line=json_line, workers=workers, seed=seed, epochs=epochs)
    )


@app.command(rich_help_panel=RUN, epilog="Example: latentry sample spikes.npz")
def sample(
    file: Annotated[Path, typer.Argument(help="NPZ file to write; the guides call it spikes.npz.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same spikes.")] = 0,
) -> None:
    """Write a small data set for a first try: 120 reaches in 8 directions, 36 neurons, hand movement, events."""
    from latentry.sample import write_sample

    def write() -> None:
        if file.suffix != ".npz":
            raise UsageProblem(f"{file}: expected a name that ends with .npz", "such as spikes.npz")
        write_sample(file, seed)

    with_errors_reported(write)
    typer.echo(
        f"{file}: 120 trials of 50 bins of 20 ms, 36 neurons; upload it: latentry datasets upload {file}"
    )


@app.command(name="version", rich_help_panel=RUN, epilog="Example: latentry version")
def show_version(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print the version of this client, as --version does."""
    typer.echo(json.dumps({"version": own_version()}) if as_json else own_version())


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
