"""The guest channel as the agent uses it: reports up, calls and jobs down, one key for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from oslo_config import cfg

from trove.common import exception
from trove.guestagent import heartbeat
from trove.rpc import conductor, payloads, serializer, transport

#: Longest a report waits for this agent to be reachable itself, before it is tried again.
_LISTEN_TIMEOUT_S = 1.0


class Channel(heartbeat.Conductor):
    """Both directions of the channel of one instance."""

    def __init__(self, conf: cfg.ConfigOpts, instance_id: str, key: bytes) -> None:
        """Prepare; connects when something is sent or ``listen`` is called."""
        transport.prepare(conf)
        self._conf = conf
        self._instance_id = instance_id
        clock = serializer.ChannelClock()
        self._sealer = conductor.make_agent_sealer(conf, instance_id, key, clock)
        self._client = conductor.ConductorClient(
            conf, instance_id, sealer=self._sealer, clock=clock
        )
        self._server: transport.RpcServer | None = None

    def listen(
        self,
        handlers: Mapping[str, Callable[..., payloads.Payload]],
        on_job: Callable[[payloads.Job], None],
    ) -> None:
        """Begin to take calls and jobs; returns at once."""
        endpoint = conductor.AgentEndpoint(
            self._instance_id, sealer=self._sealer, handlers=handlers, on_job=on_job
        )
        self._server = conductor.make_agent_server(self._conf, self._instance_id, endpoint)
        self._server.start()
        self._client.connect()

    def hello(self, hello: payloads.Hello) -> payloads.Ack:
        """Report the start of the agent, once jobs can reach it: they follow at once."""
        if self._server is not None and not self._server.wait_serving(_LISTEN_TIMEOUT_S):
            raise exception.MessagingUnavailable()
        return self._client.hello(hello)

    def heartbeat(self, heartbeat: payloads.Heartbeat) -> None:
        """Report how the instance is."""
        self._client.heartbeat(heartbeat)

    def job_done(self, outcome: payloads.JobOutcome) -> payloads.Ack:
        """Report how a job ended."""
        return self._client.job_done(outcome)
