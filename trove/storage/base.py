"""Where objects are kept: published logs and, later, backups; containers of named objects.

A :class:`Store` has an account for each project, and an account cannot reach another's objects. The
control plane opens an account by the project's id; a guest agent opens the one account that it was
given a grant for, which is all that it ever learns of the store. An object appears whole or not at
all, and replacing one is one step.
"""

from __future__ import annotations

import abc
import dataclasses
import datetime
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, ClassVar

from trove.common import context, exception

#: Longest names, in bytes of UTF-8, as Swift has them.
MAX_OBJECT_NAME_BYTES = 1024
MAX_CONTAINER_NAME_BYTES = 256
#: Most objects of one listing, as Swift has it.
MAX_LISTING = 10000

#: An id that no project has: of what is the service's own.
SERVICE_PROJECT = "trove service"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


class StorageError(exception.TroveError):
    """An object could not be stored or read."""

    msg_fmt = "The object store failed: {reason}"
    code = "trove.storage"


class ObjectNotFound(exception.NotFound):
    """No such object."""

    msg_fmt = "Object {name} cannot be found in container {container}."
    code = "trove.object_not_found"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object without its content. ``etag`` is the MD5 of the content in hex, as Swift's is.

    ``modified`` grows with every object that is put into a container, whatever the wall clock does;
    as finely as the store tells times. A listing may leave out the metadata and the content type,
    and may have another ``etag`` for an object in segments.
    """

    name: str
    size_bytes: int
    etag: str
    modified: datetime.datetime
    content_type: str = BINARY
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container: how many objects it has and how large they are together."""

    name: str
    count: int
    size_bytes: int


class Account(abc.ABC):
    """The objects of one project. Names are any text that fits in :func:`check_names`.

    All methods raise StorageError when the store fails.
    """

    #: Whether objects can be listed; those who have signed URLs only cannot.
    can_list: ClassVar[bool] = True

    def reaches(self, container: str, name: str) -> bool:
        """Tell whether what this account was opened with is good for an object at all.

        Who has a grant for some objects only asks for the others by their names.
        """
        return True

    @abc.abstractmethod
    def put(
        self,
        container: str,
        name: str,
        content: Iterable[bytes],
        *,
        content_type: str = BINARY,
        metadata: Mapping[str, str] | None = None,
    ) -> StoredObject:
        """Store an object, replacing one of this name; durable when it returns.

        The container is made when it is missing.
        """

    @abc.abstractmethod
    def find(self, container: str, name: str) -> StoredObject | None:
        """Return an object, None when there is none."""

    def get(self, container: str, name: str) -> StoredObject:
        """Return an object; raises ObjectNotFound."""
        found = self.find(container, name)
        if found is None:
            raise ObjectNotFound(container=container, name=name)
        return found

    @abc.abstractmethod
    def open(self, container: str, name: str) -> tuple[StoredObject, BinaryIO]:
        """Return an object and its content, to be closed; raises ObjectNotFound.

        What was opened stays readable when the object is replaced or deleted.
        """

    @abc.abstractmethod
    def list(
        self, container: str, *, prefix: str = "", marker: str = "", limit: int = MAX_LISTING
    ) -> Sequence[StoredObject]:
        """Return the objects after ``marker`` whose names begin with ``prefix``.

        In order of the bytes of their names; none when there is no such container.
        """

    @abc.abstractmethod
    def delete(self, container: str, name: str) -> bool:
        """Delete an object; returns whether there was one."""

    @abc.abstractmethod
    def list_containers(self) -> Sequence[str]:
        """Return the names of all containers, in order."""

    @abc.abstractmethod
    def find_container(self, name: str) -> Container | None:
        """Return a container, None when there is none."""


class Store(abc.ABC):
    """The accounts of all projects, for the control plane."""

    #: By what name the guest opens grants of this kind of store: that of the entry point.
    kind: ClassVar[str]
    #: Whether a guest can list what it put; where not, the control plane deletes it.
    guests_list: ClassVar[bool] = True
    #: Whether ``modified`` tells two objects apart that are put one after the other.
    has_fine_times: ClassVar[bool] = True

    @property
    def grant_s(self) -> float | None:
        """For how many seconds a grant is good; None: as long as the store is there."""
        return None

    @abc.abstractmethod
    def account(self, project_id: str, *, caller: context.RequestContext | None = None) -> Account:
        """Return the account of a project; within a request it is used with the caller's rights."""

    @abc.abstractmethod
    def service_project(self) -> str:
        """Return the id of the service's own project, whose account users do not reach."""

    @abc.abstractmethod
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
        """Return what a guest opens the account of a project with; JSON types, maybe secret.

        It needs no more than the objects of a container whose names begin with a prefix, and with
        ``is_read_only`` it need not change them. ``names``, without the prefix, are the objects
        that it wants next: where each is signed there is no more in the grant, without any the one
        that is called like the prefix. Raises StorageError.
        """

    def locate(self, project_id: str, *, container: str, name: str) -> str:
        """Return what people are told of where an object is; raises StorageError."""
        return f"{self.kind}://{project_id}/{container}/{urllib.parse.quote(name)}"

    @staticmethod
    @abc.abstractmethod
    def open_grant(grant: Mapping[str, Any]) -> Account:
        """Return the account that a grant is for; raises StorageError for what is no grant."""


def metafile(prefix: str) -> str:
    """Return the name of the object that describes what is published below a prefix."""
    return f"{prefix.rstrip('/')}_metafile"


def check_names(container: str, name: str | None = None) -> None:
    """Raise BadRequest unless a container and an object may be called so."""
    _check("container", container, MAX_CONTAINER_NAME_BYTES)
    if "/" in container:
        raise exception.BadRequest(reason="the name of a container must not contain a slash")
    if name is not None:
        _check("object", name, MAX_OBJECT_NAME_BYTES)


def _check(kind: str, name: str, maximum: int) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise exception.BadRequest(reason=f"the name of the {kind} is not text") from None
    if not 0 < size <= maximum:
        raise exception.BadRequest(
            reason=f"the name of the {kind} must have between 1 and {maximum} bytes"
        )
