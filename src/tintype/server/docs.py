"""The pages of docs/ that are made from code: `python -m tintype.server.docs docs` (`make docs`)."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, IPvAnyNetwork, SecretStr
from pydantic.fields import FieldInfo

from tintype.server import event_schemas
from tintype.server.app import describe
from tintype.server.problems import KINDS, meaning_of
from tintype.settings import Settings

_NOTICE = "<!-- Made by `make docs`. Change the code that it tells of, not this page. -->"
_ERRORS = """\
# Errors

{notice}

Every error is a problem document (RFC 9457), `application/problem+json`. Programs decide by `code`, which
never changes its meaning, and by `retryable`; `detail` says what is wrong this time. Whoever asks for
`application/json` gets the same members and an `error` with the sentence of `detail`; browsers get a page.
The operator finds the request in the log under `request_id`.

| code | status | what it means | what to do | again? |
|---|---|---|---|---|
{rows}

"Again" tells whether the same request may succeed later. Where `Retry-After` is sent, wait so long.
"""
_SETTINGS = """\
# Settings

{notice}

Settings are environment variables. None is needed: without any, Tintype keeps everything in the data
directory and listens on this machine only. Each setting that names something of AWS moves that one part
to AWS. Lists are JSON: `TINTYPE_IMAGING__DISABLE='["tiff"]'`.
{tables}"""
_TABLE = """
## {title}

{told}

| variable | takes | unless set | |
|---|---|---|---|
{rows}
"""
_KIB = 1024
_NAMES: dict[object, str] = {
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    str: "text",
    Path: "path",
    SecretStr: "secret text",
    IPvAnyNetwork: "networks",
}


def pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    return {
        "errors.md": errors_page(),
        "settings.md": settings_page(),
        "openapi.json": _json(describe().openapi()),
        **{name: _json(schema) for name, schema in event_schemas.documents().items()},
    }


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def errors_page() -> str:
    """Return the page of all errors, by status."""
    rows = [
        _cells(
            f"`{error.code}`",
            str(kind.status),
            meaning_of(error),
            kind.advice,
            "yes" if kind.retryable else "no",
        )
        for error, kind in sorted(KINDS.items(), key=lambda row: (row[1].status, row[0].code))
    ]
    return _ERRORS.format(notice=_NOTICE, rows="\n".join(rows))


def settings_page() -> str:
    """Return the page of all settings, group by group."""
    tables = [_TABLE.format(title=title, told=told, rows="\n".join(rows)) for title, told, rows in _groups()]
    return _SETTINGS.format(notice=_NOTICE, tables="".join(tables))


def _groups() -> Iterator[tuple[str, str, list[str]]]:
    plain = {n: f for n, f in Settings.model_fields.items() if not _is_group(f)}
    yield "The service", "What concerns the process as a whole.", [_row(n, f) for n, f in plain.items()]
    for name, field in Settings.model_fields.items():
        if _is_group(field):
            group: type[BaseModel] = field.annotation  # type: ignore[assignment] # a group, as just asked
            rows = [_row(f"{name}__{each}", of) for each, of in group.model_fields.items()]
            yield name.capitalize(), _told(group), rows
            for each, of in group.model_fields.items():
                if (listed := _listed(of.annotation)) is not None:
                    variable = f"TINTYPE_{name}__{each}".upper()
                    yield (
                        f"Each of `{variable}`",
                        _told(listed),
                        [
                            _cells(f"`{n}`", _kind(f.annotation), _default(n, f), f.description or "")
                            for n, f in listed.model_fields.items()
                        ],
                    )


def _told(group: type[BaseModel]) -> str:
    return " ".join((group.__doc__ or "").split())


def _listed(annotation: object) -> type[BaseModel] | None:
    """Return what a setting is a list of, where that has fields of its own."""
    first = get_args(annotation)[0] if get_origin(annotation) is tuple else None
    return first if isinstance(first, type) and issubclass(first, BaseModel) else None


def _is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _row(name: str, field: FieldInfo) -> str:
    variable = f"`TINTYPE_{name.upper()}`"
    return _cells(variable, _kind(field.annotation), _default(name, field), field.description or "")


def _kind(annotation: object) -> str:
    """Return what a setting takes, in words."""
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in get_args(annotation))
    if origin in (Union, UnionType):
        return " or ".join(_kind(each) for each in get_args(annotation) if each is not NoneType)
    if _listed(annotation) is not None:
        return "list of objects"
    if origin in (frozenset, tuple):
        return f"list of {_kind(get_args(annotation)[0])}"
    return _NAMES[annotation]


def _default(name: str, field: FieldInfo) -> str:
    default = field.default
    if field.is_required():
        return "(needed)"
    if default is None or default == "":
        return ""
    if default == ():
        return "`[]`"
    if isinstance(default, frozenset):
        return f"`{json.dumps(sorted(cast('frozenset[str]', default)))}`"
    if name.endswith("_bytes") and isinstance(default, int) and default >= _KIB:
        return f"`{default}` ({_binary(default)})"
    return f"`{default}`"


def _binary(count: int) -> str:
    for unit in ("KiB", "MiB", "GiB"):
        count //= _KIB
        if count < _KIB:
            return f"{count} {unit}"
    return f"{count} GiB"


def _cells(*texts: str) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(" ".join(text.split()).replace("|", "\\|") for text in texts) + " |"


def main() -> None:
    """Write the pages into the folder that the command line names."""
    folder = Path(sys.argv[1])
    for name, text in pages().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
