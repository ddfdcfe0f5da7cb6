"""MongoDB as a process: a replica set of one member from its first start on.

The agent's identity is the key of the key file, written anew before every start: it is nothing
that is kept in the database, so there is nothing to assert and nothing to lose.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import tempfile
import urllib.parse
from collections.abc import Mapping
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from oslo_log import log
from pymongo import errors

from trove.common import exception
from trove.datastores import mongodb_configuration, parameters
from trove.guestagent import certificates, tls
from trove.guestagent.datastores import base, server
from trove.guestagent.datastores.mongodb import connection, logs, replicaset, template
from trove.guestagent.system import filesystem, process, users

LOG = log.getLogger(__name__)

#: The options of the file that tenants may set, as MongoDB has them by default: made explicit, so
#: that a running server can be told to go back to them.
USUAL_OPTIONS: Mapping[str, int | float | str | bool] = {
    "operationProfiling.slowOpThresholdMs": 100,
    "operationProfiling.slowOpSampleRate": 1.0,
    "storage.oplogMinRetentionHours": 0.0,
    "storage.wiredTiger.collectionConfig.blockCompressor": "snappy",
    "storage.wiredTiger.indexConfig.prefixCompression": True,
}
#: Collection of the server's own database, which is in no oplog.
_PULSE = "trove.pulse"
_WRITE_BLOCK = "write_block"
_NOT_BEFORE = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)


class MongodbService(server.Server):
    """A mongod."""

    configuration_name: ClassVar[str] = "mongod.conf"
    stop_timeout_s: ClassVar[float] = 60.0
    #: mongod makes an oplog and files of a journal at its first start.
    headroom_bytes: ClassVar[int] = 128 * 1024 * 1024

    def __init__(self, environment: base.Environment) -> None:
        """Take where to run."""
        super().__init__(environment)
        self._socket = self._run_dir / "engine.sock"
        # letters and digits, which are base64 too
        self._key = environment.store.password("mongodb-key")
        self._key_of_set = self._layout.secret_dir / "keyfile"
        self.certificate_file = self._layout.secret_dir / "server.pem"
        self.ca_file = self._layout.secret_dir / "ca.pem"
        self._own_certificate = self._layout.agent_dir / "mongodb-client.pem"
        self.connector = connection.Connector(
            self._socket, key=self._key, find_certificate=self._find_own_certificate
        )
        self.log_files = logs.MongodbLogFiles(environment, self.connector)
        self._version: str | None = None

    # -- installing -----

    def check_programs(self) -> None:
        """Raise GuestError unless the server program is installed."""
        template.find_server(basedir=self._environment.basedir)

    def make_data(self, work: pathlib.Path) -> None:
        """Make a new data directory."""
        template.make(
            "mongodb",
            target=work,
            user=self._layout.engine_user,
            basedir=self._environment.basedir,
        )

    def reachable_paths(self) -> tuple[pathlib.Path, ...]:
        """Return the paths that the engine's user must be able to reach."""
        return (self._layout.data_dir, self._config_file, self._socket)

    # -- TLS -----

    def write_tls_files(self) -> None:
        """Write the current set as mongod reads it: key and certificate in one file.

        The agent shows a certificate of its own where clients must show one: it signs itself, and
        the server is told to trust it.
        """
        source = self.tls_store.directory
        parts = [(source / name).read_text(encoding="ascii") for name in (tls.CERTIFICATE, tls.KEY)]
        owner = self._layout.engine_user
        pem = "".join(f"{part.strip()}\n" for part in parts)
        filesystem.ensure_file(self.certificate_file, pem, mode=0o600, owner=owner)
        own = self._ensure_own_certificate()
        trusted = (source / tls.CA).read_text(encoding="ascii").strip()
        filesystem.ensure_file(self.ca_file, f"{trusted}\n{own}", mode=0o600, owner=owner)

    def _find_own_certificate(self) -> pathlib.Path | None:
        settings = self.find_settings()
        if settings is None or not settings.has_tls:
            return None
        self._ensure_own_certificate()
        return self._own_certificate

    def _ensure_own_certificate(self) -> str:
        """Return the agent's certificate (PEM), made at the first call beside its key."""
        if not self._own_certificate.exists():
            made = _sign_oneself(self._layout.agent_dir / "mongodb-client-key.pem")
            filesystem.write_file(self._own_certificate, made, mode=0o600)
        text = self._own_certificate.read_text(encoding="ascii")
        return text[text.index("-----BEGIN CERTIFICATE") :]

    @property
    def run_dir(self) -> pathlib.Path:
        """Return the directory of the socket."""
        return self._run_dir

    def uri_for_tools(self) -> str:
        """Return how MongoDB's tools connect as the agent; a secret.

        They run as the engine's user, in the directory of the socket: of a path they make lower
        case, as if it were the name of a host.
        """
        options = {
            "authSource": "local",
            "authMechanism": "SCRAM-SHA-256",
            "directConnection": "true",
        }
        certificate = self._find_own_certificate()
        if certificate is not None:
            # the engine's user may read it there
            text = certificate.read_text(encoding="ascii")
            shown = self._layout.secret_dir / certificate.name
            filesystem.ensure_file(shown, text, mode=0o600, owner=self._layout.engine_user)
            options |= {
                "tls": "true",
                "tlsInsecure": "true",
                "tlsCertificateKeyFile": str(shown),
            }
        return f"mongodb://__system:{self._key}@{self._socket.name}/?" + urllib.parse.urlencode(
            options
        )

    def without_secrets(self, text: str) -> str:
        """Return a text of a tool's without the agent's key."""
        return text.replace(self._key, "***")

    # -- the configuration -----

    def render_configuration(self, settings: base.Settings) -> str:
        """Return the text of the configuration file."""
        return mongodb_configuration.render(*self._options(settings))

    def _options(self, settings: base.Settings) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options of the file and the server's parameters."""
        address, layout = self._environment.bind_address, self._layout
        options: dict[str, Any] = {
            **mongodb_configuration.sized_options(settings.memory_mib, settings.volume_size_gib),
            **USUAL_OPTIONS,
            "storage.dbPath": str(layout.data_dir),
            "net.bindIp": f"{address},{self._socket}",
            "net.ipv6": ":" in address,
            "net.port": self._environment.port,
            # the only socket is the one in bindIp, whose name has no port in it
            "net.unixDomainSocket.enabled": False,
            # however many clients there are, the agent is let in
            "net.maxIncomingConnectionsOverride": [str(self._socket)],
            "systemLog.destination": "file",
            "systemLog.path": str(layout.log),
            "systemLog.logAppend": True,
            "systemLog.logRotate": "reopen",
            "security.authorization": "enabled",
            "security.keyFile": str(self._key_of_set),
            "replication.replSetName": mongodb_configuration.REPLICA_SET,
        }
        if settings.has_tls:
            options |= self.tls_options(self.tls_store.setting())
        server_parameters: dict[str, Any] = {
            "authenticationMechanisms": "SCRAM-SHA-256",
            # nobody makes the first user without a password, from whatever address
            "enableLocalhostAuthBypass": False,
            "diagnosticDataCollectionEnabled": False,
            # otherwise a member of a replica set takes 15 s to end
            "shutdownTimeoutMillisForSignaledShutdown": 0,
        }
        for name, value in mongodb_configuration.overrides(settings.overrides).items():
            (options if "." in name else server_parameters)[name] = value
        return options, server_parameters

    def tls_options(self, setting: tls.Setting) -> dict[str, Any]:
        """Return the options for TLS as a setting says."""
        return {
            "net.tls.mode": "requireTLS" if setting.requires_tls else "preferTLS",
            "net.tls.certificateKeyFile": str(self.certificate_file),
            "net.tls.CAFile": str(self.ca_file),
            "net.tls.allowConnectionsWithoutCertificates": not setting.requires_client_certificate,
            "net.tls.disabledProtocols": "TLS1_0,TLS1_1",
        }

    def configured_retention_h(self) -> float:
        """Return the hours that the oplog is kept for at least, as it is configured."""
        settings = self.find_settings()
        values = mongodb_configuration.overrides(settings.overrides) if settings else {}
        name = "storage.oplogMinRetentionHours"
        return float(values.get(name, USUAL_OPTIONS[name]))

    def try_configuration(self, settings: base.Settings, *, is_told: bool) -> None:
        """Raise ConfigurationRefused unless a server starts with the values of a group.

        It is started on a database of its own, which is thrown away; not for values that a running
        server is told and may refuse itself (``is_told``).
        """
        try:
            wanted = mongodb_configuration.overrides(settings.overrides)
        except exception.GuestError as e:
            raise exception.ConfigurationRefused(reason=str(e.kwargs["reason"])) from None
        current = self.find_settings()
        known = mongodb_configuration.overrides(current.overrides) if current is not None else {}
        dynamic = mongodb_configuration.dynamic_names() if is_told else frozenset()
        if all(known.get(name) == value or name in dynamic for name, value in wanted.items()):
            return
        options = {name: value for name, value in wanted.items() if "." in name}
        values = {name: value for name, value in wanted.items() if "." not in name}
        owner = self._layout.engine_user
        program = template.find_server(basedir=self._environment.basedir)
        run = pathlib.Path(tempfile.mkdtemp(prefix="trove-", dir="/tmp"))
        data = self._layout.temporary_dir / "trial"
        try:
            filesystem.remove_tree(data)
            filesystem.ensure_directory(run, mode=0o755, owner=owner)
            filesystem.ensure_directory(data, mode=0o700, owner=owner)
            sized = mongodb_configuration.sized_options(512, 1)
            template.run_once(program, {**sized, **options}, values, data=data, run=run, user=owner)
        except exception.GuestError as e:
            reason = str(e.kwargs["reason"])
            raise exception.ConfigurationRefused(reason=reason) from None
        finally:
            filesystem.remove_tree(data)
            filesystem.remove_tree(run)

    def started_with(self) -> Mapping[str, Any] | None:
        """Return the options that the running server read at its start, when they are known."""
        return (self._store.find("started_with") or {}).get("options")

    def usual_parameters(self) -> Mapping[str, Any]:
        """Return the values that parameters have when nobody sets them, as far as known."""
        return (self._store.find("usual_parameters") or {}).get("values") or {}

    def _note_start(self) -> None:
        text = self._config_file.read_text(encoding="utf-8")
        try:
            self._store.save("started_with", {"options": mongodb_configuration.flatten(text)})
        except OSError:
            # on a full disk a server that runs is better than knowing what it runs with
            LOG.warning("what the server starts with was not remembered", exc_info=True)

    def _greet(self, client: connection.Client) -> None:
        """Do what is due once after each start of the server."""
        started = self._store.find("started_with") or {}
        if started.get("greeted"):
            return
        # to MongoDB it is data: of another server that had this volume, or a tenant's doing
        is_read_only = (self._store.find(_WRITE_BLOCK) or {}).get("is_read_only", False)
        try:
            client.admin.command({"setUserWriteBlockMode": 1, "global": is_read_only})
        except errors.OperationFailure as e:
            # MongoDB has it from 6.0 on, when its data are of that version too
            LOG.warning("whether writes are refused is not known: %s", connection.explain(e))
        options = started.get("options") or {}
        wanted = [
            rule.spelling
            for rule in parameters.load("mongodb").values()
            if rule.spelling is not None
            and "." not in rule.spelling
            and not rule.restart_required
            and f"setParameter.{rule.spelling}" not in options
        ]
        answer = client.admin.command({"getParameter": 1, **dict.fromkeys(wanted, 1)})
        values = {name: answer[name] for name in wanted if name in answer}
        try:
            self._store.save("usual_parameters", {"values": {**self.usual_parameters(), **values}})
            self._store.save("started_with", {**started, "greeted": True})
        except OSError:
            LOG.warning("the usual values of parameters were not remembered", exc_info=True)

    # -- the process -----

    @property
    def marker(self) -> str:
        """The option that names this instance's configuration file."""
        return f"--config={self._config_file}"

    @property
    def host(self) -> str:
        """How the members of the replica set know this one."""
        address = self._environment.bind_address
        shown = f"[{address}]" if ":" in address else address
        return f"{shown}:{self._environment.port}"

    def command(self) -> process.Command:
        """Check programs, directories and the port, and return how to start the server."""
        layout = self._layout
        program = template.find_server(basedir=self._environment.basedir)
        self.check_port()
        # a new release of the agent may write another configuration
        self.rewrite_configuration()
        settings = self.find_settings()
        if settings is not None and settings.has_tls:
            self.write_tls_files()
        owner = layout.engine_user
        filesystem.ensure_file(self._key_of_set, self._key, mode=0o600, owner=owner)
        self._note_start()
        self.log_files.ensure_directories()
        self.log_files.ensure_error_log()
        self._version = None
        return process.Command(
            argv=(str(program), self.marker),
            marker=self.marker,
            user=owner,
            log=layout.log,
            directory=layout.data_dir,
            environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        )

    def ping(self) -> str:
        """Return the version of the server when it is the primary of its set."""
        with self.connector.ping_session() as client:
            replicaset.ensure_primary(client, host=self.host)
            if self._version is None:
                self._greet(client)
                self._version = str(client.admin.command("buildInfo")["version"])
        return self._version

    def prove_write(self) -> None:
        """Write to a collection that is in no oplog and out of the reach of tenants."""
        with self.connector.ping_session() as client:
            client.local[_PULSE].update_one({"_id": 1}, {"$inc": {"beats": 1}}, upsert=True)

    def disconnect(self) -> None:
        """Close all connections."""
        self._version = None
        self.connector.disconnect()

    def set_read_only(self, is_read_only: bool) -> None:
        """Have the server refuse the tenants' writes, or take them again.

        MongoDB refuses their deletes too then; a database can be deleted through the service.
        """
        with self.connector.ping_session() as client:
            client.admin.command({"setUserWriteBlockMode": 1, "global": is_read_only})
        try:
            self._store.save(_WRITE_BLOCK, {"is_read_only": is_read_only})
        except OSError:
            LOG.warning("that writes are refused was not remembered", exc_info=True)

    def explain_exit(self, return_code: int | None, log: str) -> str:
        """Return why the server ended, from the errors it wrote."""
        lowered = log.lower()
        if "no space left on device" in lowered:
            return "The disk is full: resize the volume or delete files on it."
        if "address already in use" in lowered:
            return (
                f"Port {self._environment.port} is taken by another program: stop it, the"
                " database starts by itself then."
            )
        if "out of memory" in lowered or "cannot allocate memory" in lowered:
            return "The server has too little memory: resize the instance to a larger flavor."
        return server.explain_end(return_code, template.errors_of(log))


def _sign_oneself(key_file: pathlib.Path) -> str:
    """Return a key and a certificate that signs itself, for a client that is known by it."""
    key = certificates.ensure_key(key_file, owner=users.current())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trove-guestagent")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # the clock of a guest may be wrong: the key is what counts
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        key_file.read_text(encoding="ascii")
        + certificate.public_bytes(serialization.Encoding.PEM).decode()
    )
