"""Subscriptions at Amazon SNS: made, changed, confirmed, listed and given up, and texts to one phone."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tintype.aws import aws_session
from tintype.model.errors import (
    AddressRefused,
    CodeInvalid,
    MessagingUnavailable,
    SubscriptionExists,
)
from tintype.model.subscription import Channel
from tintype.settings import EventsSettings

if TYPE_CHECKING:  # the stubs are not installed where the service runs
    from types_boto3_sns import SNSClient

PENDING = "PendingConfirmation"
"""What a list says in the place of the ARN (SNS, API_ListSubscriptionsByTopic)."""

NOTHING: Mapping[str, Any] = {"kind": ["paused"]}
"""A policy that no event of ours matches: SNS itself cannot pause a subscription."""

TRIES = 4
"""Of one call; botocore pauses between them when SNS throttles. It allows 30 lists a second, and 100 of
the other calls, in an account (SNS, service quotas)."""

_TOKEN = re.compile(r"[0-9a-f]{64,}")
_REFUSALS = {"InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid", "ValidationError"}
_FULL = {"SubscriptionLimitExceeded", "FilterPolicyLimitExceeded"}
_GONE = {"NotFound", "NotFoundException"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AtSns:
    """A subscription as SNS has it."""

    arn: str
    pending: bool


class SnsSubscriptions:
    """The subscriptions of one topic, over boto3, which blocks: hence the thread."""

    def __init__(self, settings: EventsSettings) -> None:
        if settings.topic_arn is None:
            raise ValueError("SNS needs a topic: set TINTYPE_EVENTS__TOPIC_ARN.")
        self._topic = settings.topic_arn
        self._endpoint = settings.endpoint
        self._patience = settings.subscribe_timeout_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sns-subscriptions")

    async def subscribe(self, channel: Channel, address: str, policy: Mapping[str, Any]) -> AtSns:
        """Have the topic tell an address what the policy matches, once the address has agreed.

        SNS asks a mail address to agree, and asks again when this is called again meanwhile. Queues of
        the account, and phones, need not be asked. Raises `AddressRefused`; `SubscriptionExists` where
        the address listens to the topic already, by somebody's doing; `MessagingUnavailable`.
        """
        attributes = {"FilterPolicy": json.dumps(policy), "FilterPolicyScope": "MessageAttributes"}
        try:
            arn = await self._call(lambda sns: self._subscribe(sns, channel, address, attributes))
        except _AnotherPolicy:
            return await self._take_over(channel, address, policy)
        return await self._look_at(arn)

    async def _take_over(self, channel: Channel, address: str, policy: Mapping[str, Any]) -> AtSns:
        """Give a subscription that waits to be confirmed our policy: its address is still to agree."""
        arn = await self._call(lambda sns: self._subscribe(sns, channel, address, {}))
        known = await self._look_at(arn)
        if not known.pending:
            raise SubscriptionExists("The address has a subscription already, which SNS knows and we do not.")
        await self.restrict(arn, policy)
        return known

    async def _look_at(self, arn: str) -> AtSns:
        known = await self.look(arn)
        if known is None:
            raise MessagingUnavailable("SNS does not know a subscription that it has just made.")
        return known

    async def restrict(self, arn: str, policy: Mapping[str, Any]) -> bool:
        """Give a subscription another policy, which acts within 15 minutes; return False when it is gone.

        Raises `AddressRefused` and `MessagingUnavailable`.
        """
        text = json.dumps(policy)
        return await self._unless_gone(
            lambda sns: sns.set_subscription_attributes(
                SubscriptionArn=arn, AttributeName="FilterPolicy", AttributeValue=text
            )
        )

    async def look(self, arn: str) -> AtSns | None:
        """Return the subscription; None when SNS says for certain that there is none."""
        told: dict[str, str] = {}
        found = await self._unless_gone(
            lambda sns: told.update(sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"])
        )
        return AtSns(arn, told.get(PENDING, "false").lower() == "true") if found else None

    async def confirm(self, text: str) -> str:
        """Agree with the token of SNS's mail, or the link that has it; return the subscription's ARN.

        Whoever agrees this way leaves through us only: a link in a forwarded mail ends nothing
        (`AuthenticateOnUnsubscribe`). Raises `CodeInvalid` and `MessagingUnavailable`.
        """
        token = _TOKEN.search(text)
        if token is None:
            raise CodeInvalid(
                "The mail of SNS has a link; send the link, or what stands behind `Token=` in it."
            )
        try:
            answer = await self._call(
                lambda sns: sns.confirm_subscription(
                    TopicArn=self._topic, Token=token[0], AuthenticateOnUnsubscribe="true"
                )
            )
        except AddressRefused as error:
            raise CodeInvalid("SNS does not take the token: it is another one, or it is over.") from error
        return answer["SubscriptionArn"]

    async def unsubscribe(self, arn: str) -> None:
        """Give a subscription up; a pending one SNS lets go by itself. Raises `MessagingUnavailable`."""
        try:
            await self._unless_gone(lambda sns: sns.unsubscribe(SubscriptionArn=arn))
        except AddressRefused:
            await self._unless_gone(
                lambda sns: sns.set_subscription_attributes(
                    SubscriptionArn=arn, AttributeName="FilterPolicy", AttributeValue=json.dumps(NOTHING)
                )
            )

    async def confirmed(self) -> set[str]:
        """Return the ARNs of all confirmed subscriptions of the topic, page by page."""
        found: set[str] = set()
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                found |= {arn for arn in page if arn.startswith("arn:")}
        return found

    async def _pages(self) -> AsyncGenerator[list[str]]:
        token = ""
        while True:
            asked = {"TopicArn": self._topic} | ({"NextToken": token} if token else {})
            answer = await self._call(lambda sns, asked=asked: sns.list_subscriptions_by_topic(**asked))
            yield [each.get("SubscriptionArn", "") for each in answer.get("Subscriptions", [])]
            token = answer.get("NextToken", "")
            if not token:
                return

    async def send_text(self, phone: str, text: str) -> None:
        """Send one SMS to one phone. Raises `AddressRefused` and `MessagingUnavailable`."""
        await self._call(
            lambda sns: sns.publish(
                PhoneNumber=phone,
                Message=text,
                MessageAttributes={
                    "AWS.SNS.SMS.SMSType": {"DataType": "String", "StringValue": "Transactional"}
                },
            )
        )

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)

    @cached_property
    def _client(self) -> "SNSClient":
        """Made in the thread, at the first call: it reads files, and may ask the instance for its role."""
        return aws_session().client(
            "sns",
            region_name=self._topic.split(":")[3],
            endpoint_url=self._endpoint,
            config=Config(
                connect_timeout=2,
                read_timeout=5,
                retries={"total_max_attempts": TRIES, "mode": "standard"},
                max_pool_connections=1,
            ),
        )

    def _subscribe(self, sns: "SNSClient", channel: Channel, address: str, attributes: dict[str, str]) -> str:
        answer = sns.subscribe(
            TopicArn=self._topic,
            Protocol=channel.value,
            Endpoint=address,
            Attributes=attributes,
            ReturnSubscriptionArn=True,  # also while it is pending
        )
        return answer["SubscriptionArn"]

    async def _unless_gone(self, call: "Callable[[SNSClient], object]") -> bool:
        try:
            await self._call(call)
        except _Gone:
            return False
        return True

    async def _call(self, call: "Callable[[SNSClient], T]") -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._patience):
                return await loop.run_in_executor(self._thread, lambda: call(self._client))
        except ClientError as error:
            raise _translated(error) from error
        except (BotoCoreError, TimeoutError) as error:
            raise MessagingUnavailable("SNS does not answer. Try again shortly.", retry_after=5) from error


class _Gone(Exception):
    """SNS says for certain that there is no such subscription."""


class _AnotherPolicy(Exception):
    """The address has a subscription with another policy."""


def _translated(error: ClientError) -> Exception:
    told = error.response.get("Error", {})
    code, text = told.get("Code", ""), told.get("Message", "")
    if code in _GONE:
        return _Gone(text)
    if code in _REFUSALS and "already exists" in text:
        return _AnotherPolicy(text)
    if code in _REFUSALS:
        return AddressRefused(f"SNS refuses this: {text}")
    if code in _FULL:
        return MessagingUnavailable(
            "The topic has as many subscriptions with filters as SNS allows (200 unless AWS has raised "
            "it). The operator can have that raised, or have mail sent by SES.",
            retry_after=3600,
        )
    return MessagingUnavailable(f"SNS does not do this now: {code}.", retry_after=5)
