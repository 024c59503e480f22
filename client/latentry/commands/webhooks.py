"""``latentry webhooks``: URLs that are told when jobs end."""

from typing import Annotated

import typer

from latentry.commands.calling import Call, command
from latentry.commands.formatting import rows_table, time_in_words, value_in_words

app = typer.Typer(help="URLs that are told when jobs end.", no_args_is_help=True)

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="Of the webhook: whk_…")]


@command(app, "add", example="webhooks add https://hooks.lab.example/latentry --state done --state failed")
def add(
    call: Call,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Where messages are sent.")],
    state: Annotated[
        list[str] | None, typer.Option(help="Of jobs: done, failed, cancelled; repeatable. All unless given.")
    ] = None,
) -> None:
    """Have a URL told when jobs end. The secret that signs the messages is shown this once."""
    made = call.client.create_webhook(target, **({"states": state} if state else {}))
    call.say(
        f"{made['id']} tells {made['url']} of jobs that are {', '.join(made['states'])}. Its secret, shown this once:"
    )
    call.answer(made, lambda page: page.print(made["secret"], highlight=False, markup=False, soft_wrap=True))


@command(app, "list", example="webhooks list")
def list_webhooks(call: Call) -> None:
    """List webhooks."""
    found = call.items("/v1/webhooks", None)
    rows = (
        (one["id"], one["url"], value_in_words(one["states"]), time_in_words(one["created_at"]))
        for one in found
    )
    call.answer(found, lambda page: page.print(rows_table(("id", "URL", "states", "made"), rows)))


@command(app, "remove", example="webhooks remove whk_0192f3c4a5b6aabbccddeeff")
def remove(call: Call, webhook_id: WebhookId) -> None:
    """Remove a webhook: it is told nothing more."""
    call.client.request("DELETE", f"/v1/webhooks/{webhook_id}")
    call.answer({"id": webhook_id}, lambda page: page.print(f"{webhook_id} is removed", highlight=False))


@command(app, "deliveries", example="webhooks deliveries whk_0192f3c4a5b6aabbccddeeff")
def deliveries(
    call: Call,
    webhook_id: WebhookId,
    limit: Annotated[int, typer.Option(min=1, help="So many at most, newest first.")] = 20,
) -> None:
    """List what was sent to a webhook, and how it was answered."""
    found = call.items(f"/v1/webhooks/{webhook_id}/deliveries", limit)
    rows = (
        (
            one["id"], value_in_words(one["job_id"]), one["state"], str(one["attempts"]), value_in_words(one["status"]),
            value_in_words(one["error"]), time_in_words(one["created_at"]),
        )
        for one in found
    )  # fmt: skip
    columns = ("id", "job", "state", ">attempts", ">answer", "error", "made")
    call.answer(found, lambda page: page.print(rows_table(columns, rows)))


@command(app, "test", example="webhooks test whk_0192f3c4a5b6aabbccddeeff")
def send_test(call: Call, webhook_id: WebhookId) -> None:
    """Send a message for trial; `webhooks deliveries` says how it was answered."""
    delivery = call.client.post(f"/v1/webhooks/{webhook_id}:test")
    call.answer(
        delivery, lambda page: page.print(f"{delivery['id']} is {delivery['state']}", highlight=False)
    )
