"""The cases: each a rule of the specification, or something that clients in use need."""

import base64
import hashlib
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from uuid import uuid4

import httpx

from conformance.suite import (
    BYTES,
    NotOffered,
    Server,
    add_case,
    case,
    expect,
    gone,
    metadata,
    picture,
    within,
)

CREATION, DEFER, WITH_UPLOAD = "creation", "creation-defer-length", "creation-with-upload"
TERMINATION, EXPIRATION, CHECKSUM, CONCAT = "termination", "expiration", "checksum", "concatenation"

# Discovery


@case("discovery")
def options_answers_200_or_204(server: Server) -> None:
    expect(server.send("OPTIONS", version=None), 200, 204)


@case("discovery")
def options_tells_the_versions(server: Server) -> None:
    assert "1.0.0" in server.send("OPTIONS", version=None).headers["Tus-Version"]


@case("discovery")
def options_tells_extensions_in_known_names(server: Server) -> None:
    known = {CREATION, DEFER, WITH_UPLOAD, TERMINATION, EXPIRATION, CHECKSUM, CONCAT}
    known |= {"checksum-trailer", "concatenation-unfinished"}
    assert server.extensions <= known, server.extensions - known
    assert CREATION in server.extensions


@case("discovery")
def options_ignores_an_unknown_version(server: Server) -> None:
    expect(server.send("OPTIONS", version="0.2.2"), 200, 204)


@case("discovery")
def options_has_no_body(server: Server) -> None:
    assert server.send("OPTIONS", version=None).content == b""


@case("discovery", level="should")
def options_tells_the_maximum_size_as_a_number(server: Server) -> None:
    size = server.send("OPTIONS", version=None).headers.get("Tus-Max-Size")
    if size is None:
        raise NotOffered("no Tus-Max-Size")
    assert size.isdigit(), size
    assert int(size) > 0, size


@case("discovery", extension=CHECKSUM)
def options_lists_checksums_and_sha1_among_them(server: Server) -> None:
    assert "sha1" in server.algorithms


@case("discovery", level="client")
def options_of_an_upload_answers_too(server: Server) -> None:
    url = server.create(10)
    answer = expect(server.send("OPTIONS", url, version=None), 200, 204)
    assert "1.0.0" in answer.headers["Tus-Version"]


# The version


def _refused_version(method: str, version: str | None) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        content = picture(200)
        url = server.create(len(content))
        told = {"Content_Type": BYTES, "Upload_Offset": 0} if method == "PATCH" else {"Upload_Length": 200}
        target = None if method == "POST" else url
        body = content if method == "PATCH" else None
        answer = server.send(method, target, version=version, content=body, **told)
        expect(answer, 412)
        assert "1.0.0" in answer.headers.get("Tus-Version", ""), "412 without Tus-Version"
        assert server.offset(url) == 0, "the request was acted on"

    return ask


for _method in ("POST", "HEAD", "PATCH", "DELETE"):
    for _version in ("0.2.2", "1.0.1", "2.0.0", "nonsense"):
        add_case("version", f"{_method} in version {_version} is refused with 412 and Tus-Version",
                 _refused_version(_method, _version))  # fmt: skip
for _method in ("POST", "PATCH"):
    add_case(
        "version", f"{_method} without Tus-Resumable is refused with 412", _refused_version(_method, None)
    )


def _tells_version(method: str) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        content = picture(200)
        url = server.create(200)
        match method:
            case "POST":
                answer = server.send("POST", Upload_Length=200)
            case "PATCH":
                answer = server.append(url, 0, content)
            case _:
                answer = server.send(method, url)
        assert answer.headers.get("Tus-Resumable") == "1.0.0", answer.headers

    return ask


for _method in ("POST", "HEAD", "PATCH", "DELETE"):
    add_case("version", f"the answer to {_method} has Tus-Resumable", _tells_version(_method))


@case("version")
def a_failure_has_tus_resumable_too(server: Server) -> None:
    url = server.create(200)
    answer = server.append(url, 7, b"x")
    assert answer.headers.get("Tus-Resumable") == "1.0.0"


@case("version")
def a_missing_upload_has_tus_resumable_too(server: Server) -> None:
    answer = server.send("HEAD", f"{server.create(5)}x")
    assert answer.headers.get("Tus-Resumable") == "1.0.0"


# Creation


@case(CREATION, extension=CREATION)
def creation_answers_201_with_location(server: Server) -> None:
    answer = expect(server.send("POST", Upload_Length=300), 201)
    assert answer.headers["Location"]


@case(CREATION, extension=CREATION)
def two_creations_have_two_addresses(server: Server) -> None:
    assert server.create(300) != server.create(300)


@case(CREATION, extension=CREATION)
def a_new_upload_stands_at_zero(server: Server) -> None:
    assert server.offset(server.create(300)) == 0


@case(CREATION, extension=CREATION)
def the_length_is_told_by_head(server: Server) -> None:
    assert server.send("HEAD", server.create(300)).headers["Upload-Length"] == "300"


@case(CREATION, extension=CREATION)
def the_creation_has_no_body(server: Server) -> None:
    assert server.send("POST", Upload_Length=300).content == b""


@case(CREATION, extension=CREATION, level="client")
def the_location_does_not_come_from_a_host_that_the_client_names(server: Server) -> None:
    answer = server.send("POST", Upload_Length=300, X_Forwarded_Host="evil.example")
    assert "evil.example" not in answer.headers["Location"], answer.headers["Location"]


