"""S3, as the control plane uses it: one bucket that the operator made, a prefix for each project.

An object's key is ``<s3_prefix>/<project>/<container>/<name>``; a container is there as long as it
has objects. Whatever is put is taken whole first, on disk when it is large: its MD5 has to be known
when a request begins, and an upload in parts is completed, or aborted, as one.

Guests get signed URLs, one for each object and method (:mod:`trove.storage.presigned`). The
operator's key pair never leaves the control plane.
"""

from __future__ import annotations

import base64
import collections
import datetime
import functools
import hashlib
import logging
import os
import pathlib
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.session
from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, context, exception
from trove.storage import base, contents, presigned, s3_objects

LOG = log.getLogger(__name__)

_PAGE = 1000
#: Most objects that one grant is for.
_MOST_NAMES = 256
_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0
_ATTEMPTS = 3
_CONNECTIONS = 20
_GONE = 404
_DENIED = (401, 403)


class S3Account(base.Account):
    """The objects of one project."""

    def __init__(
        self, find_client: Callable[[], Any], *, bucket: str, root: str, part_bytes: int
    ) -> None:
        """Take what gives a client, and what the keys of the project begin with."""
        self._find_client = find_client
        self._bucket = bucket
        self._root = root
        self._part_bytes = part_bytes

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
        key = self._key(container, name)
        with s3_objects.Spool(content) as spool:
            options = {
                "Key": key,
                "ContentType": content_type,
                "ContentDisposition": s3_objects.disposition(spool.etag, metadata or {}),
            }
            if spool.size_bytes <= self._part_bytes:
                content_md5 = spool.content_md5
                self._call("put_object", **options, Body=spool.file, ContentMD5=content_md5)
            else:
                self._put_parts(key, spool, options)
            stored = self.get(container, name)
            if (stored.size_bytes, stored.etag) != (spool.size_bytes, spool.etag):
                raise base.StorageError(reason=f"not all of object {name} was stored")
        return stored

    def _put_parts(self, key: str, spool: s3_objects.Spool, options: Mapping[str, Any]) -> None:
        upload = self._call("create_multipart_upload", **options)["UploadId"]
        which = {"Key": key, "UploadId": upload}
        try:
            parts: list[dict[str, Any]] = []
            while part := spool.file.read(self._part_bytes):
                number = len(parts) + 1
                digest = hashlib.md5(part, usedforsecurity=False).digest()
                done = self._call(
                    "upload_part",
                    **which,
                    PartNumber=number,
                    Body=part,
                    ContentMD5=base64.b64encode(digest).decode(),
                )
                parts.append({"ETag": done["ETag"], "PartNumber": number})
            self._call("complete_multipart_upload", **which, MultipartUpload={"Parts": parts})
        except BaseException:
            try:
                self._call("abort_multipart_upload", **which)
            except base.StorageError as e:
                LOG.warning("parts of an upload of %s are left over: %s", key, e.message)
            raise

    def find(self, container: str, name: str) -> base.StoredObject | None:
        """Return an object, None when there is none."""
        answer = self._find("head_object", container, name)
        return None if answer is None else s3_objects.object_of(name, _headers(answer))

    def open(self, container: str, name: str) -> tuple[base.StoredObject, BinaryIO]:
        """Return an object and its content, to be closed; raises ObjectNotFound."""
        answer = self._find("get_object", container, name)
        if answer is None:
            raise base.ObjectNotFound(container=container, name=name)
        body = answer["Body"]
        try:
            found = s3_objects.object_of(name, _headers(answer))
        except BaseException:
            body.close()
            raise

        def read(most: int) -> bytes:
            try:
                return bytes(body.read(most))
            except (botocore.exceptions.BotoCoreError, OSError) as e:
                raise base.StorageError(reason=f"its answer broke off ({type(e).__name__})") from e

        return found, contents.body(read, body.close, found.size_bytes)

    def list(
        self,
        container: str,
        *,
        prefix: str = "",
        marker: str = "",
        limit: int = base.MAX_LISTING,
    ) -> Sequence[base.StoredObject]:
        """Return the objects after ``marker`` whose names begin with ``prefix``."""
        root = s3_objects.container_root(self._root, container)
        entries = self._entries(root + prefix, after=root + marker if marker else "")
        found: list[base.StoredObject] = []
        places: collections.Counter[datetime.datetime] = collections.Counter()
        for entry in entries if limit > 0 else ():
            # people read a log in the order of its objects' times, and these are of one second
            second = entry["LastModified"].replace(microsecond=0)
            found.append(
                base.StoredObject(
                    name=str(entry["Key"]).removeprefix(root),
                    size_bytes=int(entry["Size"]),
                    etag=str(entry["ETag"]).strip('"'),
                    modified=s3_objects.whole_seconds(second, places[second]),
                )
            )
            places[second] += 1
            if len(found) >= min(limit, base.MAX_LISTING):
                break
        return found

    def _entries(self, prefix: str, *, after: str = "") -> Iterator[Mapping[str, Any]]:
        """Yield what the bucket lists below a prefix."""
        first = {"StartAfter": after} if after else {}
        for answer in self._pages(Prefix=prefix, MaxKeys=_PAGE, **first):
            yield from answer.get("Contents", ())

    def _pages(self, **arguments: Any) -> Iterator[Mapping[str, Any]]:
        """Yield the pages of a listing."""
        while True:
            answer = self._call("list_objects_v2", **arguments)
            yield answer
            if not answer.get("IsTruncated"):
                return
            arguments.pop("StartAfter", None)
            arguments["ContinuationToken"] = answer["NextContinuationToken"]

    def delete(self, container: str, name: str) -> bool:
        """Delete an object; returns whether there was one."""
        if self.find(container, name) is None:
            return False
        self._call("delete_object", Key=self._key(container, name))
        return True

    def list_containers(self) -> Sequence[str]:
        """Return the names of all containers, in order."""
        prefixes = [
            str(entry["Prefix"]).removeprefix(self._root).rstrip("/")
            for answer in self._pages(Prefix=self._root, Delimiter="/")
            for entry in answer.get("CommonPrefixes", ())
        ]
        return sorted(map(urllib.parse.unquote, prefixes), key=str.encode)

    def find_container(self, name: str) -> base.Container | None:
        """Return a container, None when there is nothing in it."""
        count = size_bytes = 0
        for entry in self._entries(s3_objects.container_root(self._root, name)):
            count += 1
            size_bytes += int(entry["Size"])
        return base.Container(name=name, count=count, size_bytes=size_bytes) if count else None

    def _key(self, container: str, name: str) -> str:
        return s3_objects.key_of(self._root, container, name)

    def _find(self, operation: str, container: str, name: str) -> Any:
        """Call for an object, and return None when there is no such object."""
        try:
            return self._send(operation, {"Key": self._key(container, name)})
        except s3_objects.NameTooLong:
            return None
        except botocore.exceptions.ClientError as e:
            # HEAD has no body that would tell a missing bucket
            if _status(e) == _GONE and _code(e) in ("NoSuchKey", "404", "NotFound"):
                return None
            raise _refusal(e, operation) from e

    def _call(self, operation: str, **arguments: Any) -> Any:
        """Call an operation of S3 on the bucket; raises StorageError."""
        try:
            return self._send(operation, arguments)
        except botocore.exceptions.ClientError as e:
            raise _refusal(e, operation) from e

    def _send(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        try:
            return getattr(self._find_client(), operation)(Bucket=self._bucket, **arguments)
        except (botocore.exceptions.BotoCoreError, OSError) as e:
            raise base.StorageError(reason=f"it cannot be reached ({type(e).__name__})") from e


def _headers(answer: Mapping[str, Any]) -> Mapping[str, str]:
    headers: Mapping[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
    return headers


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: botocore.exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))[:64]


