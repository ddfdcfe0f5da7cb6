"""Errors that cross a module border.

Each class has a message format and a stable machine-readable ``code``. They are told apart by
type, never by text; which HTTP status a class becomes is decided in one table, in
:mod:`trove.api.faults`. Arguments must never be secrets: messages are logged and shown.
"""

from __future__ import annotations


class TroveError(Exception):
    """Base of all errors of this project; subclasses set ``msg_fmt`` and ``code``."""

    msg_fmt = "An unexpected error happened."
    code = "trove.error"

    def __init__(self, message: str | None = None, **kwargs: object) -> None:
        """Format the message from keyword arguments named by ``msg_fmt``."""
        self.kwargs = kwargs
        super().__init__(message if message is not None else self.msg_fmt.format(**kwargs))

    @property
    def message(self) -> str:
        """The text shown to people."""
        return str(self)


class BadRequest(TroveError):
    """The request makes no sense as it stands."""

    msg_fmt = "Bad request: {reason}"
    code = "trove.bad_request"


class ValidationFailed(BadRequest):
    """The request does not fit its schema."""

    msg_fmt = "Validation error: {reason}"
    code = "trove.validation_failed"


class Unauthorized(TroveError):
    """No valid credentials were sent."""

    msg_fmt = "The request you have made requires authentication."
    code = "trove.unauthorized"


class Forbidden(TroveError):
    """The caller may not do this."""

    msg_fmt = "Forbidden: {reason}"
    code = "trove.forbidden"


class PolicyForbidden(Forbidden):
    """A policy rule refused the caller."""

    msg_fmt = "Policy doesn't allow {rule} to be performed."
    code = "trove.policy_forbidden"


class NotFound(TroveError):
    """The named thing does not exist for this caller."""

    msg_fmt = "Resource {name} cannot be found."
    code = "trove.not_found"


class InstanceNotFound(NotFound):
    """No such instance in the caller's reach."""

    msg_fmt = "Instance {instance_id} cannot be found."
    code = "trove.instance_not_found"


class DatastoreNotFound(NotFound):
    """No such datastore."""

    msg_fmt = "Datastore '{datastore}' cannot be found."
    code = "trove.datastore_not_found"


class DatastoreVersionUnknown(BadRequest):
    """A datastore version was named that does not exist, is inactive or is ambiguous."""

    msg_fmt = "Datastore version '{version}' cannot be used: {reason}"
    code = "trove.datastore_version_unknown"


class FlavorNotFound(NotFound):
    """No such flavor."""

    msg_fmt = "Flavor {flavor_id} cannot be found."
    code = "trove.flavor_not_found"


class DatabaseNotFound(NotFound):
    """The database does not exist on the instance."""

    msg_fmt = "Database {name} cannot be found on the instance."
    code = "trove.database_not_found"


class UserNotFound(NotFound):
    """The user does not exist on the instance."""

    msg_fmt = "User {name}@{host} cannot be found on the instance."
    code = "trove.user_not_found"


class ConfigurationNotFound(NotFound):
    """No such configuration group in the caller's reach."""

    msg_fmt = "Configuration group {configuration_id} cannot be found."
    code = "trove.configuration_not_found"


class ParameterNotFound(NotFound):
    """The version has no such configuration parameter."""

    msg_fmt = "Configuration parameter {name} cannot be found."
    code = "trove.parameter_not_found"


class SecretNotFound(NotFound):
    """The key manager has no such secret for this project."""

    msg_fmt = "Secret {ref} cannot be found."
    code = "trove.secret_not_found"


class ModuleNotFound(NotFound):
    """No such module in the caller's reach."""

    msg_fmt = "Module {module_id} cannot be found."
    code = "trove.module_not_found"


class OperationNotFound(NotFound):
    """No such operation."""

    msg_fmt = "Operation {operation_id} cannot be found."
    code = "trove.operation_not_found"


class BackupNotFound(NotFound):
    """No such backup, or it belongs to another project."""

    msg_fmt = "Backup {backup_id} cannot be found."
    code = "trove.backup_not_found"


class AlreadyExists(BadRequest):
    """A thing with that name exists already (400 in this API, by contract)."""

    msg_fmt = 'A {kind} with the name "{name}" already exists.'
    code = "trove.already_exists"


class SecretInUse(BadRequest):
    """A secret with consumers is not removed unless forced."""

    msg_fmt = "Secret cannot be deleted as it has consumers."
    code = "trove.secret_in_use"