@case(CREATION, extension=CREATION)
def neither_length_nor_defer_is_refused(server: Server) -> None:
    expect(server.send("POST"), 400)


@case(CREATION, extension=CREATION)
def length_and_defer_together_are_refused(server: Server) -> None:
    expect(server.send("POST", Upload_Length=10, Upload_Defer_Length=1), 400)


def _refused_length(value: str, *statuses: int) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        expect(server.send("POST", Upload_Length=value), *statuses)

    return ask


for _value in ("-1", "abc", "1.5", "0x10", "1e3", "+5", "10 bytes", "1,2"):
    add_case(
        CREATION, f"Upload-Length {_value!r} is refused", _refused_length(_value, 400), extension=CREATION
    )
add_case(CREATION, "a length of twenty digits is refused", _refused_length("9" * 20, 400, 413),
         extension=CREATION)  # fmt: skip


@case(CREATION, extension=CREATION)
def a_length_over_the_maximum_is_413(server: Server) -> None:
    if server.max_size is None:
        raise NotOffered("no Tus-Max-Size")
    expect(server.send("POST", Upload_Length=server.max_size + 1), 413)


@case(CREATION, extension=CREATION)
def the_maximum_itself_is_taken(server: Server) -> None:
    if server.max_size is None:
        raise NotOffered("no Tus-Max-Size")
    expect(server.send("POST", Upload_Length=server.max_size), 201)


# Metadata


def _kept_metadata(text: str) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        url = server.create(300, Upload_Metadata=text)
        told = server.send("HEAD", url).headers.get("Upload-Metadata", "")
        assert _pairs(told) == _pairs(text), f"{told!r} instead of {text!r}"

    return ask


def _pairs(text: str) -> set[tuple[str, str]]:
    split = (each.strip().partition(" ") for each in text.split(","))
    return {(key, value.strip()) for key, _, value in split if key}


for _name, _text in {
    "a name": metadata(filename="rome.png"),
    "a name and a type": metadata(filename="rome.png", filetype="image/png"),
    "a name with spaces and accents": metadata(filename="a b é.png"),
    "a name in Chinese": metadata(filename="图片.png"),
    "a name with an emoji": metadata(filename="🦊.png"),
    "a value of bytes that are no text": metadata(filename="x.png", blob=bytes(range(200, 256))),
    "a key without a value": metadata(filename="x.png", is_confidential=None),
    "what Uppy sends": metadata(relativePath="null", name="x.png", type="image/png", filename="x.png"),
    "twenty keys": metadata(**{f"key{n}": str(n) for n in range(20)}),
    "keys with punctuation": ",".join(f"{key} eA==" for key in ("a.b", "a-b", "a_b", "a:b", "a/b")),
}.items():
    add_case("metadata", f"{_name} is told by HEAD as it was sent", _kept_metadata(_text), extension=CREATION)


@case("metadata", level="client", extension=CREATION)
def empty_metadata_is_taken(server: Server) -> None:
    expect(server.send("POST", Upload_Length=300, Upload_Metadata=""), 201)


@case("metadata", extension=CREATION)
def without_metadata_head_tells_none(server: Server) -> None:
    assert "Upload-Metadata" not in server.send("HEAD", server.create(300)).headers


def _refused_metadata(text: str) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        expect(server.send("POST", Upload_Length=10, Upload_Metadata=text), 400)

    return ask


for _name, _text in {
    "a key that comes twice": "filename YQ==,filename Yg==",
    "a value that is not Base64": "filename !!!notbase64",
    "a value in two pieces": "filename YQ== Yg==",
    "an empty key": ", ,filename YQ==",
    "Base64 without its end": "filename YWJjZA=",
}.items():
    add_case("metadata", f"{_name} is refused with 400", _refused_metadata(_text), extension=CREATION)


# HEAD


@case("head")
def head_answers_200_or_204(server: Server) -> None:
    expect(server.send("HEAD", server.create(300)), 200, 204)


@case("head")
def head_is_not_stored_by_caches(server: Server) -> None:
    assert "no-store" in server.send("HEAD", server.create(300)).headers.get("Cache-Control", "")


@case("head")
def head_tells_the_offset_after_each_patch(server: Server) -> None:
    content = picture(300)
    url = server.create(300)
    for start in (0, 100, 200):
        assert server.offset(url) == start
        expect(server.append(url, start, content[start : start + 100]), 204)
    assert server.offset(url) == 300


@case("head")
def head_of_an_unknown_upload_is_404_without_an_offset(server: Server) -> None:
    url = server.create(10)
    gone(server.send("HEAD", url.rpartition("/")[0] + f"/{uuid4()}"))


@case("head")
def head_of_nonsense_is_404_without_an_offset(server: Server) -> None:
    url = server.create(10)
    gone(server.send("HEAD", url.rpartition("/")[0] + "/nonsense"))


@case("head", level="client")
def head_of_a_finished_upload_says_so(server: Server) -> None:
    url = server.upload(picture(300))
    answer = expect(server.send("HEAD", url), 200, 204)
    assert (answer.headers["Upload-Offset"], answer.headers["Upload-Length"]) == ("300", "300")


@case("head", level="client")
def head_asked_often_says_the_same(server: Server) -> None:
    content = picture(300)
    url = server.create(300)
    expect(server.append(url, 0, content[:50]), 204)
    assert [server.offset(url) for _ in range(5)] == [50] * 5


