"""``latentry keys``, ``latentry webhooks`` and ``latentry usage``: who may use the service, and how much of it."""

from typing import Annotated, Any

import typer

from latentry.commands import deletion
from latentry.commands.calling import (
    After,
    Before,
    ByFilter,
    Call,
    Everything,
    Limit,
    PageToken,
    UsageProblem,
    command,
)
from latentry.formatting import bytes_in_words, seconds_in_words, time_in_words, value_in_words

keys = typer.Typer(help="Keys of the service: create, list, revoke.", no_args_is_help=True)
shares = typer.Typer(help="Links that show one data set, job or model, read-only.", no_args_is_help=True)
webhooks = typer.Typer(help="URLs that the service notifies when jobs end.", no_args_is_help=True)
retention = typer.Typer(help="How long the service keeps old data: show, set.", no_args_is_help=True)

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="Id of the webhook: whk_…")]


def register_usage(app: typer.Typer, panel: str) -> None:
    """Add ``latentry usage`` to a panel of the main help."""

    @command(app, "usage", panel=panel, example="usage --tenant smith --set stored_bytes=2e12")
    def usage(
        call: Call,
        tenant: Annotated[
            str | None, typer.Option(help="Another tenant, for the operator; default: yours.")
        ] = None,
        everyone: Annotated[bool, typer.Option("--all", help="All tenants, for the operator.")] = False,
        amounts: Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                metavar="QUOTA=AMOUNT",
                help="Set a quota of --tenant, for the operator; repeatable. 0: no limit, default: as the settings.",
            ),
        ] = None,
    ) -> None:
        """Show what your tenant uses of its quotas, what is allowed, and when it frees."""
        if amounts:
            if tenant is None:
                raise UsageProblem("--set: expected --tenant, whose quotas to set", "add --tenant NAME")
            found = [call.client.change_quotas(tenant, **dict(map(_amount, amounts)))]
        elif everyone:
            found = call.items("/v1/usage/tenants", None)
        else:
            found = [call.client.usage(tenant)]
        rows = (
            (one["tenant"], quota["name"], *_quota_in_words(quota), time_in_words(quota["frees_at"]))
            for one in found
            for quota in one["quotas"]
        )
        for one in found:
            if one.get("waits_for"):
                call.say(f"{one['tenant']}: {one['waits_for']}")
        call.answer_rows(
            found if everyone else found[0], ("tenant", "quota", ">used", ">allowed", ">left", "frees"), rows
        )


def _amount(text: str) -> tuple[str, float | None]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), None if value == "default" else float(value)
    except ValueError:
        raise UsageProblem(
            f"--set: expected QUOTA=AMOUNT; got {text!r}", "such as --set stored_bytes=2e12"
        ) from None


def _quota_in_words(quota: dict[str, Any]) -> tuple[str, ...]:
    """Return what is used, allowed and left of a quota, with units."""

    def words(value: float | None) -> str:
        if value is None:
            return "–"
        return {"bytes": bytes_in_words, "s": seconds_in_words}.get(quota["unit"], "{:.0f}".format)(value)

    return words(quota["used"]), words(quota["allowed"]), words(quota["rest"])


