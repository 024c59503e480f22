"""``latentry keys``: who may use the service."""

from typing import Annotated

import typer

from latentry.commands.calling import Call, command
from latentry.commands.formatting import rows_table, time_in_words, value_in_words

app = typer.Typer(help="Keys of the service: make, list, revoke.", no_args_is_help=True)


@command(app, "create", example='keys create "the dashboard" --scope read --expires 2027-01-01T00:00:00Z')
def create(
    call: Call,
    name: Annotated[str, typer.Argument(help="Whose it is, or what for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="read, write or admin; repeatable. read and write unless given.")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Whose data sets and jobs it is for; yours unless given.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it expires, with its zone: 2027-01-01T00:00:00Z.")
    ] = None,
) -> None:
    """Make a key. It is shown this once: only a digest of it is kept."""
    given = {"scopes": scope or None, "tenant": tenant, "expires_at": expires}
    made = call.client.create_key(
        name, **{field: value for field, value in given.items() if value is not None}
    )
    call.say(
        f"{made['id']} for {made['tenant']}: {', '.join(made['scopes'])}. Keep it now, it is not shown again:"
    )
    call.answer(made, lambda page: page.print(made["secret"], highlight=False, markup=False, soft_wrap=True))


@command(app, "list", example="keys list")
def list_keys(
    call: Call,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many at most, newest first; all unless given.")
    ] = None,
) -> None:
    """List keys, without their secrets."""
    found = call.items("/v1/keys", limit)
    columns = ("id", "name", "tenant", "scopes", "begins", "made", "last used", "expires", "revoked")
    rows = (
        (
            one["id"], one["name"], one["tenant"], value_in_words(one["scopes"]), one["beginning"],
            *(time_in_words(one[when]) for when in ("created_at", "last_used_at", "expires_at", "revoked_at")),
        )
        for one in found
    )  # fmt: skip
    call.answer(found, lambda page: page.print(rows_table(columns, rows)))


@command(app, "revoke", example="keys revoke key_0192f3c4a5b6aabbccddeeff")
def revoke(
    call: Call, key_id: Annotated[str, typer.Argument(metavar="ID", help="Of the key: key_…")]
) -> None:
    """Revoke a key: from the next request on it opens nothing."""
    revoked = call.client.request("DELETE", f"/v1/keys/{key_id}").json()
    call.answer(revoked, lambda page: page.print(f"{key_id} is revoked", highlight=False))


@command(app, "whoami", example="keys whoami")
def whoami(call: Call) -> None:
    """Say who you are to the service: whose data sets you see, and what you may do."""
    caller = call.client.get("/v1/caller")
    operator = ", and you run the service" if caller["is_operator"] else ""
    text = f"{caller['tenant']}: {', '.join(caller['scopes'])}{operator}"
    call.answer(caller, lambda page: page.print(text, highlight=False, markup=False))