@case("head", level="client")
def after_a_head_its_offset_is_taken(server: Server) -> None:
    content = picture(300)
    url = server.create(300)
    expect(server.append(url, 0, content[:50]), 204)
    expect(server.append(url, server.offset(url), content[50:]), 204)


# PATCH


@case("patch")
def bytes_in_one_go_end_the_upload(server: Server) -> None:
    assert server.offset(server.upload(picture(300))) == 300


@case("patch")
def patch_answers_204_without_a_body(server: Server) -> None:
    content = picture(300)
    answer = expect(server.append(server.create(300), 0, content[:10]), 204)
    assert answer.content == b""


@case("patch")
def patch_tells_the_new_offset(server: Server) -> None:
    content = picture(300)
    assert server.append(server.create(300), 0, content[:10]).headers["Upload-Offset"] == "10"


def _in_chunks(size: int, chunk: int) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        content = picture(size)
        url = server.create(size)
        for start in range(0, size, chunk):
            answer = expect(server.append(url, start, content[start : start + chunk]), 204)
            assert answer.headers["Upload-Offset"] == str(min(start + chunk, size))
        assert server.offset(url) == size

    return ask


for _size, _chunk in ((200, 50), (200, 1), (200, 199), (1000, 333), (200_000, 65_536), (262_144, 65_536),
                      (1_000_000, 400_000), (3_000_000, 3_000_000)):  # fmt: skip
    add_case("patch", f"{_size} bytes in chunks of {_chunk} arrive", _in_chunks(_size, _chunk))


def _wrong_offset(offset: int, done: int) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        content = picture(300)
        url = server.create(300)
        if done:
            expect(server.append(url, 0, content[:done]), 204)
        expect(server.append(url, offset, content[:10]), 409)
        assert server.offset(url) == done, "a refused chunk moved the offset"

    return ask


for _offset, _done in ((1, 0), (299, 0), (0, 100), (99, 100), (101, 100), (5000, 100)):
    add_case("patch", f"an offset of {_offset} where {_done} is right is 409 and changes nothing",
             _wrong_offset(_offset, _done))  # fmt: skip


@case("patch", level="client")
def a_409_tells_the_right_offset_or_head_does(server: Server) -> None:
    content = picture(300)
    url = server.create(300)
    expect(server.append(url, 0, content[:100]), 204)
    answer = expect(server.append(url, 0, content[:100]), 409)
    assert answer.headers.get("Upload-Offset", "100") == "100"
    assert server.offset(url) == 100


def _bad_offset(value: str) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        content = picture(300)
        url = server.create(300)
        expect(server.append(url, 0, content[:10], Upload_Offset=value), 400, 409)
        assert server.offset(url) == 0

    return ask


for _value in ("-1", "abc", "1.5", "0x0", ""):
    add_case("patch", f"Upload-Offset {_value!r} is refused and changes nothing", _bad_offset(_value))


@case("patch")
def patch_without_an_offset_is_refused(server: Server) -> None:
    url = server.create(300)
    expect(server.send("PATCH", url, content=b"x", Content_Type=BYTES), 400, 403, 409)
    assert server.offset(url) == 0


def _wrong_type(value: str | None) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        content = picture(300)
        url = server.create(300)
        expect(server.append(url, 0, content, Content_Type=value), 415)
        assert server.offset(url) == 0

    return ask


for _type in ("application/octet-stream", "image/png", "text/plain", "application/json", None):
    add_case("patch", f"a body of the type {_type} is 415 and changes nothing", _wrong_type(_type))


@case("patch", level="client")
def the_type_is_taken_in_any_case(server: Server) -> None:
    content = picture(300)
    expect(server.append(server.create(300), 0, content, Content_Type="Application/Offset+Octet-Stream"), 204)


@case("patch")
def patch_of_an_unknown_upload_is_404(server: Server) -> None:
    url = server.create(10)
    gone(server.append(url.rpartition("/")[0] + f"/{uuid4()}", 0, b"x"))


@case("patch")
def more_bytes_than_announced_are_refused(server: Server) -> None:
    content = picture(300)
    url = server.create(300)
    expect(server.append(url, 0, content + b"more"), 400, 409, 413)
    assert server.offset(url) < 300, "an upload with too many bytes was finished"


@case("patch")
def more_bytes_than_announced_in_the_last_chunk_are_refused(server: Server) -> None:
    content = picture(300)
    url = server.create(300)
    expect(server.append(url, 0, content[:200]), 204)
    expect(server.append(url, 200, content[200:] + b"more"), 400, 409, 413)
    assert server.offset(url) == 200
    expect(server.append(url, 200, content[200:]), 204)


@case("patch")
def more_bytes_than_announced_without_a_length_are_refused(server: Server) -> None:
    content = picture(300)
    url = server.create(300)
    pieces = iter([content, b"more"])
    head = {"Tus-Resumable": "1.0.0", "Content-Type": BYTES, "Upload-Offset": "0"}
    expect(server.client.patch(url, content=pieces, headers=head), 400, 409, 413)
    assert server.offset(url) < 300


@case("patch")
def a_body_without_a_length_is_taken(server: Server) -> None:
    content = picture(300)
    url = server.create(300)
    head = {"Tus-Resumable": "1.0.0", "Content-Type": BYTES, "Upload-Offset": "0"}
    expect(server.client.patch(url, content=iter([content[:120], content[120:]]), headers=head), 204)
    assert server.offset(url) == 300


