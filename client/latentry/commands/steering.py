"""``latentry workers`` and ``latentry tenants``: what the operator of a service sees and steers."""

from typing import Annotated, Any

import typer

from latentry.commands.calling import Call, command
from latentry.formatting import bytes_in_words, seconds_in_words, time_in_words

workers = typer.Typer(help="Workers, for the operator: list, drain.", no_args_is_help=True)
tenants = typer.Typer(help="Tenants, for the operator: list, pause, resume.", no_args_is_help=True)

Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant.")]


@command(workers, "list", example="workers list")
def list_workers(call: Call) -> None:
    """List the training processes with what each does now; below them, what waits."""
    found = call.client.workers()
    rows = (
        (
            one["name"],
            one["device"],
            _does(one),
            time_in_words(one["started_at"]),
            time_in_words(one["seen_at"]),
        )
        for one in found["workers"]
    )
    call.answer_rows(found, ("worker", "device", "does", "since", "seen"), rows)
    if not call.as_json:
        if not found["workers"]:
            call.say("no worker is alive: start the service, or a worker of the queue `slices`")
        waits = (
            (one["name"], str(one["waiting"]), str(one["running"]), time_in_words(one["waiting_since"]))
            for one in found["queues"]
        )
        call.answer_rows(found, ("queue", ">waiting", ">running", "oldest since"), waits)


def _does(worker: dict[str, Any]) -> str:
    verbs = {"train": "trains", "infer": "infers latents with", "inference": "infers for"}
    does = ", ".join(
        f"{verbs[one['kind']]} {one['models']} model{'s' * (one['models'] != 1)} of {one['job_id'] or one['id']}"
        for one in worker["work"]
    )
    if worker["draining_since"]:
        return f"{does}; then it ends" if does else "ends"
    return does or "idle"


@command(workers, "drain", example="workers drain rig-2:4711:1f2e3d4c")
def drain_worker(
    call: Call,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the worker; `workers list` has it.")],
) -> None:
    """Let a worker finish what it does, begin nothing more, and end when it is idle."""
    drained = call.client.drain_worker(name)
    call.answer_text(drained, f"{name} {_does(drained)}")


@command(tenants, "list", example="tenants list")
def list_tenants(call: Call) -> None:
    """List tenants with what they store and run; `usage --tenant NAME` shows all quotas of one."""
    found = call.items("/v1/usage/tenants", None)

    def row(one: dict[str, Any]) -> tuple[str, ...]:
        used = {quota["name"]: quota["used"] for quota in one["quotas"]}
        state = f"paused since {time_in_words(one['paused_at'])}" if one["paused_at"] else "active"
        times = (used["device_seconds_per_day"], used["device_seconds_per_month"])
        words = (
            bytes_in_words(used["stored_bytes"]),
            f"{used['open_jobs']:.0f}",
            *map(seconds_in_words, times),
        )
        return (one["tenant"], state, *words, one["pause_reason"] or "")

    columns = ("tenant", "state", ">stored", ">open jobs", ">device time today", ">this month", "reason")
    call.answer_rows(found, columns, map(row, found))


@command(tenants, "pause", example='tenants pause smith --reason "the disk is being replaced"')
def pause_tenant(
    call: Call,
    tenant: Tenant,
    reason: Annotated[str, typer.Option(help="What the members read where their work waits.")] = "",
) -> None:
    """Let no job, inference or ingest of a tenant begin. What runs ends, and its members can still read everything."""
    paused = call.client.pause_tenant(tenant, reason)
    call.answer_text(paused, f"{tenant} is paused since {time_in_words(paused['paused_at'])}")


@command(tenants, "resume", example="tenants resume smith")
def resume_tenant(call: Call, tenant: Tenant) -> None:
    """Resume a paused tenant: its work begins again by itself."""
    call.answer_text(call.client.resume_tenant(tenant), f"{tenant} is active")
