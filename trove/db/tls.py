"""TLS of instances: the column ``ssl`` of an instance, read and written as one document.

Only an operation that holds the instance's lock writes it.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from trove.db import models

BUILTIN = "builtin"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A certificate of the tenant's in a mode; without ``set_id`` the instance's own one.

    ``project_id`` is whose secret ``container_ref`` is.
    """

    mode: str = BUILTIN
    set_id: str | None = None
    container_ref: str | None = None
    password_ref: str | None = None
    project_id: str | None = None
    certificate_pem: str | None = None

    def to_document(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS of an instance: in force, before that (None: nothing was), and the own certificate."""

    current: Setting = Setting()
    previous: Setting | None = None
    builtin_pem: str | None = None

    @property
    def certificate_pem(self) -> str | None:
        """The certificate that the engine shows."""
        return self.current.certificate_pem or self.builtin_pem

    def to_document(self) -> dict[str, Any]:
        """Return what the column holds."""
        return {
            "current": self.current.to_document(),
            "previous": None if self.previous is None else self.previous.to_document(),
            "builtin_pem": self.builtin_pem,
        }


def from_document(document: dict[str, Any] | None) -> Tls:
    """Return what a column says."""
    if document is None:
        return Tls()
    previous = document.get("previous")
    return Tls(
        current=Setting(**document.get("current") or {}),
        previous=None if previous is None else Setting(**previous),
        builtin_pem=document.get("builtin_pem"),
    )


def get(session: orm.Session, instance_id: str) -> Tls:
    """Return the TLS of an instance; of one that does not exist, nothing but defaults."""
    return from_document(
        session.scalar(sa.select(models.Instance.ssl).where(models.Instance.id == instance_id))
    )


def put(session: orm.Session, instance_id: str, tls: Tls, *, now: datetime.datetime) -> None:
    """Replace the TLS of a live instance."""
    session.execute(
        sa.update(models.Instance)
        .where(models.Instance.id == instance_id, models.Instance.is_deleted == sa.false())
        .values(ssl=tls.to_document(), updated=now)
        .execution_options(synchronize_session=False)
    )
