"""The context: what a request's handler may use, from wiring's parts and this process's own state."""

from dataclasses import dataclass

from fastapi import Request

from tintype.catalogue.database import Database
from tintype.ingest.finish import Ingest
from tintype.ingest.receive import Receiver
from tintype.objects.store import Objects
from tintype.server.instance import Instance
from tintype.server.rates import Rates
from tintype.server.readiness import Readiness, readiness_of
from tintype.server.streams import Streams
from tintype.settings import Settings
from tintype.telemetry import Metrics
from tintype.wiring import Parts


@dataclass(frozen=True, slots=True)
class Context:
    """One for each application. `parts` has everything; the properties are what most handlers need."""

    parts: Parts
    instance: Instance
    readiness: Readiness
    rates: Rates
    streams: Streams

    @classmethod
    def of(cls, parts: Parts) -> "Context":
        """Return a context for open parts. Needs a running event loop: the instance begins to look around."""
        instance = Instance.begin()
        readiness = readiness_of(parts, instance)

        def leaving() -> None:
            parts.bell.ring()
            readiness.forget()

        instance.on_drain = leaving
        return cls(parts, instance, readiness, Rates.of(parts.settings.limits), Streams())

    @property
    def settings(self) -> Settings:
        """The settings that the parts were made from."""
        return self.parts.settings

    @property
    def metrics(self) -> Metrics:
        """The counters of this process."""
        return self.parts.metrics

    @property
    def database(self) -> Database:
        """The catalogue's database."""
        return self.parts.database

    @property
    def objects(self) -> Objects:
        """The object store."""
        return self.parts.objects

    @property
    def receiver(self) -> Receiver:
        """What takes bodies from the network."""
        return self.parts.receiver

    @property
    def ingest(self) -> Ingest:
        """The one verb that every upload ends in."""
        return self.parts.ingest


def context_of(request: Request) -> Context:
    """Return the context of the application that serves a request."""
    context: Context = request.app.state.context
    return context