@case("patch", level="client")
def an_empty_patch_changes_nothing(server: Server) -> None:
    content = picture(300)
    url = server.create(300)
    expect(server.append(url, 0, content[:100]), 204)
    answer = expect(server.append(url, 100, b""), 204)
    assert answer.headers["Upload-Offset"] == "100"


@case("patch", level="client")
def an_empty_patch_at_the_end_is_taken(server: Server) -> None:
    url = server.upload(picture(300))
    answer = expect(server.append(url, 300, b""), 204)
    assert answer.headers["Upload-Offset"] == "300"


@case("patch")
def a_finished_upload_takes_no_more(server: Server) -> None:
    url = server.upload(picture(300))
    expect(server.append(url, 300, b"more"), 400, 403, 409, 413)
    assert server.offset(url) == 300


@case("patch", level="client")
def a_finished_upload_is_not_written_over(server: Server) -> None:
    url = server.upload(picture(300))
    expect(server.append(url, 0, picture(300)), 403, 404, 409, 410)


@case("patch", level="client")
def a_chunk_whose_answer_was_lost_is_409_then_head_tells(server: Server) -> None:
    content = picture(300)
    url = server.create(300)
    expect(server.append(url, 0, content[:150]), 204)
    expect(server.append(url, 0, content[:150]), 409)
    expect(server.append(url, server.offset(url), content[150:]), 204)


@case("patch", level="client")
def two_at_once_never_interleave(server: Server) -> None:
    content = picture(200_000)
    url = server.create(len(content))
    with ThreadPoolExecutor(2) as both:
        answers = list(both.map(lambda _: server.append(url, 0, content[:100_000]), range(2)))
    statuses = sorted(each.status_code for each in answers)
    assert set(statuses) <= {204, 409, 423, 400}, statuses
    assert 204 in statuses, statuses
    at = server.offset(url)
    assert at == 100_000, at
    expect(server.append(url, at, content[at:]), 204)


@case("patch", level="client")
def uploads_side_by_side_do_not_meet(server: Server) -> None:
    contents = [picture(50_000) for _ in range(8)]
    with ThreadPoolExecutor(8) as all_of_them:
        urls = list(all_of_them.map(server.upload, contents))
    assert len(set(urls)) == 8
    assert {server.offset(url) for url in urls} == {50_000}


# What is cut


def _cut(server: Server, url: str, content: bytes, sent: int) -> None:
    head = (
        f"PATCH {server.path(url)} HTTP/1.1\nHost: {httpx.URL(server.url).netloc.decode()}\n"
        f"Tus-Resumable: 1.0.0\nContent-Type: {BYTES}\nUpload-Offset: 0\nContent-Length: {len(content)}"
    )
    server.raw(head, content[:sent], then=lambda: time.sleep(0.3))


@case("interruption", level="should")
def what_came_before_the_connection_broke_is_kept(server: Server) -> None:
    content = picture(500_000)
    url = server.create(len(content))
    _cut(server, url, content, 300_000)
    within(5, lambda: server.offset(url) > 0, "some of a cut PATCH is kept")


@case("interruption", level="client")
def an_upload_goes_on_after_the_connection_broke(server: Server) -> None:
    content = picture(500_000)
    url = server.create(len(content))
    _cut(server, url, content, 300_000)
    at = 0

    def goes_on() -> bool:
        nonlocal at
        found = server.send("HEAD", url)
        if found.status_code == 423:
            return False
        at = int(found.headers["Upload-Offset"])
        return server.append(url, at, content[at:]).status_code == 204

    within(5, goes_on, "the upload goes on")
    assert server.offset(url) == len(content)


@case("interruption", level="client")
def a_reconnect_takes_over_from_a_connection_that_hangs(server: Server) -> None:
    content = picture(500_000)
    url = server.create(len(content))
    release = threading.Event()
    head = (
        f"PATCH {server.path(url)} HTTP/1.1\nHost: {httpx.URL(server.url).netloc.decode()}\n"
        f"Tus-Resumable: 1.0.0\nContent-Type: {BYTES}\nUpload-Offset: 0\nContent-Length: {len(content)}"
    )

    def hang() -> None:
        release.wait(20)

    hung = threading.Thread(target=lambda: server.raw(head, content[:200_000], then=hang))
    hung.start()
    time.sleep(0.5)
    try:
        began = time.monotonic()
        at = server.offset(url)
        expect(server.append(url, at, content[at:]), 204)
        assert time.monotonic() - began < 2.5, f"{time.monotonic() - began:.1f} s"
    finally:
        release.set()
        hung.join()
    assert server.offset(url) == len(content)


# Method override


@case("override")
def post_may_mean_patch(server: Server) -> None:
    content = picture(300)
    url = server.create(300)
    answer = server.send("POST", url, content=content, Content_Type=BYTES, Upload_Offset=0,
                         X_HTTP_Method_Override="PATCH")  # fmt: skip
    assert expect(answer, 204).headers["Upload-Offset"] == "300"


@case("override")
def post_may_mean_head(server: Server) -> None:
    answer = server.send("POST", server.create(300), X_HTTP_Method_Override="HEAD")
    assert expect(answer, 200, 204).headers["Upload-Offset"] == "0"


@case("override", extension=TERMINATION)
def post_may_mean_delete(server: Server) -> None:
    url = server.create(300)
    expect(server.send("POST", url, X_HTTP_Method_Override="DELETE"), 204)
    gone(server.send("HEAD", url))


@case("override")
def get_may_mean_head(server: Server) -> None:
    answer = server.send("GET", server.create(300), X_HTTP_Method_Override="HEAD")
    assert expect(answer, 200, 204).headers["Upload-Offset"] == "0"


