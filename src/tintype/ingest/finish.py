"""The one verb that every door ends in: arrived bytes become an image, or a clear refusal."""

from dataclasses import dataclass, replace

from tintype.catalogue.commits import Commits
from tintype.imaging.inspect import Inspector
from tintype.ingest.pressure import Pressure
from tintype.ingest.quotas import Quotas
from tintype.model.body import Body
from tintype.model.checkpoint import checkpoint
from tintype.model.errors import TintypeError, UploadEmpty
from tintype.model.filename import default_filename
from tintype.model.upload import Arrival, Duplicate, Outcome, Replayed, Stored, Upload
from tintype.objects.keys import original_key
from tintype.objects.metadata import describe
from tintype.objects.store import Objects
from tintype.telemetry import Metrics, get_logger

_LOG = get_logger()


@dataclass(frozen=True, slots=True)
class Ingest:
    """Check, do, record. No transaction is open while bytes move, and nothing is cleaned up on error."""

    inspector: Inspector
    objects: Objects
    commits: Commits
    quotas: Quotas
    pressure: Pressure
    metrics: Metrics

    async def finish(self, upload: Upload, body: Body) -> Outcome:
        """Turn arrived bytes into an image; its row and its event commit together.

        A crash before the commit leaves an object without a row, which the consistency check settles.
        A row without its object cannot happen: the key is this attempt's own, and never used again.

        Raises `QuotaExceeded`, and what `Inspector.inspect`, `Objects.put` and `Commits.commit` raise; then
        nothing was stored, or (503) it is not known, and the same request again is safe.
        """
        try:
            with self.pressure.finishing(upload.owner):
                outcome = await self._finish(upload, body)
        except TintypeError as error:
            self.metrics.uploads.labels(upload.protocol, error.code, "").inc()
            _LOG.info("upload.refused", image_id=str(upload.id), protocol=upload.protocol, problem=error.code)
            raise
        self._tell(upload, outcome)
        return outcome

    async def _finish(self, upload: Upload, body: Body) -> Outcome:
        if body.length == 0:
            raise UploadEmpty("The upload has no bytes. Check the file that you are sending.")
        earlier = await self.commits.find_earlier(upload, body.sha256)
        if earlier is not None:
            return earlier
        async with self.quotas.holding(upload, body.length):
            return await self._store(upload, body)

    async def _store(self, upload: Upload, body: Body) -> Outcome:
        with self.metrics.stage("inspect"):
            facts = await self.inspector.inspect(body, upload.owner)
        if not upload.filename:
            upload = replace(upload, filename=default_filename(facts.format))
        checkpoint("before-put")
        with self.metrics.stage("put"), self.commits.soon():
            stored = await self.objects.put(
                original_key(upload.id),
                body,
                content_type=facts.format.value,
                metadata=describe(upload, facts, size=body.length, sha256=body.sha256),
            )
        checkpoint("after-put")
        with self.metrics.stage("commit"):
            return await self.commits.commit(
                Arrival(upload=upload, facts=facts, size=body.length, sha256=body.sha256, etag=stored.etag)
            )

    def _tell(self, upload: Upload, outcome: Outcome) -> None:
        first = outcome.outcome if isinstance(outcome, Replayed) else outcome
        image, name = first.image, type(outcome).__name__.lower()
        self.metrics.uploads.labels(upload.protocol, name, image.facts.format.value).inc()
        if isinstance(outcome, Stored):
            self.metrics.stored_bytes.inc(image.size)
        elif isinstance(first, Duplicate):
            self.metrics.duplicates.inc()
        _LOG.info(
            f"image.{name}",
            image_id=str(image.id),
            protocol=upload.protocol,
            format=image.facts.format.value,
            bytes=image.size,
        )
