"""The pages that links in messages lead to: to agree to a subscription, and to leave it.

A page asks, and its button acts: programs that follow links in mails to look for harm must neither
subscribe nor unsubscribe anybody. Mail programs leave by a POST to the same link (RFC 8058).
"""

import base64
import hashlib
import html
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, cast

from fastapi import APIRouter, Query, Request, Response

from tintype.messaging.publisher import visible
from tintype.model.errors import TicketExpired, TicketInvalid, TicketUsed
from tintype.model.identity import LOCAL
from tintype.model.subscription import Channel, Mode, Subscription, masked
from tintype.model.subscription_links import MAX_TICKET
from tintype.server.context import context_of
from tintype.server.failures import preferred
from tintype.server.problems import status_of
from tintype.subscriptions import Subscriptions

router = APIRouter(prefix="/v1/subscriptions", include_in_schema=False)

Token = Annotated[str, Query(max_length=MAX_TICKET, pattern=r"^[\x21-\x7e]*$")]

_STYLE = """
:root { color-scheme: light dark; --paper: #f4f2ee; --card: #fff; --ink: #23211f; --soft: #6a655f;
  --line: #dedad3; --accent: #8a4b2a; --on-accent: #fff; --good: #2f6b46; --bad: #9b3030 }
@media (prefers-color-scheme: dark) { :root { --paper: #171615; --card: #211f1e; --ink: #efece8;
  --soft: #aba59d; --line: #3a3734; --accent: #d99a72; --on-accent: #201713;
  --good: #86c79f; --bad: #ef9a9a } }
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem;
  background: var(--paper); color: var(--ink); font: 1.0625rem/1.55 system-ui, sans-serif }
main { width: 100%; max-width: 30rem; padding: 2.25rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 1rem }
.brand { display: flex; align-items: center; gap: .6rem; margin: 0 0 1.75rem; color: var(--soft);
  font-size: .9375rem; font-weight: 600; letter-spacing: .02em }
svg { flex: none }
h1 { margin: 0 0 .75rem; font-size: 1.5rem; line-height: 1.25; text-wrap: balance; overflow-wrap: anywhere }
p { margin: 0 0 1rem }
dl { display: grid; grid-template-columns: auto 1fr; gap: .5rem 1.25rem; margin: 1.5rem 0;
  padding: 1.1rem 0; border: solid var(--line); border-width: 1px 0 }
dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere }
button { width: 100%; min-height: 3rem; padding: .75rem 1.25rem; border: 0; border-radius: .6rem;
  background: var(--accent); color: var(--on-accent); font: inherit; font-weight: 600; cursor: pointer }
button:hover { filter: brightness(1.08) }
button:focus-visible, a:focus-visible { outline: 3px solid var(--accent); outline-offset: 3px }
.small { margin: 1.25rem 0 0; color: var(--soft); font-size: .9375rem }
.done h1 { color: var(--good) }
.failed h1 { color: var(--bad) }
@media (max-width: 26rem) { body { padding: 0; place-items: stretch } main { border: 0; border-radius: 0;
  padding: 1.5rem } dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .6rem } }
"""
_MARK = (
    '<svg width="28" height="28" viewBox="0 0 28 28" aria-hidden="true" fill="none" stroke="currentColor" '
    'stroke-width="2"><rect x="3" y="3" width="22" height="22" rx="3"/><circle cx="14" cy="12" r="4"/>'
    '<path d="M6 23c1.500-4.500 5-6.500 8-6.500s6.500 2 8 6.500"/></svg>'
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title} · Tintype</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main class="{look}">
<p class="brand">{mark}Tintype</p>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cache-control": "no-store",
    # The token in the address stays with us, and our own form still tells where it comes from.
    "referrer-policy": "same-origin",
    "vary": "accept",
}

_CHANNELS = {
    Channel.EMAIL: "By e-mail to",
    Channel.SMS: "By SMS to",
    Channel.WEBHOOK: "By webhook to",
    Channel.SQS: "To the queue",
}
_MODES = {Mode.AT_ONCE: "At once", Mode.HOURLY: "Once an hour, together", Mode.DAILY: "Once a day, together"}
_KINDS = {
    "image.uploaded": "uploaded",
    "image.updated": "changed",
    "image.deleted": "deleted",
    "image.restored": "restored",
    "image.missing": "missing",
    "image.corrupt": "damaged",
    "image.recovered": "recovered",
    "subscription.confirmed": "subscriptions confirmed",
    "subscription.paused": "subscriptions paused",
    "consistency.finished": "checks finished",
}
_KEYS = {
    "kind": "kind of event",
    "ext": "file extension",
    "content_type": "type",
    "bytes": "size in bytes",
    "width": "width in pixels",
    "height": "height in pixels",
    "tags": "tag",
}
_SIGNS = {"=": "is", "<": "is less than", "<=": "is at most", ">": "is more than", ">=": "is at least"}
_OPERATORS = {
    "prefix": "begins with",
    "suffix": "ends with",
    "equals-ignore-case": "is, in any case,",
    "cidr": "is within",
    "anything-but": "is not",
}


@router.get("/confirm")
async def confirm_page(request: Request, token: Token) -> Response:
    """Ask whether the address agrees. Nothing happens before the button is pressed."""

    async def show(subscriptions: Subscriptions) -> Response:
        found = await subscriptions.confirmable(token)
        body = (
            f"<p><strong>{_sender(found)}</strong> would like to tell you about images. You will "
            f"hear nothing unless you agree.</p>\n{_facts(found)}\n"
            '<form method="post"><button type="submit">Yes, tell me</button></form>\n'
            '<p class="small">You did not expect this? Close the page: without your agreement nothing is '
            "sent, and the request ends by itself after two days.</p>"
        )
        return _page("Do you want these messages?", body)

    return await _answered(request, show)


