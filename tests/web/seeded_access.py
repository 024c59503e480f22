"""Who may look at a seeded service: keys and shares, whose secrets tests know; webhooks; and the audit log of it all."""

from datetime import timedelta

from sqlalchemy.orm import Session

from domain.states import DeliveryState
from store import audit
from store.database import database_now
from store.identifiers import new_id
from store.keys import SHARE_PREFIX, secret_digest
from store.tables import DEFAULT_TENANT, Dataset, Job, Key, Tenant, Webhook
from store.webhooks import post
from tests.web.seeded_storage import Seeded

SECRETS = {name: f"lat_{name}_0123456789abcdef" for name in ("admin", "member", "reader")}
"""Keys by what they may do."""
TOKENS = {name: f"{SHARE_PREFIX}{name}_0123456789abcdef" for name in ("dataset", "job", "model", "revoked")}
"""Tokens of shares by what they show."""
_SCOPES = {
    "admin": ("Ada", ["read", "write", "admin"]),
    "member": ("rig 2", ["read", "write"]),
    "reader": ("the student", ["read"]),
}


def add_access(session: Session, made: Seeded) -> None:
    """Add keys, shares, a webhook with two messages, a paused tenant, and what the audit log says of the data set and a job."""
    now = database_now(session)
    smith = Tenant(
        id="smith", name="Smith lab", quotas={"stored_bytes": 2e12, "open_jobs": 0.0}, paused_at=now
    )
    smith.pause_reason = "the disk is being replaced"
    session.add(smith)
    audit.record(session, "tenant.quotas_changed", smith, **smith.quotas)
    audit.record(session, "tenant.paused", smith, reason=smith.pause_reason)
    for kind, (name, scopes) in _SCOPES.items():
        key = _key(SECRETS[kind], name, scopes)
        session.add(key)
        audit.record(session, "key.created", key)
    targets = {"dataset": made.ids["dataset"], "job": made.ids["job_done"], "model": made.ids["model"]}
    for kind, token in TOKENS.items():
        share = _key(token, "for the PI" if kind != "revoked" else "to a colleague", ["read"], "shr")
        share.target_id, share.created_by_name = targets.get(kind, made.ids["job_done"]), "Ada"
        share.expires_at = now + timedelta(days=30)
        share.revoked_at = now if kind == "revoked" else None
        session.add(share)
        audit.record(session, "share.created", share, target_id=share.target_id)
    audit.record(session, "dataset.created", session.get_one(Dataset, made.ids["dataset"]))
    audit.record(session, "job.created", session.get_one(Job, made.ids["job_done"]))
    _add_webhook(session, made)


def _key(secret: str, name: str, scopes: list[str], prefix: str = "key") -> Key:
    return Key(
        id=new_id(prefix), tenant_id=DEFAULT_TENANT, name=name, digest=secret_digest(secret), beginning=secret[:12],
        scopes=scopes,
    )  # fmt: skip


def _add_webhook(session: Session, made: Seeded) -> None:
    webhook = Webhook(
        id=new_id("whk"), tenant_id=DEFAULT_TENANT, url="https://lab.example/latentry", states=["done", "failed"],
        secret="not used",
    )  # fmt: skip
    session.add(webhook)
    session.flush()
    now = database_now(session)
    for job, state in (("job_done", DeliveryState.DELIVERED), ("job_failed", DeliveryState.GIVEN_UP)):
        message = post(session, webhook, {"job_id": made.ids[job]}, now, made.ids[job])
        message.state, message.ended_at, message.attempts = state, now, 1
        message.status = 204 if state == DeliveryState.DELIVERED else 500
