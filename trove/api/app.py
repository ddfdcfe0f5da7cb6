"""The whole REST API as one WSGI application, made from what it is handed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from oslo_config import cfg
from oslo_middleware import healthcheck, http_proxy_to_wsgi
from oslo_middleware.healthcheck import opts as healthcheck_opts
from oslo_policy import policy

from trove import policies
from trove.api import auth, edge, embedded, method, notices, openapi, ratelimit, routing, urls
from trove.api.controllers import root
from trove.api.controllers.services import Services
from trove.api.embedded import identity, key_manager, object_store
from trove.common import concurrency, crypto
from trove.db import base
from trove.drivers.compute.base import ComputeDriver
from trove.drivers.image.base import ImageDriver
from trove.drivers.network.base import NetworkDriver
from trove.drivers.secrets.base import SecretsDriver
from trove.drivers.volume.base import VolumeDriver
from trove.rpc.guest import GuestApi
from trove.rpc.taskmanager import TaskManagerApi
from trove.services.accounts import Accounts
from trove.services.administration import Administration
from trove.services.backup_schedules import BackupSchedules
from trove.services.backups import Backups
from trove.services.certificates import Certificates
from trove.services.changes import Changes
from trove.services.clusters import Clusters
from trove.services.configurations import Configurations
from trove.services.datastores import Datastores
from trove.services.events import Events
from trove.services.final_backups import FinalBackups
from trove.services.flavors import Flavors
from trove.services.instance_actions import InstanceActions
from trove.services.instance_modules import InstanceModules
from trove.services.instance_resets import InstanceResets
from trove.services.instances import Instances
from trove.services.logs import Logs
from trove.services.modules import Modules
from trove.services.monitoring import Monitoring
from trove.services.notices import Notices
from trove.services.operations import Operations
from trove.services.parameters import Parameters
from trove.services.proofs import Proofs
from trove.services.quotas import Quotas
from trove.services.remembered import Remembered
from trove.services.restores import Restores
from trove.services.tls import Tls
from trove.services.versions import Versions
from trove.services.volume_types import VolumeTypes
from trove.storage import base as storage


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    """What the API works with. Without ``compute`` flavors come from ``[local] flavors``."""

    database: base.Database
    guest: GuestApi
    taskmanager: TaskManagerApi
    enforcer: policy.Enforcer
    key_ring: crypto.KeyRing
    compute: ComputeDriver | None = None
    secrets: SecretsDriver | None = None
    objects: storage.Store | None = None
    volumes: VolumeDriver | None = None
    images: ImageDriver | None = None
    network: NetworkDriver | None = None
    clock: concurrency.Clock = dataclasses.field(default_factory=concurrency.SystemClock)


class _Front:
    """Behind the edge: public documents on one side, what needs a caller on the other."""

    def __init__(
        self,
        *,
        public: WSGIApplication,
        protected: WSGIApplication,
        health: WSGIApplication,
        mounts: Mapping[str, WSGIApplication],
        told: Notices,
        public_endpoint: str | None,
    ) -> None:
        self._public = public
        self._protected = protected
        self._health = health
        self._mounts = mounts
        self._told = told
        self._public_endpoint = public_endpoint

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        segments = environ[edge.SEGMENTS]
        if segments == ["healthcheck"]:
            return self._health(environ, start_response)
        environ[method.URLS] = urls.from_environ(
            environ, segments, public_endpoint=self._public_endpoint
        )
        if segments and segments[0] in self._mounts:
            return self._mounts[segments[0]](environ, start_response)
        environ[notices.NOTICES] = self._told
        # whatever is asked for, the answer is JSON
        environ.pop("HTTP_ACCEPT", None)
        is_public = len(segments) < 2 or segments == [urls.VERSION, openapi.SEGMENT]
        app = self._public if is_public else self._protected
        return app(environ, start_response)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The application, and the tree of resources it serves."""

    wsgi: WSGIApplication
    tree: routing.Resource
    limiter: ratelimit.RateLimiter
    #: Lists of other services that a process has refreshed in the background.
    remembered: tuple[Remembered[Any], ...]


def make_app(conf: cfg.ConfigOpts, collaborators: Collaborators) -> WSGIApplication:
    """Return the application; raises ConfigurationError when it must not start."""
    return build(conf, collaborators).wsgi


def build(conf: cfg.ConfigOpts, collaborators: Collaborators) -> Built:
    """Return the application with its tree; raises ConfigurationError when it must not start."""
    strategy = auth.make_strategy(conf)
    mounts: list[embedded.Mount] = []
    if conf.api.embedded_services:
        strategy = _embed(conf, collaborators, strategy, mounts)
    limiter = ratelimit.RateLimiter(
        conf, database=collaborators.database, clock=collaborators.clock
    )
    services = _make_services(conf, collaborators, limiter)
    tree = root.make_tree(services)
    served = routing.Application(tree)
    authorizer = policies.Authorizer(collaborators.enforcer, clock=collaborators.clock)

    def protect(app: WSGIApplication, **checks: Any) -> WSGIApplication:
        gate = auth.Gate(app, strategy=strategy, authorizer=authorizer, limiter=limiter, **checks)
        return strategy.wrap(gate)

    app: WSGIApplication = _Front(
        public=served,
        protected=protect(served),
        health=_make_health(conf),
        mounts={
            mount.segment: protect(mount.app, check_path=_any_path)
            if mount.needs_caller
            else mount.app
            for mount in mounts
        },
        told=Notices(database=collaborators.database, clock=collaborators.clock),
        public_endpoint=conf.api.public_endpoint,
    )
    app = edge.Edge(app, max_body_bytes=conf.api.max_request_body_bytes)
    if conf.api.enable_proxy_headers_parsing:
        app = http_proxy_to_wsgi.HTTPProxyToWSGI(app, {"enable_proxy_headers_parsing": True})
    return Built(
        wsgi=app,
        tree=tree,
        limiter=limiter,
        remembered=(services.flavors.remembered, services.volume_types.remembered),
    )


