"""``latentry export``: a model to take along."""

from pathlib import Path
from typing import Annotated

import typer

from latentry.commands import downloads
from latentry.commands.calling import Call, command
from latentry.commands.models import SessionNumber, selected_model


def register(app: typer.Typer, panel: str) -> None:
    """Add the command to a panel of the help."""

    @command(
        app, "export", panel=panel, example="export mod_0192f3c4a5b6aabbccddeeff -o model.zip --program onnx"
    )
    def export(
        call: Call,
        model_id: Annotated[
            str, typer.Argument(metavar="ID", help="A model (mod_…), or a job: its selected model.")
        ],
        output: downloads.Output = Path("model.zip"),
        program: Annotated[
            str | None, typer.Option(help="Add the whole network as a program: torch_export or onnx.")
        ] = None,
        session: SessionNumber = None,
    ) -> None:
        """Write a model as a zip: weights as safetensors, a card, and ten lines that load it without this service."""
        if model_id.startswith("job_"):
            model_id = selected_model(call, model_id)
        downloads.save(
            call, f"/v1/models/{model_id}/export", {"program": program, "session": session}, output
        )