@case("override")
def post_may_mean_patch_and_is_refused_as_one(server: Server) -> None:
    url = server.create(300)
    answer = server.send("POST", url, content=b"x", Content_Type=BYTES, Upload_Offset=5,
                         X_HTTP_Method_Override="PATCH")  # fmt: skip
    expect(answer, 409)


# Creation with upload


@case(WITH_UPLOAD, extension=WITH_UPLOAD)
def a_creation_may_bring_all_bytes(server: Server) -> None:
    content = picture(300)
    answer = expect(server.send("POST", content=content, Upload_Length=300, Content_Type=BYTES), 201)
    assert answer.headers["Upload-Offset"] == "300"
    assert server.offset(server.location(answer)) == 300


@case(WITH_UPLOAD, extension=WITH_UPLOAD)
def a_creation_may_bring_some_bytes(server: Server) -> None:
    content = picture(300)
    answer = expect(server.send("POST", content=content[:120], Upload_Length=300, Content_Type=BYTES), 201)
    at = int(answer.headers["Upload-Offset"])
    assert 0 <= at <= 120
    expect(server.append(server.location(answer), at, content[at:]), 204)


@case(WITH_UPLOAD, extension=WITH_UPLOAD)
def a_creation_with_bytes_has_a_location(server: Server) -> None:
    answer = server.send("POST", content=picture(300), Upload_Length=300, Content_Type=BYTES)
    assert expect(answer, 201).headers["Location"]


@case(WITH_UPLOAD, extension=WITH_UPLOAD)
def a_creation_with_bytes_of_another_type_is_415_or_takes_none(server: Server) -> None:
    answer = server.send("POST", content=picture(300), Upload_Length=300, Content_Type="image/png")
    if expect(answer, 201, 415).status_code == 201:
        assert server.offset(server.location(answer)) == 0


@case(WITH_UPLOAD, extension=WITH_UPLOAD)
def a_creation_with_more_bytes_than_announced_is_refused(server: Server) -> None:
    answer = server.send("POST", content=picture(300) + b"more", Upload_Length=300, Content_Type=BYTES)
    expect(answer, 400, 413)


@case(WITH_UPLOAD, extension=WITH_UPLOAD)
def a_creation_with_bytes_keeps_its_metadata(server: Server) -> None:
    told = metadata(filename="rome.png")
    answer = server.send("POST", content=picture(300), Upload_Length=300, Content_Type=BYTES,
                         Upload_Metadata=told)  # fmt: skip
    found = server.send("HEAD", server.location(expect(answer, 201)))
    assert found.headers["Upload-Metadata"] == told


@case(WITH_UPLOAD, extension=WITH_UPLOAD)
def a_creation_may_bring_bytes_without_a_length_of_the_body(server: Server) -> None:
    content = picture(300)
    head = {"Tus-Resumable": "1.0.0", "Content-Type": BYTES, "Upload-Length": "300"}
    answer = expect(server.client.post(server.url, content=iter([content]), headers=head), 201)
    at = server.offset(server.location(answer))
    assert at == int(answer.headers["Upload-Offset"])


@case(WITH_UPLOAD, extension=CHECKSUM)
def a_creation_with_a_wrong_checksum_takes_nothing(server: Server) -> None:
    if WITH_UPLOAD not in server.extensions:
        raise NotOffered(WITH_UPLOAD)
    answer = server.send("POST", content=picture(300), Upload_Length=300, Content_Type=BYTES,
                         Upload_Checksum=_sum("sha1", b"other"))  # fmt: skip
    expect(answer, 460)


# Deferred length


@case(DEFER, extension=DEFER)
def the_length_may_come_later(server: Server) -> None:
    content = picture(300)
    url = server.create(None)
    expect(server.append(url, 0, content[:100]), 204)
    expect(server.append(url, 100, content[100:], Upload_Length=300), 204)
    assert server.offset(url) == 300


@case(DEFER, extension=DEFER)
def the_length_may_come_with_the_first_bytes(server: Server) -> None:
    content = picture(300)
    url = server.create(None)
    expect(server.append(url, 0, content, Upload_Length=300), 204)
    assert server.send("HEAD", url).headers["Upload-Length"] == "300"


@case(DEFER, extension=DEFER)
def while_unknown_head_says_so(server: Server) -> None:
    found = server.send("HEAD", server.create(None)).headers
    assert found.get("Upload-Defer-Length") == "1"
    assert "Upload-Length" not in found


@case(DEFER, extension=DEFER)
def once_known_head_says_the_length(server: Server) -> None:
    content = picture(300)
    url = server.create(None)
    expect(server.append(url, 0, content[:100], Upload_Length=300), 204)
    found = server.send("HEAD", url).headers
    assert found.get("Upload-Length") == "300"
    assert "Upload-Defer-Length" not in found


@case(DEFER, extension=DEFER)
def once_known_the_length_does_not_change(server: Server) -> None:
    content = picture(300)
    url = server.create(None)
    expect(server.append(url, 0, content[:100], Upload_Length=300), 204)
    expect(server.append(url, 100, content[100:], Upload_Length=400), 400, 403, 409, 413)
    assert server.send("HEAD", url).headers["Upload-Length"] == "300"


@case(DEFER, extension=DEFER, level="client")
def the_same_length_again_is_taken(server: Server) -> None:
    content = picture(300)
    url = server.create(None)
    expect(server.append(url, 0, content[:100], Upload_Length=300), 204)
    expect(server.append(url, 100, content[100:], Upload_Length=300), 204)


