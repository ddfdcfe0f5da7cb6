"""The guest channel as the agent uses it: reports up, calls and jobs down, one key for both.

Key and account may be replaced while the channel is in use. What was asked before is answered under
the key that it was asked with; the connections of the old account end once something went through
the new ones.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping

from oslo_config import cfg
from oslo_log import log

from trove.common import exception
from trove.guestagent import credentials as credentials_file
from trove.guestagent import heartbeat
from trove.rpc import conductor, payloads, serializer, transport

LOG = log.getLogger(__name__)

#: Longest a report waits for this agent to be reachable itself, before it is tried again.
_LISTEN_TIMEOUT_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Ends:
    """Both ends of the connection with one account."""

    client: conductor.ConductorClient
    server: transport.RpcServer | None = None

    def wait_reachable(self) -> None:
        """Raise MessagingUnavailable unless this agent can be reached."""
        if self.server is not None and not self.server.wait_serving(_LISTEN_TIMEOUT_S):
            raise exception.MessagingUnavailable()

    def close(self) -> None:
        """Take nothing more, answer what came, close the connections."""
        if self.server is not None:
            self.server.stop()
        self.client.close()


class Channel(heartbeat.Conductor):
    """Both directions of the channel of one instance."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        instance_id: str,
        credentials: credentials_file.CredentialFile,
    ) -> None:
        """Prepare; connects when something is sent or ``listen`` is called."""
        transport.prepare(conf)
        self._conf = conf
        self._instance_id = instance_id
        self._credentials = credentials
        self._clock = serializer.ChannelClock()
        self._sealer = conductor.make_agent_sealer(
            conf, instance_id, lambda: credentials.current.key, self._clock
        )
        self._lock = threading.Lock()
        self._endpoint: conductor.AgentEndpoint | None = None
        self._ends = _Ends(client=self._make_client())
        self._retired: list[_Ends] = []

    def listen(
        self,
        handlers: Mapping[str, Callable[..., payloads.Payload]],
        on_job: Callable[[payloads.Job], None],
    ) -> None:
        """Begin to take calls and jobs; returns at once."""
        self._endpoint = conductor.AgentEndpoint(
            self._instance_id, sealer=self._sealer, handlers=handlers, on_job=on_job
        )
        with self._lock:
            self._ends = self._connect(self._endpoint, self._ends.client)

    def hello(self, hello: payloads.Hello) -> payloads.Ack:
        """Report the start of the agent, once jobs can reach it: they follow at once."""
        ends = self._ends
        ends.wait_reachable()
        ack = ends.client.hello(hello)
        self._retire()
        return ack

    def heartbeat(self, heartbeat: payloads.Heartbeat) -> None:
        """Report how the instance is."""
        self._ends.client.heartbeat(heartbeat)

    def job_done(self, outcome: payloads.JobOutcome) -> payloads.Ack:
        """Report how a job ended, once the next can reach this agent."""
        ends = self._ends
        ends.wait_reachable()
        ack = ends.client.job_done(outcome)
        self._retire()
        return ack

    def grant(self, request: payloads.GrantRequest) -> payloads.GrantAnswer:
        """Ask for a grant that is good again."""
        return self._ends.client.grant(request)

    def rekey(self, job: payloads.RekeyJob) -> None:
        """Use another key and account from now on, remembered durably; raises GuestError."""
        before = self._credentials.current
        after = self._credentials.replace(job)
        if after == before:
            return
        LOG.info("the key of the guest channel is replaced")
        if after.transport_url == before.transport_url:
            return
        with self._lock:
            self._retired.append(self._ends)
            client = self._make_client()
            self._ends = (
                _Ends(client=client)
                if self._endpoint is None
                else self._connect(self._endpoint, client)
            )

    def _make_client(self) -> conductor.ConductorClient:
        return conductor.ConductorClient(
            self._conf,
            self._instance_id,
            sealer=self._sealer,
            clock=self._clock,
            url=self._credentials.current.transport_url,
        )

    def _connect(
        self, endpoint: conductor.AgentEndpoint, client: conductor.ConductorClient
    ) -> _Ends:
        server = conductor.make_agent_server(
            self._conf,
            self._instance_id,
            endpoint,
            url=self._credentials.current.transport_url,
        )
        server.start()
        client.connect()
        return _Ends(client=client, server=server)

    def _retire(self) -> None:
        """End the connections of earlier accounts, without having anybody wait for that."""
        with self._lock:
            retired, self._retired = self._retired, []
        for ends in retired:
            threading.Thread(target=ends.close, name="retire-channel", daemon=True).start()