def _refusal(error: botocore.exceptions.ClientError, operation: str) -> base.StorageError:
    status, code = _status(error), _code(error)
    reason = f"S3 answered {status} {code} to {operation}"
    request = error.response.get("ResponseMetadata", {}).get("RequestId")
    reason += f" (request {request})" if request else ""
    if code == "RequestTimeTooSkewed":
        reason += ". The clocks of this machine and of the store have to agree within minutes"
    elif status in _DENIED:
        reason += (
            ". The key of [storage] s3_access_key has to be right, and allowed to list the bucket"
            " and to read, put and delete its objects, and the clocks have to agree"
        )
    return base.StorageError(reason=reason)


class S3Store(base.Store):
    """The accounts of all projects in the bucket of ``[storage] s3_bucket``."""

    kind = "s3"
    guests_list = False
    has_fine_times = False

    def __init__(self, conf: cfg.ConfigOpts, *, clock: concurrency.Clock | None = None) -> None:
        """Take the configuration; raises ConfigurationError. Connects when it is used."""
        self._conf = conf
        self._options = conf.storage
        self._clock = clock or concurrency.SystemClock()
        if not self._options.s3_bucket:
            raise exception.ConfigurationError(reason="[storage] s3_bucket is not set")
        self._credentials = botocore.credentials.Credentials(*_read_keys(self._options))
        prefix = (self._options.s3_prefix or "").strip("/")
        self._root = f"{prefix}/" if prefix else ""
        self._lock = threading.Lock()
        self._client: Any = None

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> S3Store:
        """Return the store; raises ConfigurationError."""
        return cls(conf)

    @property
    def grant_s(self) -> float | None:
        """For how many seconds a grant is good."""
        return float(self._options.s3_grant_s)

    def account(
        self, project_id: str, *, caller: context.RequestContext | None = None
    ) -> S3Account:
        """Return the account of a project; it is used with the service's rights."""
        return S3Account(
            self.client,
            bucket=self._options.s3_bucket,
            root=self._account_root(project_id),
            part_bytes=self._options.s3_part_mib << 20,
        )

    def service_project(self) -> str:
        """Return an id that no project has."""
        return base.SERVICE_PROJECT

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
        """Return signed URLs for objects of a container whose names begin with a prefix."""
        account = self._account_root(project_id)
        root = s3_objects.container_root(account, container)
        url, path = self._guest_url()
        signer = _Signer(
            self._credentials,
            region=self._options.s3_region,
            now=self._clock.now(),
            expires_s=self._options.s3_grant_s,
        )
        path += s3_objects.quote(root)
        signatures: dict[str, dict[str, str]] = {}
        for name in names[:_MOST_NAMES] or ("",):
            try:
                s3_objects.key_of(account, container, prefix + name)
            except exception.BadRequest:
                continue
            target = f"{url}{path}{s3_objects.quote(prefix + name)}"
            signatures[name] = {
                method: signer.sign(method, target)
                for method in (presigned.READING if is_read_only else presigned.METHODS)
            }
        return presigned.Grant(
            url=url,
            path=path,
            container=container,
            prefix=prefix,
            query=signer.query,
            signatures=signatures,
            ca_pem=self._read_ca(),
        ).to_wire()

    @staticmethod
    def open_grant(grant: Mapping[str, Any]) -> base.Account:
        """Return the account that a grant is for; raises StorageError."""
        return presigned.open_grant(grant)

    def client(self) -> Any:
        """Return the client of this process, which threads share."""
        with self._lock:
            if self._client is None:
                self._client = self._make_client()
            return self._client

    def _make_client(self) -> Any:
        options = self._options
        config = botocore.config.Config(
            signature_version="s3v4",
            s3={"addressing_style": options.s3_addressing},
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            max_pool_connections=_CONNECTIONS,
            # the MD5 is sent; many stores do not know the others
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with _session_lock:
            return _session().create_client(
                "s3",
                endpoint_url=options.s3_endpoint,
                region_name=options.s3_region,
                aws_access_key_id=self._credentials.access_key,
                aws_secret_access_key=self._credentials.secret_key,
                verify=options.s3_cafile or None,
                config=config,
            )

    def _account_root(self, project_id: str) -> str:
        quoted = urllib.parse.quote(project_id, safe="")
        if quoted in ("", ".", ".."):
            raise exception.BadRequest(reason="that is no id of a project")
        return f"{self._root}{quoted}/"

    def _guest_url(self) -> tuple[str, str]:
        """Return where guests find the bucket: URL without a path, and path."""
        options = self._options
        url = options.s3_guest_endpoint or options.s3_endpoint or self.client().meta.endpoint_url
        split = urllib.parse.urlsplit(url)
        above = split.path.rstrip("/")
        if options.s3_addressing == "virtual":
            return f"{split.scheme}://{options.s3_bucket}.{split.netloc}", f"{above}/"
        return f"{split.scheme}://{split.netloc}", f"{above}/{options.s3_bucket}/"

    def _read_ca(self) -> str | None:
        """Return the authorities that guests check the store's certificate by."""
        file = self._options.s3_guest_cafile or self._options.s3_cafile
        return _read(file) if file else None


class _Signer:
    """Signs URLs of one moment: everything but their signature is the same query."""

    def __init__(
        self, credentials: Any, *, region: str, now: datetime.datetime, expires_s: int
    ) -> None:
        self._auth = botocore.auth.S3SigV4QueryAuth(credentials, "s3", region)
        self._stamp = now.astimezone(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{credentials.access_key}/{self._stamp[:8]}/{region}/s3/aws4_request"
        self.query = urllib.parse.urlencode(
            {
                "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
                "X-Amz-Credential": scope,
                "X-Amz-Date": self._stamp,
                "X-Amz-Expires": expires_s,
                "X-Amz-SignedHeaders": "host",
            },
            quote_via=urllib.parse.quote,
            safe="-_.~",
        )

    def sign(self, method: str, target: str) -> str:
        """Return the signature of a URL without its query, for a method."""
        request = botocore.awsrequest.AWSRequest(method=method, url=f"{target}?{self.query}")
        request.context["timestamp"] = self._stamp
        canonical = self._auth.canonical_request(request)
        text = self._auth.string_to_sign(request, canonical)
        return str(self._auth.signature(text, request))


_session_lock = threading.Lock()


@functools.cache
def _session() -> Any:
    """Return what makes clients: its models take long to load. Nothing of ~/.aws counts here."""
    # it tells the signatures of requests, which are good for a while, to logs for debugging
    logging.getLogger("botocore").setLevel(logging.INFO)
    session = botocore.session.Session()
    session.set_config_variable("config_file", os.devnull)
    session.set_config_variable("credentials_file", os.devnull)
    return session


def _read_keys(options: Any) -> tuple[str, str]:
    """Return the access key and the secret; raises ConfigurationError."""
    secret = options.s3_secret_key
    if options.s3_secret_key_file:
        try:
            secret = _read(options.s3_secret_key_file).strip()
        except base.StorageError as e:
            raise exception.ConfigurationError(reason=e.message) from e
    if not (options.s3_access_key and secret):
        raise exception.ConfigurationError(
            reason="[storage] s3_access_key and s3_secret_key, or s3_secret_key_file, must be set"
        )
    return options.s3_access_key, secret


def _read(file: str) -> str:
    try:
        return pathlib.Path(file).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as e:
        raise base.StorageError(reason=f"{file} cannot be read ({type(e).__name__})") from e
