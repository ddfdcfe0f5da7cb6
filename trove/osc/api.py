"""What the commands ask the Database API for, over python-troveclient's session."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from osc_lib import utils


class DatabaseApi:
    """The parts of the API that python-troveclient has no methods for."""

    def __init__(self, client_manager: Any) -> None:
        """Take the openstack client's manager of clients."""
        self._database = client_manager.database

    def find_instance_id(self, name_or_id: str) -> str:
        """Return the id of an instance; raises CommandError when there is none or several."""
        return str(utils.find_resource(self._database.instances, name_or_id).id)

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
