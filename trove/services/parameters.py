"""Configuration parameters: a datastore's rules as operators changed them for a version."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trove.common import concurrency, exception
from trove.datastores.parameters import Parameter, ParameterType, Value, canonical
from trove.db import base, configurations, datastores
from trove.services import names


def effective(session: Any, version: datastores.Version) -> Mapping[str, Parameter]:
    """Return the parameters of a version in order of name, by name."""
    found = dict(names.get_spec(version.manager).rules(version.version))
    for overlay in configurations.list_overlays(session, version.id):
        if overlay.is_deleted:
            found.pop(overlay.name, None)
        else:
            found[overlay.name] = _merge(found.get(overlay.name), _from_overlay(overlay))
    return dict(sorted(found.items()))


def _merge(rule: Parameter | None, changed: Parameter) -> Parameter:
    """Keep the words of the rule: operators change types, limits and the need to restart only."""
    if rule is None or rule.type is not changed.type:
        return changed
    return dataclasses.replace(changed, values=rule.values, any_of=rule.any_of)


def _number(text: str | None, kind: ParameterType) -> int | float | None:
    if text is None:
        return None
    return float(text) if kind is ParameterType.FLOAT else int(text)


def _from_overlay(overlay: configurations.Overlay) -> Parameter:
    kind = ParameterType(overlay.data_type)
    return Parameter(
        name=overlay.name,
        type=kind,
        restart_required=overlay.restart_required,
        minimum=_number(overlay.minimum, kind),
        maximum=_number(overlay.maximum, kind),
    )


def _to_overlay(parameter: Parameter, *, is_deleted: bool = False) -> configurations.Overlay:
    return configurations.Overlay(
        name=parameter.name,
        data_type=parameter.type.value,
        restart_required=parameter.restart_required,
        minimum=None if parameter.minimum is None else str(parameter.minimum),
        maximum=None if parameter.maximum is None else str(parameter.maximum),
        is_deleted=is_deleted,
    )


def check_values(known: Mapping[str, Parameter], values: Mapping[str, Value]) -> None:
    """Raise UnprocessableEntity, naming the parameters, unless all values are good."""
    wrong = []
    seen: dict[str, str] = {}
    for name, value in values.items():
        shown = name[:64]
        spelled = canonical(name)
        rule = known.get(spelled)
        if spelled in seen:
            wrong.append(f"{shown} is the same parameter as {seen[spelled]}")
        elif rule is None:
            wrong.append(f"{shown} is not a configuration parameter of this datastore version")
        elif (reason := rule.check(value)) is not None:
            wrong.append(f"{shown} {reason}")
        seen.setdefault(spelled, shown)
    if wrong:
        raise exception.UnprocessableEntity(reason="; ".join(wrong[:5]))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VersionParameters:
    """The parameters of one version."""

    version: datastores.Version
    parameters: Mapping[str, Parameter]

    def get(self, name: str) -> Parameter:
        """Return a parameter; raises ParameterNotFound."""
        found = self.parameters.get(canonical(name))
        if found is None:
            raise exception.ParameterNotFound(name=name[:128])
        return found


class Parameters:
    """Use cases of configuration parameters."""

    def __init__(self, *, database: base.Database, clock: concurrency.Clock) -> None:
        """Take the collaborators."""
        self._database = database
        self._clock = clock

    def of_version(self, version: datastores.Version) -> VersionParameters:
        """Return the parameters of a version."""
        with self._database.reader() as session:
            return VersionParameters(version=version, parameters=effective(session, version))

    def find_any(self, version: datastores.Version, name: str) -> Parameter:
        """Return a parameter, deleted ones too; raises ParameterNotFound."""
        with self._database.reader() as session:
            found = effective(session, version).get(canonical(name))
            if found is not None:
                return found
            for overlay in configurations.list_overlays(session, version.id):
                if overlay.name == canonical(name):
                    return _from_overlay(overlay)
        raise exception.ParameterNotFound(name=name[:128])

    @base.retry_on_conflict
    def create(self, version: datastores.Version, parameter: Parameter) -> None:
        """Add a parameter to a version; raises BadRequest, AlreadyExists."""
        _check(parameter)
        with self._database.writer() as session:
            if parameter.name in effective(session, version):
                raise exception.AlreadyExists(
                    kind="configuration parameter", name=parameter.name[:128]
                )
            self._save(session, version, _to_overlay(parameter))

    @base.retry_on_conflict
    def replace(self, version: datastores.Version, parameter: Parameter) -> None:
        """Change a parameter of a version; raises BadRequest, ParameterNotFound."""
        _check(parameter)
        with self._database.writer() as session:
            if parameter.name not in effective(session, version):
                raise exception.ParameterNotFound(name=parameter.name[:128])
            self._save(session, version, _to_overlay(parameter))

    @base.retry_on_conflict
    def delete(self, version: datastores.Version, name: str) -> None:
        """Take a parameter from a version; raises BadRequest when there is none."""
        with self._database.writer() as session:
            found = effective(session, version).get(canonical(name))
            if found is None:
                raise exception.BadRequest(
                    reason=f"there is no configuration parameter {name[:128]}"
                )
            self._save(session, version, _to_overlay(found, is_deleted=True))

    def _save(
        self, session: Any, version: datastores.Version, overlay: configurations.Overlay
    ) -> None:
        configurations.save_overlay(session, version.id, overlay, now=self._clock.now())


def _check(parameter: Parameter) -> None:
    """Raise BadRequest unless a parameter's limits make sense."""
    low, high = parameter.minimum, parameter.maximum
    is_number = parameter.type in (ParameterType.INTEGER, ParameterType.FLOAT)
    if parameter.type is ParameterType.INTEGER and (low is None or high is None):
        raise exception.BadRequest(
            reason="an integer parameter needs max_size and min_size as integers"
        )
    if not is_number and (low is not None or high is not None):
        raise exception.BadRequest(
            reason=f"a {parameter.type.value} parameter has neither max_size nor min_size"
        )
    if low is not None and high is not None and low > high:
        raise exception.BadRequest(reason="min_size must not be larger than max_size")