def _any_path(segments: list[str], identity: auth.Identity) -> None:
    """Leave it to the application whose path is meant."""


def _embed(
    conf: cfg.ConfigOpts,
    given: Collaborators,
    strategy: auth.Strategy,
    mounts: list[embedded.Mount],
) -> auth.Strategy:
    """Add what stands in for a cloud's other services; return the strategy to go on with."""
    if isinstance(strategy, auth.HttpBasic):
        strategy, mount = identity.make(strategy, key_ring=given.key_ring, clock=given.clock)
        mounts.append(mount)
    if given.objects is not None:
        mounts.append(object_store.make(given.objects))
    if given.secrets is not None and given.secrets.store is not None:
        mounts.append(key_manager.make(given.secrets.store))
    return strategy


def _make_services(
    conf: cfg.ConfigOpts, given: Collaborators, limiter: ratelimit.RateLimiter
) -> Services:
    flavors = Flavors(conf=conf, compute=given.compute, clock=given.clock)
    volume_types = VolumeTypes(volumes=given.volumes, clock=given.clock)
    backups = Backups(
        conf=conf,
        database=given.database,
        run_operation=given.taskmanager.run_operation,
        key_ring=given.key_ring,
        store=given.objects,
        clock=given.clock,
        volumes=given.volumes,
    )
    changes = Changes(
        conf=conf,
        database=given.database,
        run_operation=given.taskmanager.run_operation,
        key_ring=given.key_ring,
        clock=given.clock,
    )
    instance_modules = InstanceModules(
        conf=conf,
        database=given.database,
        guest_api=given.guest,
        key_ring=given.key_ring,
        clock=given.clock,
    )
    return Services(
        conf=conf,
        clock=given.clock,
        limiter=limiter,
        flavors=flavors,
        certificates=Certificates(secrets=given.secrets),
        configurations=Configurations(
            conf=conf, database=given.database, changes=changes, clock=given.clock
        ),
        parameters=Parameters(database=given.database, clock=given.clock),
        logs=Logs(
            conf=conf,
            database=given.database,
            guest_api=given.guest,
            store=given.objects,
            clock=given.clock,
        ),
        monitoring=Monitoring(
            conf=conf, database=given.database, guest_api=given.guest, clock=given.clock
        ),
        modules=Modules(
            conf=conf,
            database=given.database,
            run_operation=given.taskmanager.run_operation,
            key_ring=given.key_ring,
            clock=given.clock,
        ),
        instance_modules=instance_modules,
        tls=Tls(
            conf=conf,
            database=given.database,
            changes=changes,
            secrets=given.secrets,
            clock=given.clock,
        ),
        datastores=Datastores(database=given.database),
        operations=Operations(database=given.database, clock=given.clock),
        events=Events(database=given.database),
        quotas=Quotas(conf=conf, database=given.database),
        backups=backups,
        final_backups=FinalBackups(
            conf=conf, database=given.database, makes=backups, clock=given.clock
        ),
        backup_schedules=BackupSchedules(database=given.database, clock=given.clock),
        restores=Restores(
            conf=conf, database=given.database, changes=changes, makes=backups, clock=given.clock
        ),
        proofs=Proofs(
            conf=conf,
            database=given.database,
            run_operation=given.taskmanager.run_operation,
            clock=given.clock,
        ),
        clusters=Clusters(database=given.database),
        versions=Versions(database=given.database, images=given.images, clock=given.clock),
        volume_types=volume_types,
        accounts=Accounts(
            conf=conf, database=given.database, guest_api=given.guest, clock=given.clock
        ),
        actions=InstanceActions(
            conf=conf,
            database=given.database,
            changes=changes,
            flavors=flavors,
            compute=given.compute,
        ),
        resets=InstanceResets(
            database=given.database,
            run_operation=given.taskmanager.run_operation,
            clock=given.clock,
        ),
        administration=Administration(conf=conf, database=given.database, guest_api=given.guest),
        instances=Instances(
            conf=conf,
            database=given.database,
            taskmanager_api=given.taskmanager,
            key_ring=given.key_ring,
            changes=changes,
            flavors=flavors,
            volume_types=volume_types,
            modules=instance_modules,
            network=given.network,
            clock=given.clock,
        ),
    )


def _make_health(conf: cfg.ConfigOpts) -> WSGIApplication:
    own = cfg.ConfigOpts()
    own.register_opts(healthcheck_opts.HEALTHCHECK_OPTS, group="healthcheck")
    own.register_opts(healthcheck_opts.DISABLE_BY_FILE_OPTS, group="healthcheck")
    own([], default_config_files=[], default_config_dirs=[])
    own.set_override("backends", ["disable_by_file"], group="healthcheck")
    # without a path the backend complains in the log with every request
    path = conf.api.healthcheck_disable_file or os.path.join(os.devnull, "never")
    own.set_override("disable_by_file_path", path, group="healthcheck")
    return healthcheck.Healthcheck(None, own)
