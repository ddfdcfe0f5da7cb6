"""A client of a running trove-standalone that costs next to nothing itself."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.parse
from typing import Any

import harness

from tests.fixtures import stack


def without_rate_limits(running: stack.Stack) -> None:
    """Let the benchmark ask as often as it likes; takes effect with the next start."""
    config = running.state_dir / "trove.conf"
    rates = "".join(f"http_{method}_rate = 0\n" for method in ("get", "post", "delete"))
    config.write_text(config.read_text().replace("[api]\n", f"[api]\n{rates}", 1))


class Rest:
    """The REST API by HTTP basic authentication, as a user of the stack's clouds.yaml."""

    def __init__(self, running: stack.Stack) -> None:
        """Read where and who."""
        auth = running.cloud()["auth"]
        url = urllib.parse.urlsplit(auth["auth_url"])
        self._prefix = f"/v1.0/{auth['project_name']}"
        self._connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
        secret = base64.b64encode(f"{auth['username']}:{auth['password']}".encode()).decode()
        self._headers = {"Authorization": f"Basic {secret}", "Content-Type": "application/json"}

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return (status, document) of a request below the project's URL."""
        data = None if body is None else json.dumps(body)
        try:
            answer = self._send(method, path, data)
        except http.client.RemoteDisconnected:
            # the server ended a connection that nobody had used for a while
            answer = self._send(method, path, data)
        text = answer.read()
        return answer.status, json.loads(text) if text else None

    def _send(self, method: str, path: str, data: str | None) -> http.client.HTTPResponse:
        self._connection.request(method, self._prefix + path, body=data, headers=self._headers)
        return self._connection.getresponse()

    def get_instance(self, instance_id: str) -> dict[str, Any] | None:
        """Return an instance, None when it is gone."""
        status, document = self.request("GET", f"/instances/{instance_id}")
        if status == 404:
            return None
        if status != 200:
            raise RuntimeError(f"show answered {status}: {document}")
        instance: dict[str, Any] = document["instance"]
        return instance

    def create(self, **attributes: object) -> str:
        """Ask for an instance and return its id."""
        status, document = self.request("POST", "/instances", {"instance": attributes})
        if status != 200:
            raise RuntimeError(f"create answered {status}: {document}")
        return str(document["instance"]["id"])

    def wait_ready(self, instance_id: str, *, timeout_s: float = 60) -> dict[str, Any]:
        """Wait until an instance is ACTIVE and HEALTHY and return it."""

        def look() -> dict[str, Any] | None:
            seen = self.get_instance(instance_id) or {}
            if seen.get("status") == "ERROR":
                raise RuntimeError(f"instance failed: {seen.get('fault')}")
            is_ready = (seen["status"], seen["operating_status"]) == ("ACTIVE", "HEALTHY")
            return seen if is_ready else None

        ready = harness.wait_for(look, timeout_s=timeout_s, what="instance", interval_s=0.02)
        assert isinstance(ready, dict)
        return ready

    def delete_and_wait(self, instance_id: str, *, timeout_s: float = 60) -> None:
        """Delete an instance and wait until it is gone."""
        status, document = self.request("DELETE", f"/instances/{instance_id}")
        if status != 202:
            raise RuntimeError(f"delete answered {status}: {document}")
        harness.wait_for(
            lambda: self.get_instance(instance_id) is None,
            timeout_s=timeout_s,
            what="instance deleted",
            interval_s=0.02,
        )

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()