@case(DEFER, extension=DEFER)
def a_length_below_what_came_is_refused(server: Server) -> None:
    content = picture(300)
    url = server.create(None)
    expect(server.append(url, 0, content[:200]), 204)
    expect(server.append(url, 200, b"", Upload_Length=100), 400, 403, 409, 413)


@case(DEFER, extension=DEFER)
def a_deferred_length_over_the_maximum_is_refused(server: Server) -> None:
    if server.max_size is None:
        raise NotOffered("no Tus-Max-Size")
    url = server.create(None)
    expect(server.append(url, 0, b"x", Upload_Length=server.max_size + 1), 413)


@case(DEFER, extension=DEFER, level="client")
def the_length_may_come_with_an_empty_patch(server: Server) -> None:
    content = picture(300)
    url = server.create(None)
    expect(server.append(url, 0, content), 204)
    expect(server.append(url, 300, b"", Upload_Length=300), 204)
    assert server.offset(url) == 300


def _bad_defer(value: str) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        expect(server.send("POST", Upload_Defer_Length=value), 400)

    return ask


for _value in ("0", "2", "true", "-1"):
    add_case(DEFER, f"Upload-Defer-Length {_value!r} is refused", _bad_defer(_value), extension=DEFER)


# Termination


@case(TERMINATION, extension=TERMINATION)
def delete_answers_204(server: Server) -> None:
    expect(server.send("DELETE", server.create(300)), 204)


@case(TERMINATION, extension=TERMINATION)
def after_delete_head_finds_nothing(server: Server) -> None:
    url = server.create(300)
    expect(server.send("DELETE", url), 204)
    gone(server.send("HEAD", url))


@case(TERMINATION, extension=TERMINATION)
def after_delete_patch_finds_nothing(server: Server) -> None:
    url = server.create(300)
    expect(server.send("DELETE", url), 204)
    gone(server.append(url, 0, b"x"))


@case(TERMINATION, extension=TERMINATION)
def delete_ends_an_upload_with_bytes(server: Server) -> None:
    url = server.create(300)
    expect(server.append(url, 0, picture(300)[:100]), 204)
    expect(server.send("DELETE", url), 204)
    gone(server.send("HEAD", url))


@case(TERMINATION, extension=TERMINATION)
def a_second_delete_finds_nothing(server: Server) -> None:
    url = server.create(300)
    expect(server.send("DELETE", url), 204)
    expect(server.send("DELETE", url), 404, 410)


@case(TERMINATION, extension=TERMINATION)
def delete_of_an_unknown_upload_is_404(server: Server) -> None:
    url = server.create(10)
    expect(server.send("DELETE", url.rpartition("/")[0] + f"/{uuid4()}"), 403, 404, 410)


@case(TERMINATION, extension=TERMINATION)
def delete_ends_no_other_upload(server: Server) -> None:
    one, other = server.create(300), server.create(300)
    expect(server.send("DELETE", one), 204)
    assert server.offset(other) == 0


@case(TERMINATION, extension=TERMINATION, level="client")
def delete_has_no_body(server: Server) -> None:
    assert server.send("DELETE", server.create(300)).content == b""


# Expiration


def _expires(answer: httpx.Response) -> float:
    text = answer.headers.get("Upload-Expires")
    assert text, "no Upload-Expires"
    assert text.endswith("GMT"), f"{text!r} is no HTTP date"
    return parsedate_to_datetime(text).timestamp()


@case(EXPIRATION, extension=EXPIRATION)
def a_creation_tells_when_it_expires(server: Server) -> None:
    assert _expires(server.send("POST", Upload_Length=300)) > time.time()


@case(EXPIRATION, extension=EXPIRATION)
def an_unfinished_patch_tells_when_the_upload_expires(server: Server) -> None:
    assert _expires(server.append(server.create(300), 0, picture(300)[:10])) > time.time()


@case(EXPIRATION, extension=EXPIRATION, level="client")
def head_tells_when_the_upload_expires(server: Server) -> None:
    assert _expires(server.send("HEAD", server.create(300))) > time.time()


# Checksums


def _sum(name: str, data: bytes) -> str:
    digest = zlib.crc32(data).to_bytes(4) if name == "crc32" else hashlib.new(name, data).digest()
    return f"{name} {base64.b64encode(digest).decode()}"


def _right_checksum(name: str) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        if name not in server.algorithms:
            raise NotOffered(f"no {name}")
        content = picture(300)
        url = server.create(300)
        expect(server.append(url, 0, content[:120], Upload_Checksum=_sum(name, content[:120])), 204)
        expect(server.append(url, 120, content[120:], Upload_Checksum=_sum(name, content[120:])), 204)
        assert server.offset(url) == 300

    return ask


def _wrong_checksum(name: str) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        if name not in server.algorithms:
            raise NotOffered(f"no {name}")
        content = picture(300)
        url = server.create(300)
        expect(server.append(url, 0, content[:120], Upload_Checksum=_sum(name, b"other")), 460)
        assert server.offset(url) == 0, "a chunk with a wrong checksum was kept"
        expect(server.append(url, 0, content[:120], Upload_Checksum=_sum(name, content[:120])), 204)

    return ask


