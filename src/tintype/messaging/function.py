"""A function of AWS Lambda that this process asks to do something, and does not wait for."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tintype.aws import aws_session
from tintype.model.errors import StorageUnavailable
from tintype.telemetry import get_logger

_LOG = get_logger()


class Function:
    """Invokes by boto3, which blocks: hence the thread."""

    def __init__(self, name: str, region: str) -> None:
        self._name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="function")
        self._client = aws_session().client(
            "lambda",
            region_name=region,
            config=Config(
                connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 3, "mode": "standard"}
            ),
        )

    async def check(self, run_id: UUID) -> None:
        """Have the function work on a run. Raises `StorageUnavailable` when it cannot be asked."""
        payload = json.dumps({"run": str(run_id)}).encode()
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._thread,
                lambda: self._client.invoke(FunctionName=self._name, InvocationType="Event", Payload=payload),
            )
        except (BotoCoreError, ClientError) as error:
            _LOG.exception("function.refused", function=self._name)
            raise StorageUnavailable(
                f"The function {self._name} cannot be asked to check: {error}", retry_after=30
            ) from error
