"""What guests that have signed URLs can do, and what they cannot: nothing is listed."""

from __future__ import annotations

import abc
import dataclasses
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, ClassVar, Self

from trove.storage import base, contents, plain_http

GONE = 404


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant(abc.ABC):
    """What a guest may reach: objects of a container whose names begin with ``prefix``."""

    #: What the store is called.
    store: ClassVar[str]
    #: Keys of the text that each of its grants has.
    texts: ClassVar[tuple[str, ...]] = ("url", "container", "prefix")

    url: str
    container: str
    prefix: str
    ca_pem: str | None = None

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Read a grant; raises StorageError for what is none."""
        is_one = (
            all(isinstance(wire.get(name), str) for name in cls.texts)
            and isinstance(wire.get("ca_pem"), str | None)
            and urllib.parse.urlsplit(wire["url"]).scheme in ("http", "https")
            and cls.is_signed(wire)
        )
        if not is_one:
            raise base.StorageError(reason=f"the grant is none for {cls.store}")
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: wire[name] for name in names if name in wire})

    @classmethod
    @abc.abstractmethod
    def is_signed(cls, wire: Mapping[str, Any]) -> bool:
        """Tell whether the signatures are there, in the form that the store has them in."""

    def to_wire(self) -> dict[str, Any]:
        """Return JSON types."""
        return dataclasses.asdict(self)


class SignedAccount(base.Account):
    """The objects of one container whose names begin with a prefix, each by a signed URL."""

    can_list = False
    #: What it means that the store answers 401 or 403.
    refused: ClassVar[str]

    def __init__(self, container: str, prefix: str) -> None:
        """Take what the URLs are signed for."""
        self._container = container
        self._prefix = prefix

    @abc.abstractmethod
    def _names(self, container: str, name: str) -> None:
        """Raise BadRequest unless an object may be called so."""

    @abc.abstractmethod
    def _object(self, name: str, headers: Mapping[str, str]) -> base.StoredObject:
        """Return an object by an answer; raises StorageError."""

    @abc.abstractmethod
    def _request(
        self, method: str, name: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> plain_http.Answer:
        """Send a request for an object; raises StorageError."""

    def find(self, container: str, name: str) -> base.StoredObject | None:
        """Return an object, None when there is none."""
        self._check(container, name)
        with self._request("HEAD", name) as answer:
            if answer.status == GONE:
                return None
            self._require(answer, 200)
            return self._object(name, answer.headers)

    def open(self, container: str, name: str) -> tuple[base.StoredObject, BinaryIO]:
        """Return an object and its content, to be closed; raises ObjectNotFound."""
        self._check(container, name)
        answer = self._request("GET", name)
        try:
            if answer.status == GONE:
                raise base.ObjectNotFound(container=container, name=name)
            self._require(answer, 200)
            found = self._object(name, answer.headers)
        except BaseException:
            answer.close()
            raise
        return found, contents.body(answer.read, answer.close, found.size_bytes)

    def list(
        self,
        container: str,
        *,
        prefix: str = "",
        marker: str = "",
        limit: int = base.MAX_LISTING,
    ) -> Sequence[base.StoredObject]:
        """Refuse: no signature is for a container."""
        raise base.StorageError(reason="a guest cannot list objects")

    def list_containers(self) -> Sequence[str]:
        """Refuse: no signature is for an account."""
        raise base.StorageError(reason="a guest cannot list containers")

    def find_container(self, name: str) -> base.Container | None:
        """Refuse: no signature is for a container."""
        raise base.StorageError(reason="a guest cannot look at containers")

    def _check(self, container: str, name: str) -> None:
        self._names(container, name)
        if container != self._container or not name.startswith(self._prefix):
            raise base.StorageError(
                reason=f"object {name} is not below what this guest was given:"
                f" {self._container}/{self._prefix}"
            )

    def _require(self, answer: plain_http.Answer, *statuses: int) -> None:
        answer.require(*statuses, refused=self.refused)


def read_only() -> base.StorageError:
    """Return the error of who changes what was granted to read."""
    return base.StorageError(reason="this guest was given objects to read only")
