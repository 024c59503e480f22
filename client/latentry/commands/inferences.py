"""``latentry inferences``: models that run on data sets."""

from typing import Annotated

import typer

from latentry.commands.calling import Call, Document, command
from latentry.formatting import pairs_table, scores_in_words, time_in_words

app = typer.Typer(help="Models run on data sets (`models apply`): list, show, cancel.", no_args_is_help=True)

InferenceId = Annotated[str, typer.Argument(metavar="ID", help="Id of the inference: inf_…")]


@command(app, "list", example="inferences list")
def list_inferences(
    call: Call,
    limit: Annotated[int, typer.Option(min=1, help="Number of entries at most, newest first.")] = 20,
) -> None:
    """List inferences."""
    found = call.items("/v1/inferences", limit)
    rows = (
        (
            one["id"], one["state"], f"{one['progress']['fraction']:.0%}", one["model_id"], one["dataset_id"],
            time_in_words(one["created_at"]),
        )
        for one in found
    )  # fmt: skip
    call.answer_rows(found, ("id", "state", ">done", "model", "data set", "created"), rows)


@command(app, "show", example="inferences show inf_0192f3c4a5b6aabbccddeeff")
def show(call: Call, inference_id: InferenceId) -> None:
    """Show an inference: its progress and its scores."""
    _answer(call, call.client.get_inference(inference_id))


@command(app, "cancel", example="inferences cancel inf_0192f3c4a5b6aabbccddeeff")
def cancel(call: Call, inference_id: InferenceId) -> None:
    """Cancel an inference now."""
    _answer(call, call.client.act(f"/v1/inferences/{inference_id}:cancel"))


def _answer(call: Call, inference: Document) -> None:
    shown = {
        "inference": inference["id"], "state": inference["state"], "model": inference["model_id"],
        "data set": inference["dataset_id"], "arrays": inference["arrays"],
        "trials": f"{inference['progress']['trials_done']} of {inference['progress']['trials']}",
        **dict(scores_in_words(inference)), "error": (inference.get("error") or {}).get("message"),
    }  # fmt: skip
    call.answer(dict(inference), lambda page: page.print(pairs_table(shown.items())))
