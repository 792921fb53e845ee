"""Connections to the demonstration's server: those on which no request comes are closed.

Uvicorn waits for the end of a request's headers as long as the other side likes, and takes as many connections as
there are; a few hundred that say nothing would leave no descriptor for anyone else.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from mofme_jax.restoring.demo_limits import PATIENCE

CONNECTIONS = 512
"""At once; of those on which nothing is being answered, the oldest goes for a new one. Half of the usual 1024
descriptors of a process."""


class ImpatientProtocol(H11Protocol):
    """Uvicorn's protocol, which closes a connection that has had no request for `PATIENCE` to twice as many seconds."""

    _seen: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a connection, for which another may have to go."""
        if len(self.connections) >= CONNECTIONS:
            idle = [other for other in self.connections if isinstance(other, ImpatientProtocol) and other.idle]
            if not idle:
                return transport.abort()
            min(idle, key=lambda other: other.since).transport.abort()
        self.since = self.loop.time()
        super().connection_made(transport)
        self._timer = self.loop.call_later(PATIENCE, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets a connection."""
        if self.transport is None:  # it was never taken
            return
        self._timer.cancel()
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether nothing is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        """Closes the connection if nothing was answered since the last look, and nothing is now."""
        if self.idle and self._seen is self.cycle:
            return self.transport.abort()
        self._seen = self.cycle
        self._timer = self.loop.call_later(PATIENCE, self._look)