for _name in ("sha1", "sha256", "sha512", "md5", "crc32"):
    add_case(CHECKSUM, f"a right {_name} is taken", _right_checksum(_name), extension=CHECKSUM)
    add_case(
        CHECKSUM, f"a wrong {_name} is 460 and nothing is kept", _wrong_checksum(_name), extension=CHECKSUM
    )


def _bad_checksum(value: str) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        url = server.create(300)
        expect(server.append(url, 0, picture(300)[:100], Upload_Checksum=value), 400)
        assert server.offset(url) == 0

    return ask


for _name, _value in {
    "an unknown algorithm": "sha3 AAAA",
    "a checksum without a value": "sha1",
    "a checksum that is not Base64": "sha1 !!!!",
    "a checksum of another length": "sha1 AAAA",
}.items():
    add_case(CHECKSUM, f"{_name} is 400 and nothing is kept", _bad_checksum(_value), extension=CHECKSUM)


@case(CHECKSUM, extension=CHECKSUM)
def a_wrong_checksum_in_the_last_chunk_does_not_finish_the_upload(server: Server) -> None:
    content = picture(300)
    url = server.create(300)
    expect(server.append(url, 0, content[:200]), 204)
    expect(server.append(url, 200, content[200:], Upload_Checksum=_sum("sha1", b"other")), 460)
    assert server.offset(url) == 200
    expect(server.append(url, 200, content[200:], Upload_Checksum=_sum("sha1", content[200:])), 204)


@case(CHECKSUM, extension=CHECKSUM)
def a_checksum_of_a_large_chunk_is_held_against_all_of_it(server: Server) -> None:
    content = picture(1_500_000)
    url = server.create(len(content))
    changed = content[:700_000] + b"X" + content[700_001:]
    expect(server.append(url, 0, changed, Upload_Checksum=_sum("sha1", content)), 460)
    assert server.offset(url) == 0
    expect(server.append(url, 0, content, Upload_Checksum=_sum("sha1", content)), 204)


@case(CHECKSUM, extension=CHECKSUM)
def a_cut_chunk_with_a_checksum_leaves_nothing(server: Server) -> None:
    content = picture(500_000)
    url = server.create(len(content))
    head = (
        f"PATCH {server.path(url)} HTTP/1.1\nHost: {httpx.URL(server.url).netloc.decode()}\n"
        f"Tus-Resumable: 1.0.0\nContent-Type: {BYTES}\nUpload-Offset: 0\n"
        f"Upload-Checksum: {_sum('sha1', content)}\nContent-Length: {len(content)}"
    )
    server.raw(head, content[:300_000], then=lambda: time.sleep(0.3))
    time.sleep(0.5)
    assert server.offset(url) == 0


# Concatenation


@case(CONCAT, extension=CONCAT)
def parts_are_put_together(server: Server) -> None:
    content = picture(300)
    one, other = server.part(content[:150]), server.part(content[150:])
    answer = expect(server.send("POST", Upload_Concat=f"final;{one} {other}"), 201)
    found = server.send("HEAD", server.location(answer)).headers
    assert (found["Upload-Length"], found.get("Upload-Offset", "300")) == ("300", "300")


@case(CONCAT, extension=CONCAT, level="client")
def parts_may_be_named_by_their_paths(server: Server) -> None:
    content = picture(300)
    one, other = (server.path(server.part(each)) for each in (content[:150], content[150:]))
    expect(server.send("POST", Upload_Concat=f"final;{one} {other}"), 201)


@case(CONCAT, extension=CONCAT, level="client")
def a_space_behind_the_semicolon_is_taken(server: Server) -> None:
    content = picture(300)
    one, other = server.part(content[:150]), server.part(content[150:])
    expect(server.send("POST", Upload_Concat=f"final; {one} {other}"), 201)


@case(CONCAT, extension=CONCAT)
def head_tells_that_an_upload_is_a_part(server: Server) -> None:
    assert (
        server.send("HEAD", server.create(100, Upload_Concat="partial")).headers["Upload-Concat"] == "partial"
    )


@case(CONCAT, extension=CONCAT)
def head_tells_what_an_upload_was_put_together_from(server: Server) -> None:
    content = picture(300)
    one, other = server.part(content[:150]), server.part(content[150:])
    answer = expect(server.send("POST", Upload_Concat=f"final;{one} {other}"), 201)
    told = server.send("HEAD", server.location(answer)).headers["Upload-Concat"]
    assert told.startswith("final;"), told


@case(CONCAT, extension=CONCAT)
def a_final_upload_takes_no_bytes(server: Server) -> None:
    content = picture(300)
    answer = server.send("POST", Upload_Concat=f"final;{server.part(content)}")
    url = server.location(expect(answer, 201))
    expect(server.append(url, 300, b"more"), 403)


@case(CONCAT, extension=CONCAT)
def parts_may_come_side_by_side(server: Server) -> None:
    content = picture(400_000)
    pieces = [content[start : start + 100_000] for start in range(0, 400_000, 100_000)]
    with ThreadPoolExecutor(4) as all_of_them:
        parts = list(all_of_them.map(server.part, pieces))
    expect(server.send("POST", Upload_Concat=f"final;{' '.join(parts)}"), 201)


@case(CONCAT, extension=CONCAT)
def parts_may_come_in_chunks(server: Server) -> None:
    content = picture(300)
    one = server.create(150, Upload_Concat="partial")
    expect(server.append(one, 0, content[:70]), 204)
    expect(server.append(one, 70, content[70:150]), 204)
    other = server.part(content[150:])
    expect(server.send("POST", Upload_Concat=f"final;{one} {other}"), 201)