@command(keys, "create", example='keys create "the dashboard" --scope read --expires 2027-01-01T00:00:00Z')
def create_key(
    call: Call,
    name: Annotated[str, typer.Argument(help="Owner or purpose of the key.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="read, write or admin; repeatable. Default: read and write.")
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(help="Tenant whose data sets and jobs the key gives access to; default: yours."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it expires, with its zone: 2027-01-01T00:00:00Z.")
    ] = None,
) -> None:
    """Create a key. The key is shown only now; the service keeps only a digest of it."""
    given = {"scopes": scope or None, "tenant": tenant, "expires_at": expires}
    made = call.client.create_key(
        name, **{field: value for field, value in given.items() if value is not None}
    )
    scopes = ", ".join(made["scopes"])
    call.say(f"{made['id']} for {made['tenant']}: {scopes}. Save it now, it is not shown again:")
    call.answer_text(made, made["secret"] or "")


@command(shares, "create", example='shares create job_0192f3c4a5b6aabbccddeeff --label "for the PI" --days 7')
def create_share(
    call: Call,
    target: Annotated[str, typer.Argument(metavar="ID", help="Id of the data set, job or model.")],
    days: Annotated[float, typer.Option(min=0, help="Days until it expires.")] = 30.0,
    label: Annotated[str, typer.Option(help="For whom or what it is.")] = "",
) -> None:
    """Share a data set, a job or a model, read-only. The token is shown only now."""
    made = call.client.share(target, expires_in_days=days, label=label)
    call.say(
        f"{made['id']} shows {target} until {time_in_words(made['expires_at'])}. Its token, shown only now:"
    )
    call.answer_text(made, made["token"] or "")


@command(shares, "list", example="shares list")
def list_shares(
    call: Call,
    target: Annotated[str | None, typer.Option(help="Only shares of this data set, job or model.")] = None,
) -> None:
    """List shares, without their tokens."""
    found = call.items("/v1/shares", None, target_id=target)
    whens = ("created_at", "last_used_at", "expires_at")
    rows = (
        (
            one["id"],
            one["target_id"],
            one["label"],
            one["state"],
            *(time_in_words(one[when]) for when in whens),
        )
        for one in found
    )
    call.answer_rows(found, ("id", "shows", "label", "state", "created", "last used", "expires"), rows)


@command(shares, "revoke", example="shares revoke shr_0192f3c4a5b6aabbccddeeff")
def revoke_share(
    call: Call, share_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the share: shr_…")]
) -> None:
    """Revoke a share: the service refuses its token from now on."""
    revoked = call.client.request("DELETE", f"/v1/shares/{share_id}").json()
    call.answer_text(revoked, f"{share_id} is revoked")


@command(keys, "list", example="keys list")
def list_keys(
    call: Call,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of entries at most, newest first; default: all.")
    ] = None,
) -> None:
    """List keys, without their secrets."""
    found = call.items("/v1/keys", limit)
    columns = ("id", "name", "tenant", "scopes", "begins with", "created", "last used", "expires", "revoked")
    rows = (
        (
            one["id"], one["name"], one["tenant"], value_in_words(one["scopes"]), one["beginning"],
            *(time_in_words(one[when]) for when in ("created_at", "last_used_at", "expires_at", "revoked_at")),
        )
        for one in found
    )  # fmt: skip
    call.answer_rows(found, columns, rows)


@command(keys, "revoke", example="keys revoke key_0192f3c4a5b6aabbccddeeff")
def revoke_key(
    call: Call, key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key: key_…")]
) -> None:
    """Revoke a key: from now on the service refuses it."""
    revoked = call.client.request("DELETE", f"/v1/keys/{key_id}").json()
    call.answer_text(revoked, f"{key_id} is revoked")


@command(keys, "whoami", example="keys whoami")
def whoami(call: Call) -> None:
    """Show the tenant and the scopes of your key."""
    caller = call.client.get("/v1/caller")
    operator = ", and you run the service" if caller["is_operator"] else ""
    waits = f". Work waits: {caller['waits_for']}" if caller.get("waits_for") else ""
    call.answer_text(caller, f"{caller['tenant']}: {', '.join(caller['scopes'])}{operator}{waits}")


def register_audit(app: typer.Typer, panel: str) -> None:
    """Add ``latentry audit`` to a panel of the main help."""

    @command(app, "audit", panel=panel, example="audit --object job_0192f3c4a5b6aabbccddeeff")
    def audit(
        call: Call,
        *,
        object_id: Annotated[
            str | None, typer.Option("--object", metavar="ID", help="Only changes of this object.")
        ] = None,
        action: Annotated[str | None, typer.Option(help="Only this action, such as job.cancelled.")] = None,
        kind: Annotated[str | None, typer.Option(help="Only changes of this kind of object: job.")] = None,
        by: ByFilter = None,
        after: After = None,
        before: Before = None,
        limit: Limit = 20,
        everything: Everything = False,
        page_token: PageToken = None,
    ) -> None:
        """List who made, changed, cancelled or deleted what, newest first. This needs a key with the scope admin."""
        found = call.page_of(
            "/v1/audit", limit=limit, everything=everything, page_token=page_token,
            object_id=object_id, action=action, kind=kind, by=by, created_after=after, created_before=before,
        )  # fmt: skip
        rows = (
            (
                time_in_words(one["at"]), (one["by"] or {}).get("name", "anyone"), one["action"], one["object_id"],
                value_in_words(one["details"].get("fields")), one["tenant"],
            )
            for one in found
        )  # fmt: skip
        call.answer_rows(found, ("at", "by", "action", "object", "fields", "tenant"), rows)


@command(
    webhooks, "add", example="webhooks add https://hooks.lab.example/latentry --state done --state failed"
)
def add_webhook(
    call: Call,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="URL that receives the messages.")],
    state: Annotated[
        list[str] | None,
        typer.Option(help="Job states to report: done, failed, cancelled; repeatable. Default: all."),
    ] = None,
) -> None:
    """Add a URL that the service notifies when jobs end. The secret that signs the messages is shown only now."""
    made = call.client.create_webhook(target, **({"states": state} if state else {}))
    states = ", ".join(made["states"])
    call.say(f"{made['id']} notifies {made['url']} of jobs that are {states}. Its secret, shown only now:")
    call.answer_text(made, made["secret"] or "")


