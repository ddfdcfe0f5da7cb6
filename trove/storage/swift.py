"""Swift, as the control plane uses it: an account for each project.

Objects of a project are reached with the rights of who asks, when that is a user of the project,
and otherwise with the service's own, whose user needs the role that Swift calls reseller admin. An
object up to the size of a segment is one request; a larger one is segments in the container
``<container>_segments`` and a manifest, which is put last: an object appears whole. Signed URLs are
good for one container, so guests read objects of one request only. What a crash leaves are
segments that no manifest names; they go when the object is put or deleted again.

Guests get signatures for names with one prefix (:mod:`trove.storage.tempurl`). The key that signs
is derived from the first of ``[guest] key_encryption_keys``, for each container another, and stored
as the container's second TempURL key, so that a user's own is left alone.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import pathlib
import secrets
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, BinaryIO, NoReturn

import requests
from keystoneauth1 import exceptions as ksa_exceptions
from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, context, crypto, exception, keystone
from trove.storage import base, contents, swift_objects, tempurl

LOG = log.getLogger(__name__)

_SEGMENTS = "_segments"
_KEY_HEADER = "X-Container-Meta-Temp-URL-Key-2"
#: Seconds for which a container is taken to have our key still.
_KEY_SEEN_S = 60.0
_PAGE = 1000
_READ_BYTES = 64 * 1024
_GONE = 404


class SwiftAccount(base.Account):
    """The account of one project."""

    def __init__(self, session: Any, find_url: Callable[[], str], *, segment_bytes: int) -> None:
        """Take a session and what tells the account's URL; connects when it is used."""
        self._session = session
        self._find_url = find_url
        self._segment_bytes = segment_bytes

    def put(
        self,
        container: str,
        name: str,
        content: Iterable[bytes],
        *,
        content_type: str = base.BINARY,
        metadata: Mapping[str, str] | None = None,
    ) -> base.StoredObject:
        """Store an object, replacing one of this name; durable when it returns."""
        swift_objects.check_names(container, name)
        headers = {"Content-Type": content_type} | swift_objects.metadata_headers(metadata or {})
        before = self._head(container, name)
        pieces = contents.Content(content)
        with tempfile.SpooledTemporaryFile(max_size=swift_objects.DIRECT_BYTES) as first:
            for piece in pieces.pieces(b"", self._segment_bytes):
                first.write(piece)
            if pieces.is_over():
                headers |= {"ETag": pieces.etag, "Content-Length": str(pieces.size_bytes)}
                self._put(container, quoted_name=name, headers=headers, data=first)
                kept = None
            else:
                kept = self._put_large(container, name, pieces, first, headers)
        if kept is not None or (before is not None and swift_objects.is_large(before)):
            self._purge(container, name, keep=kept)
        return self.get(container, name)

    def _put_large(
        self,
        container: str,
        name: str,
        pieces: contents.Content,
        first: IO[bytes],
        headers: Mapping[str, str],
    ) -> str:
        """Store segments, then the manifest; returns what the segments' names begin with."""
        box = f"{container}{_SEGMENTS}"
        swift_objects.check_names(box)
        folder = f"{_folder(name)}{secrets.token_hex(8)}/"
        manifest: list[dict[str, Any]] = []
        try:
            while not manifest or not pieces.is_over():
                part = _Part(
                    pieces.pieces(b"", self._segment_bytes) if manifest else _chunks(first)
                )
                segment = f"{folder}{len(manifest):08d}"
                # what is sent cannot be sent again: the container has to be there
                if not manifest:
                    self._create_container(box)
                answer = self._send("PUT", box, segment, data=iter(part))
                self._require(answer, 201, f"store a segment of {name}")
                if answer.headers.get("etag", "").strip('"') != part.etag:
                    raise base.StorageError(reason=f"not all of a segment of {name} was stored")
                manifest.append(
                    {
                        "path": f"/{box}/{segment}",
                        "etag": part.etag,
                        "size_bytes": part.size_bytes,
                    }
                )
            self._put(
                container,
                quoted_name=name,
                headers={**headers, **swift_objects.md5_header(pieces.etag)},
                data=io.BytesIO(json.dumps(manifest).encode()),
                params={"multipart-manifest": "put"},
            )
        except BaseException:
            for entry in manifest:
                self._send("DELETE", box, str(entry["path"]).removeprefix(f"/{box}/"))
            raise
        return folder

    def _put(
        self,
        container: str,
        *,
        quoted_name: str,
        headers: Mapping[str, str],
        data: IO[bytes],
        params: Mapping[str, str] | None = None,
    ) -> None:
        """Put an object; its container is made when it is missing."""
        for attempt in (1, 2):
            data.seek(0)
            answer = self._send(
                "PUT",
                container,
                quoted_name,
                headers=headers,
                # nothing at all would be sent in chunks
                data=data if data.read(1) and data.seek(0) == 0 else b"",
                params=params,
            )
            if answer.status_code != _GONE or attempt == 2:
                break
            self._create_container(container)
        self._require(answer, 201, f"store object {quoted_name}")

    def _create_container(self, container: str, headers: Mapping[str, str] | None = None) -> None:
        answer = self._send("PUT", container, headers=headers)
        self._require(answer, (201, 202), f"make container {container}")

    def find(self, container: str, name: str) -> base.StoredObject | None:
        """Return an object, None when there is none."""
        swift_objects.check_names(container, name)
        headers = self._head(container, name)
        return None if headers is None else swift_objects.object_of(name, headers)

    def _head(self, container: str, name: str) -> Mapping[str, str] | None:
        answer = self._send("HEAD", container, name)
        if answer.status_code == _GONE:
            return None
        self._require(answer, 200, f"look at object {name}")
        headers: Mapping[str, str] = answer.headers
        return headers

    def open(self, container: str, name: str) -> tuple[base.StoredObject, BinaryIO]:
        """Return an object and its content, to be closed; raises ObjectNotFound."""
        swift_objects.check_names(container, name)
        answer = self._send("GET", container, name, stream=True)
        try:
            if answer.status_code == _GONE:
                raise base.ObjectNotFound(container=container, name=name)
            self._require(answer, 200, f"read object {name}")
            found = swift_objects.object_of(name, answer.headers)
        except BaseException:
            answer.close()
            raise

        content = contents.Content(answer.iter_content(_READ_BYTES))

        def read(most: int) -> bytes:
            try:
                return content.take(most)
            except (requests.RequestException, OSError) as e:
                raise base.StorageError(reason=f"its answer broke off ({type(e).__name__})") from e

        return found, contents.body(read, answer.close, found.size_bytes)

    def list(
        self,
        container: str,
        *,
        prefix: str = "",
        marker: str = "",
        limit: int = base.MAX_LISTING,
    ) -> Sequence[base.StoredObject]:
        """Return the objects after ``marker`` whose names begin with ``prefix``."""
        swift_objects.check_names(container)
        params = {"format": "json", "limit": str(min(limit, base.MAX_LISTING))}
        params |= {"prefix": prefix} if prefix else {}
        params |= {"marker": marker} if marker else {}
        answer = self._send("GET", container, params=params)
        if answer.status_code == _GONE:
            return []
        self._require(answer, (200, 204), f"list container {container}")
        return [_listed(entry) for entry in _json(answer)]

    def delete(self, container: str, name: str) -> bool:
        """Delete an object with its segments; returns whether there was one."""
        swift_objects.check_names(container, name)
        headers = self._head(container, name)
        is_gone = headers is None
        if headers is not None:
            answer = self._send("DELETE", container, name)
            is_gone = answer.status_code == _GONE
            if not is_gone:
                self._require(answer, 204, f"delete object {name}")
        if headers is None or swift_objects.is_large(headers):
            self._purge(container, name)
        return not is_gone

    def _purge(self, container: str, name: str, *, keep: str | None = None) -> None:
        """Delete the segments of an object, but for those whose names begin with ``keep``."""
        box = f"{container}{_SEGMENTS}"
        marker = ""
        while found := self.list(box, prefix=_folder(name), marker=marker, limit=_PAGE):
            marker = found[-1].name
            for segment in found:
                if keep is None or not segment.name.startswith(keep):
                    answer = self._send("DELETE", box, segment.name)
                    self._require(answer, (204, _GONE), f"delete a segment of {name}")

    def list_containers(self) -> Sequence[str]:
        """Return the names of all containers, in order."""
        names: list[str] = []
        while True:
            params = {"format": "json", "marker": names[-1] if names else ""}
            answer = self._send("GET", params=params)
            if answer.status_code == _GONE:
                return names
            self._require(answer, (200, 204), "list containers")
            page = [str(entry["name"]) for entry in _json(answer)]
            if not page:
                return names
            names += page

    def find_container(self, name: str) -> base.Container | None:
        """Return a container, None when there is none."""
        swift_objects.check_names(name)
        answer = self._send("HEAD", name)
        if answer.status_code == _GONE:
            return None
        self._require(answer, (200, 204), f"look at container {name}")
        return base.Container(
            name=name,
            count=int(answer.headers["x-container-object-count"]),
            size_bytes=int(answer.headers["x-container-bytes-used"]),
        )

    def ensure_key(self, container: str, key: str) -> None:
        """Have a container that signatures by a key are good for."""
        answer = self._send("HEAD", container)
        if answer.status_code == _GONE:
            self._create_container(container, {_KEY_HEADER: key})
            return
        self._require(answer, (200, 204), f"look at container {container}")
        if answer.headers.get(_KEY_HEADER) != key:
            answer = self._send("POST", container, headers={_KEY_HEADER: key})
            self._require(answer, (202, 204), f"set the TempURL key of container {container}")

    def url(self) -> str:
        """Return the account's URL; raises StorageError."""
        try:
            return self._find_url()
        except ksa_exceptions.ClientException as e:
            raise base.StorageError(
                reason=f"the identity service does not tell its endpoint ({type(e).__name__})"
            ) from e

    def _send(
        self,
        method: str,
        container: str | None = None,
        name: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        data: bytes | IO[bytes] | Iterator[bytes] | None = None,
        stream: bool = False,
    ) -> Any:
        """Send a request and return whatever answer comes; raises StorageError without one."""
        url = self.url() + (swift_objects.quote(container, name) if container else "")
        can_repeat = data is None or isinstance(data, bytes)
        try:
            return self._session.request(
                url,
                method,
                headers={"Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})},
                params=params,
                data=data,
                stream=stream,
                raise_exc=False,
                redirect=False,
                # headers hold the keys of signatures
                log=False,
                connect_retries=1 if can_repeat else 0,
                status_code_retries=1 if can_repeat else 0,
                retriable_status_codes=[500, 502, 503, 504],
            )
        except ksa_exceptions.ClientException as e:
            raise base.StorageError(reason=f"it cannot be reached ({type(e).__name__})") from e

    @staticmethod
    def _require(answer: Any, status: int | tuple[int, ...], action: str) -> None:
        if answer.status_code not in (status if isinstance(status, tuple) else (status,)):
            _refuse(answer, action)


def _refuse(answer: Any, action: str) -> NoReturn:
    request = answer.headers.get("x-openstack-request-id") or answer.headers.get("x-trans-id")
    reason = f"Swift failed to {action}: it answered {answer.status_code}"
    reason += f" (request {request})" if request else ""
    if answer.status_code in (401, 403):
        reason += (
            ". Whoever asks must own the project's objects; for those of other projects the"
            " operator gives the user of [service_credentials] Swift's reseller admin role"
        )
    if answer.status_code == 413:
        reason += ". The project is over its quota in Swift"
    raise base.StorageError(reason=reason)


class _Part:
    """One segment on its way: how large it is, and its MD5."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._digest = hashlib.md5(usedforsecurity=False)
        self.size_bytes = 0

    @property
    def etag(self) -> str:
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._digest.update(piece)
            self.size_bytes += len(piece)
            yield piece


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what is in a file, from its beginning."""
    file.seek(0)
    while chunk := file.read(_READ_BYTES):
        yield chunk


def _folder(name: str) -> str:
    """Return what the names of all segments of an object begin with."""
    return f"{hashlib.sha256(name.encode()).hexdigest()}/"


def _json(answer: Any) -> Any:
    if answer.status_code == 204:
        return []
    try:
        return answer.json()
    except ValueError as e:
        raise base.StorageError(reason="its listing is not JSON") from e


def _listed(entry: Mapping[str, Any]) -> base.StoredObject:
    modified = datetime.datetime.fromisoformat(str(entry["last_modified"]))
    return base.StoredObject(
        name=str(entry["name"]),
        size_bytes=int(entry["bytes"]),
        etag=str(entry["hash"]),
        modified=modified.replace(tzinfo=datetime.UTC),
        content_type=contents.content_type_of(str(entry["content_type"])),
    )


class SwiftStore(base.Store):
    """The accounts of all projects in the Swift of ``[service_credentials]``' catalog."""

    kind = "swift"
    guests_list = False

    def __init__(self, conf: cfg.ConfigOpts, *, clock: concurrency.Clock | None = None) -> None:
        """Take the configuration; raises ConfigurationError without a credential."""
        self._conf = conf
        self._clock = clock or concurrency.SystemClock()
        self._session = keystone.session_of(conf)
        self._ring = crypto.KeyRing.from_config(conf.guest.key_encryption_keys)
        self._lock = threading.Lock()
        #: (project, container) -> until when its key is taken to be there.
        self._seen: dict[tuple[str, str], float] = {}

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> SwiftStore:
        """Return the store; raises ConfigurationError."""
        return cls(conf)

    @property
    def grant_s(self) -> float | None:
        """For how many seconds a grant is good."""
        return float(self._conf.storage.swift_grant_s)

    def account(
        self, project_id: str, *, caller: context.RequestContext | None = None
    ) -> SwiftAccount:
        """Return the account of a project, with the caller's rights when it is the caller's."""
        if not project_id or urllib.parse.quote(project_id, safe="") != project_id:
            raise exception.BadRequest(reason="that is no id of a project of the cloud")
        segment_bytes = self._conf.storage.swift_segment_mib << 20

        def find_url() -> str:
            return self._url_of(project_id, self._conf.service_credentials.interface)

        session = self._session
        if caller is not None and caller.auth_token and caller.project_id == project_id:
            # the endpoint is known only when it is asked for: the URLs of requests are whole
            session = keystone.user_session(self._conf, caller, endpoint="")
        return SwiftAccount(session, find_url, segment_bytes=segment_bytes)

    def service_project(self) -> str:
        """Return the project of ``[service_credentials]``."""
        url = self._own_url(self._conf.service_credentials.interface)
        return url.rpartition("/")[2].removeprefix(self._conf.storage.swift_account_prefix)

    def _url_of(self, project_id: str, interface: str) -> str:
        """Return the URL of a project's account: the catalog has that of our own project."""
        above = self._own_url(interface).rpartition("/")[0]
        return f"{above}/{self._conf.storage.swift_account_prefix}{project_id}"

    def _own_url(self, interface: str) -> str:
        own = self._session.get_endpoint(
            service_type="object-store",
            interface=interface,
            region_name=self._conf.service_credentials.region_name,
        )
        if not own:
            raise base.StorageError(
                reason="there is no object store in the catalog: the operator registers it, or"
                " corrects region_name in [service_credentials]"
            )
        return str(own).rstrip("/")

    def grant(
        self,
        project_id: str,
        *,
        container: str,
        prefix: str,
        caller: context.RequestContext | None = None,
        is_read_only: bool = False,
        names: Sequence[str] = (),
    ) -> Mapping[str, Any]:
        """Return signatures for the objects of a container whose names begin with a prefix."""
        swift_objects.check_names(container, prefix)
        key = self._ring.derive(f"temp-url:{project_id}:{container}").hex()
        self._ensure_key(self.account(project_id, caller=caller), project_id, container, key)
        options = self._conf.storage
        url = options.swift_guest_url or self._url_of(project_id, options.swift_guest_interface)
        split = urllib.parse.urlsplit(url)
        account_path = urllib.parse.urlsplit(
            self._url_of(project_id, options.swift_guest_interface)
        ).path
        expires = int(self._clock.now().timestamp()) + options.swift_grant_s
        path = f"{account_path}/{container}/{prefix}"
        return tempurl.Grant(
            url=f"{split.scheme}://{split.netloc}",
            account_path=account_path,
            container=container,
            prefix=prefix,
            expires=expires,
            signatures={
                method: tempurl.sign(key, method, path=path, expires=expires)
                for method in (tempurl.READING if is_read_only else tempurl.METHODS)
            },
            ca_pem=self._read_ca(),
        ).to_wire()

    def locate(self, project_id: str, *, container: str, name: str) -> str:
        """Return the URL of an object."""
        url = self._url_of(project_id, self._conf.storage.swift_guest_interface)
        return url + swift_objects.quote(container, name)

    def _ensure_key(self, account: SwiftAccount, project_id: str, container: str, key: str) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._seen = {which: until for which, until in self._seen.items() if until > now}
            if (project_id, container) in self._seen:
                return
        account.ensure_key(container, key)
        with self._lock:
            self._seen[project_id, container] = now + _KEY_SEEN_S

    def _read_ca(self) -> str | None:
        """Return the authorities that guests check Swift's certificate by; None: the system's."""
        file = self._conf.storage.swift_guest_cafile
        if not file:
            return None
        try:
            return pathlib.Path(file).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as e:
            raise base.StorageError(
                reason=f"[storage] swift_guest_cafile cannot be read ({type(e).__name__})"
            ) from e

    @staticmethod
    def open_grant(grant: Mapping[str, Any]) -> base.Account:
        """Return the account that a grant is for; raises StorageError."""
        return tempurl.open_grant(grant)