@case(CONCAT, extension=CONCAT)
def unfinished_parts_are_not_put_together(server: Server) -> None:
    if "concatenation-unfinished" in server.extensions:
        raise NotOffered("concatenation-unfinished")
    content = picture(300)
    one, other = server.part(content[:150]), server.create(150, Upload_Concat="partial")
    expect(server.send("POST", Upload_Concat=f"final;{one} {other}"), 400, 403, 409)


@case(CONCAT, extension=CONCAT)
def an_unknown_part_is_refused(server: Server) -> None:
    one = server.part(picture(300))
    unknown = one.rpartition("/")[0] + f"/{uuid4()}"
    expect(server.send("POST", Upload_Concat=f"final;{one} {unknown}"), 400, 403, 404, 410)


@case(CONCAT, extension=CONCAT)
def what_is_no_part_is_not_put_together(server: Server) -> None:
    content = picture(300)
    one, whole = server.part(content), server.create(300)
    expect(server.send("POST", Upload_Concat=f"final;{one} {whole}"), 400, 403, 404, 409)


def _bad_concat(value: str) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        expect(server.send("POST", Upload_Concat=value), 400)

    return ask


for _value in ("final", "final;", "nonsense", "final;nonsense"):
    add_case(CONCAT, f"Upload-Concat {_value!r} is refused", _bad_concat(_value), extension=CONCAT)


@case(CONCAT, extension=CONCAT)
def a_final_upload_tells_no_metadata_of_its_parts(server: Server) -> None:
    part = server.upload(picture(300), Upload_Concat="partial", Upload_Metadata=metadata(filename="part.png"))
    answer = expect(server.send("POST", Upload_Concat=f"final;{part}"), 201)
    assert "Upload-Metadata" not in server.send("HEAD", server.location(answer)).headers


@case(CONCAT, extension=CONCAT)
def a_final_upload_has_metadata_of_its_own(server: Server) -> None:
    told = metadata(filename="whole.png")
    part = server.part(picture(300))
    answer = expect(server.send("POST", Upload_Concat=f"final;{part}", Upload_Metadata=told), 201)
    assert server.send("HEAD", server.location(answer)).headers["Upload-Metadata"] == told


@case(CONCAT, extension=CONCAT)
def a_finished_part_stands_at_its_end(server: Server) -> None:
    assert server.offset(server.part(picture(300)[:150])) == 150


@case(CONCAT, extension=CONCAT, level="client")
def a_part_may_be_ended(server: Server) -> None:
    if TERMINATION not in server.extensions:
        raise NotOffered(TERMINATION)
    part = server.part(picture(300))
    expect(server.send("DELETE", part), 204)
    gone(server.send("HEAD", part))


# Browsers

EXPOSED = (
    "Location", "Upload-Offset", "Upload-Length", "Upload-Metadata", "Upload-Expires", "Upload-Concat",
    "Upload-Defer-Length", "Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size",
)  # fmt: skip


def _exposes(name: str) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        answer = server.send("POST", Upload_Length=300, Origin="https://shop.example")
        if "Access-Control-Allow-Origin" not in answer.headers:
            raise NotOffered("this origin is not allowed here")
        exposed = answer.headers.get("Access-Control-Expose-Headers", "").lower()
        assert name.lower() in {each.strip() for each in exposed.split(",")}, exposed

    return ask


for _header in EXPOSED:
    add_case("browsers", f"{_header} may be read by a page", _exposes(_header), level="client")


def _allows(name: str) -> Callable[[Server], None]:
    def ask(server: Server) -> None:
        answer = server.client.options(server.url, headers={
            "Origin": "https://shop.example", "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": name.lower(),
        })  # fmt: skip
        if "Access-Control-Allow-Origin" not in answer.headers:
            raise NotOffered("this origin is not allowed here")
        allowed = answer.headers.get("Access-Control-Allow-Headers", "").lower()
        assert name.lower() in {each.strip() for each in allowed.split(",")}, allowed
        assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]

    return ask


for _header in ("Upload-Length", "Upload-Offset", "Upload-Metadata", "Upload-Checksum", "Upload-Concat",
                "Upload-Defer-Length", "Tus-Resumable", "X-HTTP-Method-Override", "Content-Type",
                "Authorization", "X-Requested-With", "X-Request-ID"):  # fmt: skip
    add_case("browsers", f"a page may send {_header}", _allows(_header), level="client")


# What is no picture: asked where the server says that it takes pictures only

NOT_A_PICTURE = b"This is not a picture. " * 20


def _refused_content(server: Server) -> str:
    url = server.create(len(NOT_A_PICTURE))
    answer = server.append(url, 0, NOT_A_PICTURE)
    if answer.status_code == 204:
        raise NotOffered("this server takes any bytes")
    expect(answer, 415, 422)
    return url


@case("rejection", level="client")
def a_rejected_upload_never_looks_finished(server: Server) -> None:
    url = _refused_content(server)
    answer = server.send("HEAD", url)
    if answer.status_code in (200, 204):
        assert int(answer.headers["Upload-Offset"]) < len(NOT_A_PICTURE)


@case("rejection", level="client")
def a_rejected_upload_is_rejected_again_in_the_same_words(server: Server) -> None:
    url = _refused_content(server)
    at = server.offset(url)
    answers = [server.append(url, at, NOT_A_PICTURE[at:]) for _ in range(2)]
    assert len({(each.status_code, each.text) for each in answers}) == 1
    expect(answers[0], 415, 422)