@command(webhooks, "list", example="webhooks list")
def list_webhooks(call: Call) -> None:
    """List webhooks."""
    found = call.items("/v1/webhooks", None)
    rows = (
        (one["id"], one["url"], value_in_words(one["states"]), time_in_words(one["created_at"]))
        for one in found
    )
    call.answer_rows(found, ("id", "URL", "states", "created"), rows)


@command(webhooks, "remove", example="webhooks remove whk_0192f3c4a5b6aabbccddeeff")
def remove_webhook(call: Call, webhook_id: WebhookId) -> None:
    """Remove a webhook: the service sends it no more messages."""
    call.client.request("DELETE", f"/v1/webhooks/{webhook_id}")
    call.answer_text({"id": webhook_id}, f"{webhook_id} is removed")


@command(webhooks, "deliveries", example="webhooks deliveries whk_0192f3c4a5b6aabbccddeeff")
def list_deliveries(
    call: Call,
    webhook_id: WebhookId,
    limit: Annotated[int, typer.Option(min=1, help="Number of entries at most, newest first.")] = 20,
) -> None:
    """List the messages to a webhook, with the responses of the receiver."""
    found = call.items(f"/v1/webhooks/{webhook_id}/deliveries", limit)
    rows = (
        (
            one["id"], value_in_words(one["job_id"]), one["state"], str(one["attempts"]), value_in_words(one["status"]),
            value_in_words(one["error"]), time_in_words(one["created_at"]),
        )
        for one in found
    )  # fmt: skip
    call.answer_rows(found, ("id", "job", "state", ">attempts", ">status", "error", "created"), rows)


@command(webhooks, "clear", example="webhooks clear whk_0192f3c4a5b6aabbccddeeff")
def clear_deliveries(
    call: Call, webhook_id: WebhookId, *, yes: deletion.Yes = False, dry_run: deletion.DryRun = False
) -> None:
    """Delete the messages to a webhook that were delivered or given up. Shows how many, and asks."""
    deletion.delete(call, f"/v1/webhooks/{webhook_id}/deliveries", yes=yes, dry_run=dry_run)


@command(webhooks, "test", example="webhooks test whk_0192f3c4a5b6aabbccddeeff")
def send_test(call: Call, webhook_id: WebhookId) -> None:
    """Send a test message; `webhooks deliveries` shows the response."""
    delivery = call.client.post(f"/v1/webhooks/{webhook_id}:test")
    call.answer_text(delivery, f"{delivery['id']} is {delivery['state']}")


@command(retention, "show", example="retention show")
def show_retention(
    call: Call,
    tenant: Annotated[
        str | None, typer.Option(help="Only this tenant; default: all that you may see.")
    ] = None,
) -> None:
    """Show for how long old data is kept, and what the next sweep removes. This removes nothing."""
    report = call.client.retention(tenant)
    _show_retention(call, report)


@command(retention, "set", example="retention set smith events=30 originals=forever")
def set_retention(
    call: Call,
    tenant: Annotated[str, typer.Argument(help="Name of the tenant.")],
    days: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KIND=DAYS", help="Kind and days or `forever`; `retention show` lists the kinds."
        ),
    ] = None,
) -> None:
    """Replace the days of a tenant. Kinds that you omit are kept as the settings say. Only for the operator."""
    pairs = (one.partition("=") for one in days or [])
    body = {kind: value if value == "forever" else _number(kind, value) for kind, _, value in pairs}
    report = call.client.set_retention(tenant, **body)
    _show_retention(call, report)


def _number(kind: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"expected KIND=DAYS, such as events=30 or events=forever; got {kind}={text}"
        ) from None


def _show_retention(call: Call, report: dict[str, Any]) -> None:
    columns = ("tenant", "kind", ">days", "set by", "removes what is older than", ">due", ">MB")
    rows = (
        (
            one["tenant"], one["kind"], "forever" if one["days"] is None else f"{one['days']:g}",
            "the operator" if one["is_own"] else one["setting"], time_in_words(one["older_than"]), str(one["due"]),
            f"{one['due_bytes'] / 1e6:.1f}",
        )
        for one in report["items"]
    )  # fmt: skip
    call.answer_rows(report["items"], columns, rows)
