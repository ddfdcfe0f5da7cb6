"""What the commands ask the Database API for, over python-troveclient's session."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from osc_lib import exceptions, utils


class DatabaseApi:
    """The parts of the API that python-troveclient has no methods for."""

    def __init__(self, client_manager: Any) -> None:
        """Take the openstack client's manager of clients."""
        self._database = client_manager.database

    def find_instance_id(self, name_or_id: str) -> str:
        """Return the id of an instance; raises CommandError when there is none or several."""
        return str(utils.find_resource(self._database.instances, name_or_id).id)

    def find_backup_id(self, name_or_id: str) -> str:
        """Return the id of a backup; raises CommandError when there is none or several."""
        return str(utils.find_resource(self._database.backups, name_or_id).id)

    def find_flavor_id(self, name_or_id: str) -> str:
        """Return the id of a flavor; raises CommandError when there is none or several."""
        return str(utils.find_resource(self._database.flavors, name_or_id).id)

    def get(self, path: str, query: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Return a document."""
        present = {name: value for name, value in (query or {}).items() if value is not None}
        suffix = f"?{urllib.parse.urlencode(present)}" if present else ""
        _, body = self._database.client.get(path + suffix)
        return dict(body)

    def get_instance(self, instance_id: str) -> dict[str, Any]:
        """Return an instance."""
        return dict(self.get(f"/instances/{_quoted(instance_id)}")["instance"])

    def update_instance(self, instance_id: str, **values: object) -> None:
        """Change attributes of an instance."""
        self._database.client.put(f"/instances/{_quoted(instance_id)}", body={"instance": values})

    def act_on_instance(self, instance_id: str, action: str, arguments: object) -> None:
        """Have something done to an instance."""
        path = f"/instances/{_quoted(instance_id)}/action"
        self._database.client.post(path, body={action: arguments})

    def create_instance(self, body: Mapping[str, object]) -> dict[str, Any]:
        """Create an instance."""
        _, answer = self._database.client.post("/instances", body={"instance": dict(body)})
        return dict(answer["instance"])

    def delete_instance(self, instance_id: str, **query: object) -> None:
        """Delete an instance."""
        suffix = urllib.parse.urlencode(query)
        self._database.client.delete(f"/instances/{_quoted(instance_id)}?{suffix}")

    # -- backups -----

    def get_backup(self, backup_id: str) -> dict[str, Any]:
        """Return a backup."""
        return dict(self.get(f"/backups/{_quoted(backup_id)}")["backup"])

    def act_on_backup(self, backup_id: str, action: str, arguments: object) -> dict[str, Any]:
        """Have something done with a backup; return what comes of it."""
        path = f"/backups/{_quoted(backup_id)}/action"
        _, answer = self._database.client.post(path, body={action: arguments})
        return dict(answer)

    def cancel_backup(self, backup_id: str) -> None:
        """End the making of a backup and remove what there is of it."""
        self._database.client.delete(f"/backups/{_quoted(backup_id)}?force=true")

    def list_schedules(self, **query: object) -> list[dict[str, Any]]:
        """Return all schedules of backups, of an instance or of the project."""
        found: list[dict[str, Any]] = []
        marker: str | None = None
        while True:
            page = self.get("/backup_schedules", {**query, "marker": marker})
            found += page["backup_schedules"]
            if "links" not in page or not page["backup_schedules"]:
                return found
            marker = found[-1]["id"]

    def find_schedule(self, name_or_id: str) -> dict[str, Any]:
        """Return a schedule; raises CommandError when there is none or several of the name."""
        named = [each for each in self.list_schedules() if name_or_id in (each["id"], each["name"])]
        if len(named) == 1:
            return named[0]
        if named:
            raise exceptions.CommandError(
                f"More than one backup schedule has the name {name_or_id}: give its ID."
            )
        # of another project, for administrators
        return dict(self.get(f"/backup_schedules/{_quoted(name_or_id)}")["backup_schedule"])

    def create_schedule(self, values: Mapping[str, object]) -> dict[str, Any]:
        """Make a schedule."""
        _, answer = self._database.client.post(
            "/backup_schedules", body={"backup_schedule": dict(values)}
        )
        return dict(answer["backup_schedule"])

    def update_schedule(self, schedule_id: str, values: Mapping[str, object]) -> None:
        """Change a schedule."""
        path = f"/backup_schedules/{_quoted(schedule_id)}"
        self._database.client.patch(path, body={"backup_schedule": dict(values)})

    def delete_schedule(self, schedule_id: str) -> None:
        """Delete a schedule."""
        self._database.client.delete(f"/backup_schedules/{_quoted(schedule_id)}")

    # -- what happened -----

    def list_operations(self, instance_id: str, *, limit: int | None) -> list[dict[str, Any]]:
        """Return operations of an instance, newest first; all, or ``limit`` of them."""
        found: list[dict[str, Any]] = []
        marker: str | None = None
        while limit is None or len(found) < limit:
            left = None if limit is None else limit - len(found)
            page = self.get(
                f"/instances/{_quoted(instance_id)}/operations", {"limit": left, "marker": marker}
            )
            found += page["operations"]
            if "links" not in page or not page["operations"]:
                break
            marker = found[-1]["id"]
        return found

    def get_operation(self, instance_id: str, operation_id: str) -> dict[str, Any]:
        """Return an operation with its journal."""
        path = f"/instances/{_quoted(instance_id)}/operations/{_quoted(operation_id)}"
        return dict(self.get(path)["operation"])

    def get_metrics(self, instance_id: str) -> dict[str, Any]:
        """Return what an instance counts."""
        return dict(self.get(f"/instances/{_quoted(instance_id)}/metrics")["metrics"])

    def list_queries(
        self, instance_id: str, *, limit: int | None, order_by: str | None
    ) -> list[dict[str, Any]]:
        """Return the statements that cost an instance most."""
        wanted = {"limit": limit, "order_by": order_by}
        return list(self.get(f"/instances/{_quoted(instance_id)}/queries", wanted)["queries"])

    def read_events(
        self, instance_id: str | None, wanted: Mapping[str, object]
    ) -> Iterator[tuple[list[dict[str, Any]], bool]]:
        """Yield pages of events for ever, and whether there are more now.

        A page without more is what there is so far: whoever takes the next one has waited.
        """
        path = "/events" if instance_id is None else f"/instances/{_quoted(instance_id)}/events"
        marker: str | None = None
        while True:
            page = self.get(path, {**wanted, "marker": marker})
            yield page["events"], "links" in page
            marker = page["cursor"]

    def get_certificate_authority(self) -> dict[str, Any]:
        """Return the certificate of the authority that signs those of instances."""
        return dict(self.get("/certificate-authority")["certificate_authority"])


def _quoted(segment: str) -> str:
    return urllib.parse.quote(segment, safe="")