@router.post("/confirm")
async def confirm_by_link(request: Request, token: Token) -> Response:
    """Agree."""

    async def act(subscriptions: Subscriptions) -> Response:
        confirmed = await subscriptions.confirm_by_link(token)
        body = (
            f"<p>From now on <strong>{_sender(confirmed)}</strong> tells you about images.</p>\n"
            f"{_facts(confirmed)}\n"
            f'<p class="small">You can close this page. You leave by the link in every message, or '
            f'<a href="{html.escape(subscriptions.way_out(confirmed))}">here</a>.</p>'
        )
        return _page("You are subscribed", body, look="done")

    return await _answered(request, act)


@router.get("/unsubscribe")
async def unsubscribe_page(request: Request, token: Token) -> Response:
    """Ask whether the address wants to leave."""

    async def show(subscriptions: Subscriptions) -> Response:
        found = await subscriptions.leavable(token)
        if found is None:
            return _left()
        body = (
            f"<p>You hear about images from <strong>{_sender(found)}</strong>.</p>\n{_facts(found)}\n"
            '<form method="post"><button type="submit">Unsubscribe</button></form>\n'
            '<p class="small">To keep the messages, close this page.</p>'
        )
        return _page("Do you want to leave?", body)

    return await _answered(request, show)


@router.post("/unsubscribe")
async def unsubscribe_by_link(request: Request, token: Token) -> Response:
    """Leave: by the button of the page, or by that of a mail program (RFC 8058, section 3.2)."""

    async def act(subscriptions: Subscriptions) -> Response:
        await subscriptions.unsubscribe_by_link(token)
        return _left()

    return await _answered(request, act)


async def _answered(request: Request, ask: Callable[[Subscriptions], Awaitable[Response]]) -> Response:
    """Return what is asked for. Browsers see a link that does not work as a page of the same look."""
    try:
        return await ask(context_of(request).parts.subscriptions)
    except (TicketInvalid, TicketExpired, TicketUsed) as error:
        if preferred(request.headers.get("accept", "")) != "html":
            raise
        request.scope["state"]["problem"] = error
        return _page(error.title, f"<p>{html.escape(str(error))}</p>", look="failed", status=status_of(error))


def _left() -> Response:
    body = (
        "<p>You will hear nothing more of this subscription. A message that is on its way may still "
        'arrive.</p>\n<p class="small">You can close this page.</p>'
    )
    return _page("You have left", body, look="done")


def _page(title: str, body: str, *, look: str = "asking", status: int = 200) -> Response:
    page = _PAGE.format(title=html.escape(title), body=body, style=_STYLE, mark=_MARK, look=look)
    return Response(page, status, _HEADERS, media_type="text/html")


def _sender(subscription: Subscription) -> str:
    """Return who tells of images: without identity there are no names."""
    return "Tintype" if subscription.owner == LOCAL.owner else _escaped(subscription.owner)


def _escaped(text: str) -> str:
    """Return a stranger's words for a page: they neither mark up nor turn around what stands beside them."""
    return html.escape(visible(text))


def _facts(subscription: Subscription) -> str:
    """Return what a subscription is about, as people say it, without giving the address away."""
    told = [(_CHANNELS[subscription.channel], masked(subscription.channel, subscription.address))]
    if subscription.kinds:
        told.append(("When they are", _listed([_KINDS.get(each, each) for each in subscription.kinds])))
    told += [(_key(key), words) for key, words in _conditions(subscription.filter)]
    told.append(("How often", _MODES[subscription.mode]))
    rows = "\n".join(f"<dt>{_escaped(name)}</dt><dd>{_escaped(value)}</dd>" for name, value in told)
    return f"<dl>\n{rows}\n</dl>"


def _conditions(policy: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a filter in words, key by key."""
    told: list[tuple[str, str]] = []
    for key, rules in policy.items():
        if key == "$or":
            ways = [
                " and ".join(f"{_KEYS.get(name, name)} {words}" for name, words in _conditions(each))
                for each in cast("list[dict[str, Any]]", rules)
            ]
            told.append(("either", "; or ".join(ways)))
        else:
            told.append((key, _listed(list(_rules(rules)))))
    return told


def _key(key: str) -> str:
    name = _KEYS.get(key, key)
    return name[:1].upper() + name[1:]


def _rules(rules: Sequence[object]) -> Iterator[str]:
    values = [str(rule) for rule in rules if not isinstance(rule, dict)]
    if values:
        yield f"is {_listed(values)}"
    for rule in rules:
        if isinstance(rule, dict):
            yield _rule(cast("dict[str, Any]", rule))


def _rule(rule: Mapping[str, Any]) -> str:
    ((operator, operand),) = rule.items()
    if operator == "exists":
        return "is there" if operand else "is not there"
    if operator == "numeric":
        bounds = zip(operand[::2], operand[1::2], strict=True)
        return " and ".join(f"{_SIGNS[sign]} {bound:,}" for sign, bound in bounds)
    if isinstance(operand, dict):
        return f"does not begin with {cast('dict[str, Any]', operand)['prefix']}"
    values = cast("list[object]", operand) if isinstance(operand, list) else [operand]
    return f"{_OPERATORS.get(operator, operator)} {_listed([str(each) for each in values])}"


def _listed(words: Sequence[str]) -> str:
    """Return alternatives as a sentence has them."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
