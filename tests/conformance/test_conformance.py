"""Tintype and the questions of the conformance suite, one by one; and the page that tells of it."""

from collections.abc import Iterator

import pytest

from conformance import cases as _cases  # noqa: F401 # they register themselves
from conformance import peer_server, table
from conformance.suite import CASES, Case, Server, run
from service import Service

pytestmark = pytest.mark.xdist_group("conformance")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    service = Service(tmp_path_factory.mktemp("conformance") / "data", table.ORIGIN).start()
    yield Server(f"{service.base}/v1/tus")
    service.stop()
    assert "Traceback" not in service.output


def test_there_are_questions_enough() -> None:
    names = {(each.group, each.name) for each in CASES}
    assert len(names) == len(CASES) > 150


@pytest.mark.parametrize("chosen", [pytest.param(each, id=f"{each.group}: {each.name}") for each in CASES])
def test_tintype_answers_as_tus_and_its_clients_expect(server: Server, chosen: Case) -> None:
    result = run(server, chosen)

    assert result.verdict == "pass", result.reason


def test_the_page_tells_of_every_case() -> None:
    page = table.PAGE.read_text()

    assert f"| Tintype | {len(CASES)} | {len(CASES)} | 0 | 0 |" in page, "make conformance"
    assert [each.name for each in CASES if each.name not in page.replace("`", "'")] == []


def test_the_suite_is_no_mirror_of_ours(tmp_path_factory: pytest.TempPathFactory) -> None:
    peer_server.install()
    plain = [each for each in CASES if each.group in ("discovery", "head", "termination")]
    with peer_server.running(tmp_path_factory.mktemp("peer")) as url:
        server = Server(url)
        verdicts = {each.name: run(server, each).verdict for each in plain}

    assert sum(each == "pass" for each in verdicts.values()) > len(plain) / 2, verdicts
