"""Tintype as on AWS, with a wire to each thing that it leans on: PostgreSQL, S3 and SNS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from faults.proxy import Proxy, proxied, proxied_database_over_tcp
from service import Service

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}
HASTE = {
    "TINTYPE_DATABASE__STATEMENT_TIMEOUT_SECONDS": "1",
    "TINTYPE_DATABASE__SILENCE_SECONDS": "1",
    "TINTYPE_DATABASE__ACQUIRE_TIMEOUT_SECONDS": "1",
    "TINTYPE_DATABASE__COMMIT_TIMEOUT_SECONDS": "2",
    "TINTYPE_OBJECTS__TIMEOUT_SECONDS": "1",
    "TINTYPE_OBJECTS__RETRY_TIMEOUT_SECONDS": "1",
    "TINTYPE_EVENTS__PUBLISH_TIMEOUT_SECONDS": "1",
    "TINTYPE_EVENTS__SUBSCRIBE_TIMEOUT_SECONDS": "2",
    "TINTYPE_CONSISTENCY__EVERY_SECONDS": "0",
}
"""Settings under which nobody waits long."""


@dataclass(frozen=True)
class Wired:
    service: Service
    client: httpx.AsyncClient
    database: Proxy
    store: Proxy
    topic: Proxy

    async def image(self, data: bytes, **params: str) -> httpx.Response:
        """Upload an image."""
        return await self.client.post("/v1/images", params=params, content=data)


@asynccontextmanager
async def wired(
    data_dir: Path, *, database_url: str, s3_url: str, bucket: str, sns_url: str, topic_arn: str, **more: str
) -> AsyncIterator[Wired]:
    """Start a service whose wires can fail."""
    async with (
        proxied_database_over_tcp(database_url) as database,
        proxied(s3_url) as store,
        proxied(sns_url) as topic,
    ):
        environment = {
            "TINTYPE_DATABASE__URL": database.url,
            "TINTYPE_OBJECTS__URL": f"s3://{bucket}",
            "TINTYPE_OBJECTS__ENDPOINT": store.url,
            "TINTYPE_EVENTS__TOPIC_ARN": topic_arn,
            "TINTYPE_EVENTS__ENDPOINT": topic.url,
        }
        service = Service(data_dir, environment | KEYS | HASTE | more)
        await asyncio.to_thread(service.start)
        try:
            async with httpx.AsyncClient(base_url=service.base, timeout=60) as client:
                yield Wired(service, client, database, store, topic)
        finally:
            for each in (database, store, topic):
                each.fail()
            await asyncio.to_thread(service.stop)
