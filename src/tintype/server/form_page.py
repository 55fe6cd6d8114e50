"""A page to upload pictures with: HTML alone, no script, for any browser and any assistive technology."""

import html
from typing import Any

from fastapi import APIRouter, Request, Response

from tintype.model.identity import Grant
from tintype.model.image import Format
from tintype.server.access import principal_of
from tintype.server.context import Context, context_of
from tintype.server.uploads import pause_of, received_form

router = APIRouter(prefix="/u/{token}/form", include_in_schema=False)

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_MEGA = 1_000_000

# Contrast of all text is 7:1 or better in both colour schemes (WCAG 2.2, 1.4.6).
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; --ink: #1c1a17; --paper: #f6f3ee; --card: #fffdf9; --line: #cfc6b8;
  --quiet: #504a41; --accent: #7a2e12; --on-accent: #fff; --good: #1d5331; --bad: #8c1d18 }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #f2ede4; --paper: #171513; --card: #211e1b;
  --line: #4a433a; --quiet: #c9c0b2; --accent: #f0b48f; --on-accent: #241006; --good: #9fdcb4;
  --bad: #ffb4ab }} }}
* {{ box-sizing: border-box }}
body {{ margin: 0; min-height: 100vh; padding: clamp(1rem, 6vw, 5rem) 1rem; background: var(--paper);
  color: var(--ink); font: 1.0625rem/1.55 system-ui, sans-serif }}
main {{ max-width: 34rem; margin: 0 auto; padding: clamp(1.25rem, 4vw, 2.5rem); background: var(--card);
  border: 1px solid var(--line); border-radius: 1rem }}
h1 {{ margin: 0 0 .5rem; font-size: 1.75rem; line-height: 1.2; text-wrap: balance }}
p {{ margin: 0 0 1.25rem }}
.quiet {{ color: var(--quiet) }}
label {{ display: block; margin-bottom: .5rem; font-weight: 600 }}
input[type=file] {{ width: 100%; padding: 1.25rem 1rem; border: 2px dashed var(--line); border-radius: .75rem;
  background: var(--paper); color: inherit; font: inherit }}
input::file-selector-button {{ margin-right: 1rem; padding: .5rem 1rem; border: 1px solid var(--ink);
  border-radius: .5rem; background: var(--card); color: inherit; font: inherit }}
button, .button {{ display: inline-block; margin-top: 1.5rem; padding: .75rem 1.75rem; border: 0;
  border-radius: .5rem; background: var(--accent); color: var(--on-accent); font: inherit; font-weight: 600;
  text-decoration: none; cursor: pointer }}
:focus-visible {{ outline: 3px solid var(--accent); outline-offset: 3px }}
ul {{ margin: 0; padding: 0; list-style: none }}
li {{ padding: .85rem 0; border-top: 1px solid var(--line); overflow-wrap: anywhere }}
li strong {{ display: block }}
.good {{ color: var(--good) }}
.bad {{ color: var(--bad) }}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
_FORM = """<h1>Upload pictures</h1>
<p class="quiet" id="limits">{limits}</p>
<form method="post" enctype="multipart/form-data">
<label for="files">{label}</label>
<input id="files" name="files" type="file" accept="{accept}" aria-describedby="limits" required{multiple}>
<button type="submit">Upload</button>
</form>"""
_RESULTS = """<h1>{heading}</h1>
<ul>
{items}
</ul>
<a class="button" href="form">Upload more</a>"""


@router.get("")
async def upload_form(request: Request) -> Response:
    """Show the form, with what its token allows."""
    context, grant = context_of(request), principal_of(request).grant
    accepted = _accepted(context, grant)
    several = grant is None or grant.uses > 1
    body = _FORM.format(
        limits=html.escape(_limits(context, grant, accepted)),
        label="Pictures" if several else "Picture",
        accept=", ".join(each.value for each in accepted),
        multiple=" multiple" if several else "",
    )
    return _page("Upload pictures", body, 200)


@router.post("")
async def upload_by_form(request: Request) -> Response:
    """Store the pictures of the form, and show what became of each."""
    async with received_form(request) as received:
        results = await received.results()
    stored = sum("image" in result for result in results)
    heading = _heading(stored, len(results))
    body = _RESULTS.format(heading=html.escape(heading), items="\n".join(_item(result) for result in results))
    statuses = {result["status"] for result in results}
    status = 207 if 0 < stored < len(results) else max(statuses)
    answer = _page(heading, body, status)
    answer.headers.update(pause_of(results))
    return answer


def _item(result: dict[str, Any]) -> str:
    """Return what became of one file."""
    if "image" in result:
        image = result["image"]
        facts = f"{image['width']} × {image['height']} pixels, {_size(image['bytes'])}"  # noqa: RUF001 # as people write it
        name = html.escape(image["filename"])
        return f'<li><strong>{name}</strong><span class="good">Stored.</span> {html.escape(facts)}</li>'
    name = html.escape(result["filename"] or "A file without a name")
    problem = result["problem"]
    return (
        f'<li><strong>{name}</strong><span class="bad">{html.escape(problem["title"])}.</span> '
        f"{html.escape(problem['detail'])}</li>"
    )


def _heading(stored: int, sent: int) -> str:
    if stored == sent:
        return "Your picture is stored" if sent == 1 else f"Your {sent} pictures are stored"
    if stored == 0:
        return "Nothing was stored"
    return f"{stored} of {sent} pictures are stored"


def _limits(context: Context, grant: Grant | None, accepted: list[Format]) -> str:
    largest = context.settings.limits.max_upload_bytes
    most = context.settings.limits.max_files
    if grant is not None:
        largest, most = min(largest, grant.max_bytes), min(most, grant.uses)
    kinds = [each.label for each in accepted]
    listed = kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"
    if most == 1:
        return f"One picture: {listed}, up to {_size(largest)}."
    return f"Up to {most} pictures: {listed}, each up to {_size(largest)}."


def _accepted(context: Context, grant: Grant | None) -> list[Format]:
    accepted = context.parts.inspector.accepted_formats()
    if grant is None or not grant.types:
        return list(accepted)
    return [each for each in accepted if each.value in grant.types]


def _size(count: int) -> str:
    return f"{count / _MEGA:.1f} MB" if count >= _MEGA else f"{max(1, round(count / 1000))} kB"


def _page(title: str, body: str, status: int) -> Response:
    page = _PAGE.format(title=html.escape(title), body=body)
    headers = {"content-security-policy": POLICY, "cache-control": "no-store"}
    return Response(page, status, headers, media_type="text/html")
