"""docs/conformance.md: what the suite finds of Tintype and of @tus/server, side by side.

`python -m conformance.table` makes it anew.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from conformance import cases as _cases  # noqa: F401 # they register themselves
from conformance import peer_server
from conformance.suite import CASES, Result, Server, run
from service import Service

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
ORIGIN = {"TINTYPE_CORS_ORIGINS": '["https://shop.example"]'}
MARKS = {"pass": "yes", "fail": "**no**", "not offered": "-"}

_HEAD = """\
# Conformance

How Tintype answers the questions of `tests/conformance`, a suite that knows nothing of the server but its
address, and how [@tus/server](https://www.npmjs.com/package/@tus/server) {version}, the reference server for
Node, answers the same. This page is generated: `make conformance`.

Put the suite to any server: `cd tests && ../.venv/bin/python -m conformance http://127.0.0.1:1080/files/`.

A case is a **must** where tus 1.0.0 says so, a *should* where it recommends it, and *clients* where clients
in use need it though the specification leaves it open. `-`: the server does not announce the extension, or
takes no pages of other origins.

| | cases | yes | no | - |
|---|---|---|---|---|
| Tintype | {own} |
| @tus/server {version} | {peer} |
"""


def results_of(url: str) -> list[Result]:
    """Put every case to a server."""
    server = Server(url)
    return [run(server, each) for each in CASES]


def page(own: Sequence[Result], peer: Sequence[Result], version: str) -> str:
    """Return the page."""
    lines = [_HEAD.format(version=version, own=_counts(own), peer=_counts(peer))]
    group = ""
    for ours, theirs in zip(own, peer, strict=True):
        if ours.case.group != group:
            group = ours.case.group
            lines.append(f"\n## {group}\n\n| case | | Tintype | @tus/server |\n|---|---|---|---|\n")
        level = {"must": "must", "should": "*should*", "client": "*clients*"}[ours.case.level]
        lines.append(
            f"| {_cell(ours.case.name)} | {level} | {MARKS[ours.verdict]} | {MARKS[theirs.verdict]} |\n"
        )
    for name, found in (("Tintype", own), (f"@tus/server {version}", peer)):
        failed = [each for each in found if each.verdict == "fail"]
        if failed:
            lines.append(f"\n## Where {name} differs\n\n")
            lines += [f"- {_cell(each.case.name)}: {_cell(each.reason)}\n" for each in failed]
    return "".join(lines)


def main() -> None:
    """Start both servers, ask both, and write the page."""
    peer_server.install()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder) / "data", ORIGIN).start()
        try:
            own = results_of(f"{service.base}/v1/tus")
        finally:
            service.stop()
        with peer_server.running(Path(folder) / "peer") as url:
            peer = results_of(url)
    PAGE.write_text(page(own, peer, peer_server.version()))
    sys.stdout.write(f"{PAGE}: {_counts(own)} | {_counts(peer)}\n")


def _counts(results: Sequence[Result]) -> str:
    counted = Counter(each.verdict for each in results)
    numbers = [len(results), counted["pass"], counted["fail"], counted["not offered"]]
    return " | ".join(map(str, numbers))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'").replace("<", "&lt;").replace("\\n", "")[:150]


if __name__ == "__main__":
    main()
