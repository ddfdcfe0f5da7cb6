"""TLS of instances: shown from rows; changed by an operation once the bundle proved readable.

Reading a bundle is the one case in which a request waits for another service than a guest: only the
caller's own credentials may open the caller's secrets, and they end with the request.
"""

from __future__ import annotations

import dataclasses
import json
import uuid

from oslo_config import cfg

from trove import states
from trove.common import concurrency, context, exception
from trove.datastores import spec
from trove.db import base, instance_views, operations, tls
from trove.drivers.secrets.base import SecretsDriver
from trove.services import bundles, names
from trove.services.changes import Change, Changes, Plan, find_in_reach

ENABLE = "enable"
DISABLE = "disable"
ROLLBACK = "rollback"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TlsChange:
    """What a caller asks for; references and mode only to enable."""

    operation: str
    mode: str = "basic"
    container_ref: str | None = None
    password_ref: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TlsView:
    """TLS as it is, or will be when the operation has succeeded."""

    is_on: bool
    mode: str
    certificate_pem: str | None


class Tls:
    """Use cases of TLS."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        changes: Changes,
        secrets: SecretsDriver | None,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators; without a secrets driver nobody can enable."""
        self._conf = conf
        self._database = database
        self._changes = changes
        self._secrets = secrets
        self._clock = clock

    def show(self, caller: context.RequestContext, instance_id: str) -> TlsView:
        """Return how TLS is; raises InstanceNotFound, UnprocessableEntity."""
        with self._database.reader() as session:
            view = find_in_reach(session, caller, instance_id)
            found = tls.get(session, instance_id)
        names.require(names.get_spec(view.manager), spec.Capability.TLS)
        return _view(found.current, found)

    def change(
        self, caller: context.RequestContext, instance_id: str, wanted: TlsChange
    ) -> TlsView:
        """Begin to change TLS; return how it will be.

        Raises InstanceNotFound, InstanceNotReady, UnprocessableEntity; BadRequest for a bundle that
        cannot be used; ServiceUnavailable when the key manager is down.
        """
        planned: list[TlsView] = []

        def plan(view: instance_views.InstanceView) -> Plan:
            with self._database.reader() as session:
                old = tls.get(session, instance_id)
            new, secret = self._new_setting(caller, view, old, wanted)
            planned.append(_view(new, old))

            def check_unchanged(session: object) -> None:
                if tls.get(session, instance_id) != old:  # type: ignore[arg-type]
                    raise exception.InstanceNotReady(
                        instance_id=instance_id, status="changed meanwhile"
                    )

            return Plan(
                data={"setting": new.to_document(), "task": view.task.value},
                secret=secret,
                within=check_unchanged,
            )

        self._changes.begin(
            caller,
            instance_id,
            Change(
                kind=operations.UPDATE_SSL,
                task=states.TaskStatus.UPDATING,
                timeout_s=self._conf.taskmanager.tls_timeout_s,
                plan=plan,
            ),
        )
        return planned[-1]

    def _new_setting(
        self,
        caller: context.RequestContext,
        view: instance_views.InstanceView,
        old: tls.Tls,
        wanted: TlsChange,
    ) -> tuple[tls.Setting, bytes | None]:
        names.require(names.get_spec(view.manager), spec.Capability.TLS)
        if wanted.operation == ROLLBACK:
            if old.previous is None:
                raise exception.BadRequest(reason="TLS was never changed: nothing to go back to")
            return old.previous, None
        if view.replica_of_id is not None:
            raise exception.BadRequest(
                reason="TLS of a replica is that of its source: change it there"
            )
        if wanted.operation == DISABLE:
            return tls.Setting(), None
        return self._read_bundle(caller, wanted)

    def _read_bundle(
        self, caller: context.RequestContext, wanted: TlsChange
    ) -> tuple[tls.Setting, bytes]:
        container_ref = str(wanted.container_ref)
        payload = self._read(caller, "container_ref", container_ref)
        passphrase = None
        if wanted.password_ref is not None:
            # files end with a newline, passphrases hardly ever do
            passphrase = self._read(caller, "password_ref", wanted.password_ref).rstrip(b"\r\n")
        bundle = bundles.read(
            payload, passphrase, now=self._clock.now(), needs_ca=wanted.mode == "mtls"
        )
        setting = tls.Setting(
            mode=wanted.mode,
            set_id=str(uuid.uuid4()),
            container_ref=container_ref,
            password_ref=wanted.password_ref,
            project_id=str(caller.project_id),
            certificate_pem=bundle.certificate_pem,
        )
        return setting, json.dumps({"key_pem": bundle.key_pem, "ca_pem": bundle.ca_pem}).encode()

    def _read(self, caller: context.RequestContext, key: str, ref: str) -> bytes:
        if self._secrets is None:
            raise exception.ServiceUnavailable(reason="there is no key manager here")
        try:
            return self._secrets.get_secret_payload(ref, caller=caller)
        except exception.SecretNotFound:
            raise exception.BadRequest(
                reason=f"{key}: there is no such secret, or the caller may not read it"
            ) from None


def _view(setting: tls.Setting, stored: tls.Tls) -> TlsView:
    pem = setting.certificate_pem or stored.builtin_pem
    return TlsView(is_on=pem is not None, mode=setting.mode, certificate_pem=pem)
