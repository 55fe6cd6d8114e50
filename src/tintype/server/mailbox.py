"""The mails of a laptop: what would have been sent, to be looked at in a browser."""

import asyncio
import base64
import html
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

from fastapi import APIRouter, Request, Response

from tintype.model.errors import NotFound
from tintype.server.context import context_of

router = APIRouter(prefix="/mail", include_in_schema=False)

SHOWN = 100
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Tintype</title>
<style>
:root {{ color-scheme: light dark; --paper: #f4f2ee; --card: #fff; --ink: #23211f; --soft: #6a655f;
  --line: #dedad3; --accent: #8a4b2a }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #171615; --card: #211f1e; --ink: #efece8;
  --soft: #aba59d; --line: #3a3734; --accent: #d99a72 }} }}
* {{ box-sizing: border-box }}
body {{ margin: 0 auto; max-width: 48rem; padding: 2.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif }}
h1 {{ font-size: 1.375rem; line-height: 1.3; margin: 0 0 .25rem; overflow-wrap: anywhere }}
p {{ color: var(--soft); margin: 0 0 1.5rem; overflow-wrap: anywhere }}
a {{ color: inherit }}
ul {{ list-style: none; margin: 0; padding: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: .75rem; overflow: hidden }}
li + li {{ border-top: 1px solid var(--line) }}
li a {{ display: grid; grid-template-columns: 1fr auto; gap: 0 1rem; padding: .75rem 1.25rem;
  text-decoration: none }}
li a:hover, li a:focus-visible {{ background: var(--paper) }}
li span {{ overflow: hidden; text-overflow: ellipsis; white-space: nowrap }}
li small {{ color: var(--soft) }}
iframe {{ width: 100%; height: max(75vh, 48rem); border: 1px solid var(--line); border-radius: .75rem;
  background: var(--card) }}
@media (max-width: 36rem) {{ li a {{ grid-template-columns: 1fr }} }}
</style>
{body}
</html>
"""
_EMPTY = "<p>No mails yet. Subscribe an address, confirm it here, and upload an image.</p>"


@dataclass(frozen=True, slots=True)
class Mail:
    """A file of the folder."""

    name: str
    message: EmailMessage

    @property
    def subject(self) -> str:
        """In one line."""
        return str(self.message["subject"] or "")

    @property
    def to(self) -> str:
        """The address."""
        return str(self.message["to"] or "")

    @property
    def date(self) -> str:
        """As the mail says it; ours are in UTC."""
        return str(self.message["date"] or "").replace("+0000", "UTC")


@router.get("")
async def mailbox(request: Request) -> Response:
    """Show the newest mails."""
    folder = _folder(request)
    mails = await asyncio.to_thread(_newest, folder)
    rows = "".join(
        f'<li><a href="/mail/{html.escape(mail.name)}"><span>{html.escape(mail.subject)}</span>'
        f"<small>{html.escape(mail.date)}</small>"
        f"<small>{html.escape(mail.to)}</small></a></li>"
        for mail in mails
    )
    body = f"<h1>Mails</h1><p>What Tintype would have sent. The files are in {html.escape(str(folder))}.</p>"
    return _page("Mails", body + (f"<ul>{rows}</ul>" if rows else _EMPTY))


@router.get("/{name}")
async def mail(request: Request, name: str) -> Response:
    """Show one mail as a mail program would: in a frame where nothing runs."""
    folder = _folder(request)
    found = await asyncio.to_thread(_find, folder, name)
    if found is None:
        raise NotFound("There is no such mail. The list is at /mail.")
    shown = html.escape(_html_of(found.message), quote=True)
    subject = html.escape(found.subject)
    body = (
        f'<p><a href="/mail">All mails</a></p><h1>{subject}</h1>'
        f"<p>To {html.escape(found.to)}, {html.escape(found.date)}</p>"
        f'<iframe title="{subject}" sandbox="allow-popups allow-popups-to-escape-sandbox" '
        f'srcdoc="{shown}"></iframe>'
    )
    return _page(found.subject, body)


def _folder(request: Request) -> Path:
    """Return where mails are kept. Raises `NotFound` where they are sent, or are not one person's."""
    context = context_of(request)
    folder = context.parts.mail_folder
    if folder is None or context.settings.identity.mode != "local":
        raise NotFound("Mails are shown on a laptop only, without identity and without a mail server.")
    return folder


def _newest(folder: Path) -> list[Mail]:
    files = sorted(folder.glob("*.eml"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [_read(path) for path in files[:SHOWN]]


def _find(folder: Path, name: str) -> Mail | None:
    known = {path.name: path for path in folder.glob("*.eml")}
    return _read(known[name]) if name in known else None


def _read(path: Path) -> Mail:
    message = message_from_bytes(path.read_bytes(), policy=default)
    return Mail(path.name, message)


def _html_of(message: EmailMessage) -> str:
    """Return a mail's HTML with its pictures in it, and with links that open beside this page."""
    part = message.get_body(("html",))
    text = "" if part is None else str(part.get_content())
    for each in message.walk():
        name = str(each.get("content-id", "")).strip("<>")
        data = each.get_payload(decode=True)
        if name and isinstance(data, bytes):
            encoded = base64.b64encode(data).decode()
            text = text.replace(f'"cid:{name}"', f'"data:{each.get_content_type()};base64,{encoded}"')
    return text.replace("<head>", '<head><base target="_blank">', 1)


def _page(title: str, body: str) -> Response:
    text = _PAGE.format(title=html.escape(title), body=body)
    return Response(text, media_type="text/html", headers={"content-security-policy": POLICY})