class Conflict(TroveError):
    """The request is at odds with the state of the resource."""

    msg_fmt = "Conflict: {reason}"
    code = "trove.conflict"


class InstanceProtected(Conflict):
    """The instance is protected against its deletion."""

    msg_fmt = (
        "Instance {instance_id} is protected against deletion. To lift the protection, send"
        ' {{"instance": {{"deletion_protected": false}}}} in a PUT of the instance.'
    )
    code = "trove.instance_protected"


class QuotaExceeded(TroveError):
    """The project's quota does not admit the request."""

    msg_fmt = "Quota exceeded for resources: {resources}."
    code = "trove.quota_exceeded"


class VolumeTooLarge(TroveError):
    """The volume is above the configured maximum."""

    msg_fmt = "A volume of {size_gib} GiB was asked for, the largest accepted is {maximum_gib} GiB."
    code = "trove.volume_too_large"


class RateLimited(TroveError):
    """The project sent too many requests."""

    msg_fmt = "This request was rate-limited; try again in {retry_after_s} s."
    code = "trove.rate_limited"


class InstanceNotReady(TroveError):
    """The instance is not in a state that allows the operation."""

    msg_fmt = "Instance {instance_id} is not ready. (Status is {status}.)"
    code = "trove.instance_not_ready"


class UnprocessableEntity(TroveError):
    """The request is well-formed, yet cannot be carried out as it stands."""

    msg_fmt = "Unprocessable: {reason}"
    code = "trove.unprocessable"


class NotImplementedByEngine(TroveError):
    """The datastore of the instance has no such capability."""

    msg_fmt = "Operation not supported for datastore {datastore}: {operation}."
    code = "trove.not_supported"


class NotAvailable(TroveError):
    """A part of the API that this deployment does not offer."""

    msg_fmt = "Not available: {feature}."
    code = "trove.not_available"


class ServiceUnavailable(TroveError):
    """Something that the request needs is down for now."""

    msg_fmt = "Service unavailable: {reason}"
    code = "trove.service_unavailable"


class GuestError(TroveError):
    """The guest agent answered that the request failed (400 in this API, by contract)."""

    msg_fmt = "The guest agent could not do this: {reason}"
    code = "trove.guest_error"


class ProgramMissing(GuestError):
    """A program that helps the engine is not installed."""

    code = "trove.program_missing"


class NotProven(GuestError):
    """Nothing was found out about a backup: it is as proven as it was."""

    code = "trove.not_proven"


class NotProvable(NotProven):
    """Nothing can be found out about a backup where this was tried: something lacks there."""

    code = "trove.not_provable"


class UnknownJob(GuestError):
    """The guest agent knows no job of this kind: it is older than who sent it."""

    code = "trove.unknown_job"


class ConfigurationRefused(GuestError):
    """The engine does not take a value of its configuration; it runs as before."""

    code = "trove.configuration_refused"


class GuestTimeout(ServiceUnavailable):
    """The guest agent did not answer in time."""

    msg_fmt = "Timeout trying to connect to the Guest Agent of instance {instance_id}."
    code = "trove.guest_timeout"


class MessagingUnavailable(ServiceUnavailable):
    """The message broker cannot be reached."""

    msg_fmt = (
        "The message broker cannot be reached; check that RabbitMQ runs at the configured"
        " transport_url."
    )
    code = "trove.messaging_unavailable"


class ConfigurationError(TroveError):
    """An option is missing or wrong; the process must not start."""

    msg_fmt = "Configuration error: {reason}"
    code = "trove.configuration"


class DriverError(TroveError):
    """A driver failed; ``retryable`` says whether trying again can help."""

    msg_fmt = "{service} failed: {reason}"
    code = "trove.driver"
    retryable = False


class DriverUnavailable(DriverError):
    """The service behind a driver is down or slow for now."""

    code = "trove.driver_unavailable"
    retryable = True


class AddressPoolExhausted(DriverError):
    """No free address is left."""

    msg_fmt = (
        "No free address is left in {pool}: delete instances, or have the operator widen"
        " [local] address_pool."
    )
    code = "trove.address_pool_exhausted"


class ImageNotFound(DriverError):
    """The image of a datastore version does not exist."""

    msg_fmt = "Image {image_id} cannot be found: import it again with 'trove-manage image import'."
    code = "trove.image_not_found"
