"""Over a real socket: pages, votes, parts of files, and nothing that was not given."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hh_train.arena.booth import VOTES_FILE, Booth, read_votes
from hh_train.arena.contest import Program
from hh_train.arena.server import ArenaServer, is_loopback
from hh_train.arena.trials import Pairing

MakeProgram = Callable[..., Program]


@contextmanager
def serving(booth: Booth, **settings: Any) -> Iterator[str]:
    server = ArenaServer(booth, port=0, **settings)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server.url
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


class LateClock:
    """Far ahead of what was given out, so that no vote is too quick."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 100.0
        return self.now


@pytest.fixture
def booth(tmp_path: Path, make_program: MakeProgram) -> Iterator[Booth]:
    program = make_program(systems=["teacher", "student"])
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    booth = Booth(
        program=program,
        pairing=Pairing(contests=program.contests, catch_every=None),
        folder=tmp_path / "arena",
        clock=LateClock(),
    )
    yield booth
    booth.close()


@pytest.fixture
def url(booth: Booth) -> Iterator[str]:
    with serving(booth) as address:
        yield address


class Answer:
    """A response that has been read."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.body = response.status, response.read()
        self.headers = {name.lower(): value for name, value in response.getheaders()}

    @property
    def fields(self) -> Any:
        return json.loads(self.body)


def ask(url: str, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """Sends the path as it is: other clients would tidy it up first."""
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)) as connection:
        connection.putrequest(method, path, skip_host="Host" in headers)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {**named, **({} if body is None else {"Content-Length": str(len(body))})}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        return Answer(connection.getresponse())


def post(url: str, path: str, fields: Any, **headers: str) -> Answer:
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return ask(url, path, method="POST", body=body, **{"Content_Type": "application/json", **headers})


def ballot(trial: str, **change: Any) -> dict[str, Any]:
    return {"trial": trial, "rater": "ann", "winner": "left", "plays": {"left": 1, "right": 1}, **change}


@pytest.mark.parametrize(
    ("path", "kind"), [("/", "text/html"), ("/arena.js", "text/javascript"), ("/arena.css", "text/css")]
)
def test_the_page_and_its_parts_are_served(url: str, path: str, kind: str) -> None:
    answer = ask(url, path)
    assert answer.status == 200 and answer.headers["content-type"].startswith(kind) and len(answer.body) > 500
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


def test_a_session_over_the_wire(url: str, booth: Booth, tmp_path: Path) -> None:
    trials = []
    while not (invitation := post(url, "/trial", {"rater": "ann"}).fields).get("finished"):
        trials.append(invitation["trial"])
        assert post(url, "/vote", ballot(invitation["trial"], lips="tie")).fields == {"counted": True}
    votes, _ = read_votes(tmp_path / "arena")
    assert [vote.trial.id for vote in votes] == trials and len(trials) == 4
    assert all((vote.winner, vote.lips) == ("left", "tie") for vote in votes)


def test_clips_come_whole_and_in_parts(url: str, booth: Booth) -> None:
    invitation = post(url, "/trial", {"rater": "ann"}).fields
    for side in ("left", "right"):
        content = booth.media(invitation["trial"], side).read_bytes()
        whole = ask(url, invitation[side])
        assert (whole.status, whole.body) == (200, content)
        assert whole.headers["content-type"] == "video/mp4" and whole.headers["accept-ranges"] == "bytes"
        part = ask(url, invitation[side], Range="bytes=10-19")
        assert (part.status, part.body) == (206, content[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"
        assert ask(url, invitation[side], Range="bytes=-5").body == content[-5:]
        assert ask(url, invitation[side], Range="bytes=0-").body == content
        assert ask(url, invitation[side], Range="bytes=99999999-").status == 416
        head = ask(url, invitation[side], method="HEAD")
        assert (head.status, head.body) == (200, b"") and int(head.headers["content-length"]) == len(content)


def test_nothing_that_is_sent_tells_whose_a_clip_is(url: str, booth: Booth) -> None:
    answer = post(url, "/trial", {"rater": "ann"})
    media = [ask(url, answer.fields[side]) for side in ("left", "right")]
    said = answer.body + repr([m.headers for m in media]).encode()
    for name in (
        b"teacher",
        b"student",
        b"prompt-",
        b"/tmp",
        booth.media(answer.fields["trial"], "left").stem.encode(),
    ):
        assert name not in said
    assert {m.headers["last-modified"] for m in media} == {"Thu, 01 Jan 1970 00:00:00 GMT"}
    assert len({m.headers["etag"] for m in media}) == 2


NOT_GIVEN = (
    "/secret.mp4", "/../secret.mp4", "/media/../../secret.mp4", "/media/%2e%2e/%2e%2e/secret.mp4",
    "/media/{trial}/../../../secret.mp4", "/media/{trial}/..%2f..%2fsecret.mp4", "/media/x/left.mp4",
    "/media/{trial}/middle.mp4", "/media/{trial}/left", "/media/{trial}/", "/media/", "//etc/passwd", "/etc/passwd",
    "/media/{trial}%00/left.mp4", "/clips/prompt-0-teacher.mp4", "/arena/votes.jsonl", "/votes.jsonl",
    "/media/..%5c..%5csecret.mp4/left.mp4", "/page/arena.html", "/booth.py", "/../booth.py",
)  # fmt: skip


def test_a_file_that_was_not_given_cannot_be_had(url: str) -> None:
    trial = post(url, "/trial", {"rater": "ann"}).fields["trial"]
    for path in NOT_GIVEN:
        answer = ask(url, path.format(trial=trial))
        assert answer.status == 404, path
        assert not any(word in answer.body for word in (b"secret", b"teacher", b"root:")), path


def test_votes_are_posted_and_in_no_other_way(url: str, booth: Booth) -> None:
    trial = post(url, "/trial", {"rater": "ann"}).fields["trial"]
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "GET"):
        assert ask(url, "/vote", method=method, body=json.dumps(ballot(trial)).encode()).status == 405
    assert booth.num_votes == 0


def test_bodies_that_are_no_vote_are_told_so(url: str, booth: Booth) -> None:
    for body, fault in (
        (b"", "JSON"),
        (b"[]", "JSON"),
        (b"{", "JSON"),
        (b"[" * 4000, "JSON"),
        (b"\xff", "JSON"),
        (b" " * 5000, "too long"),
        (b"{}", "winner"),
        (b'{"winner": "left", "trial": {}, "rater": []}', "not given"),
    ):
        answer = post(url, "/vote", body)
        assert answer.status == 400 and fault in answer.fields["error"], body
    assert booth.num_votes == 0


def test_forms_of_other_sites_are_refused(url: str, booth: Booth) -> None:
    trial = post(url, "/trial", {"rater": "ann"}).fields["trial"]
    plain = post(url, "/vote", ballot(trial), Content_Type="text/plain")
    assert plain.status == 400 and booth.num_votes == 0
    assert ask(url, "/", Host="evil.example").status == 400  # a name that leads here from outside
    assert ask(url, "/", Host=f"localhost:{urlsplit(url).port}").status == 200


def test_a_vote_that_cannot_be_stored_is_not_said_to_count(url: str, booth: Booth, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, a device that is always full")
    trial = post(url, "/trial", {"rater": "ann"}).fields["trial"]
    (tmp_path / "arena" / VOTES_FILE).symlink_to("/dev/full")
    answer = post(url, "/vote", ballot(trial))
    assert answer.status == 500 and "could not be stored" in answer.fields["error"]
    (tmp_path / "arena" / VOTES_FILE).unlink()
    assert post(url, "/vote", ballot(trial)).status == 200
    assert len(read_votes(tmp_path / "arena")[0]) == 1


def test_others_cannot_reach_it_unless_told_otherwise(booth: Booth) -> None:
    with serving(booth) as address:
        assert urlsplit(address).hostname == "127.0.0.1"
        port = urlsplit(address).port
        own = next(
            (i[4][0] for i in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)), "127.0.0.1"
        )  # an address of this machine that others see, if it has one
        if not is_loopback(own):
            with pytest.raises(OSError):
                socket.create_connection((own, port), timeout=2)
    with serving(booth, host="0.0.0.0") as address:
        port = urlsplit(address).port
        assert ask(f"http://127.0.0.1:{port}/", "/", Host="workstation.example").status == 200


def test_an_address_that_is_taken_is_told(booth: Booth) -> None:
    with serving(booth) as address, pytest.raises(ValueError, match="cannot be had"):
        ArenaServer(booth, port=urlsplit(address).port)
    for host, port in (("not a host", 0), ("127.0.0.1", 99_999)):
        with pytest.raises(ValueError, match="cannot be had"):
            ArenaServer(booth, host=host, port=port)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_addresses_are_known(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected and not is_loopback("example.org")


def test_many_listeners_at_once(url: str, booth: Booth) -> None:
    invitation = post(url, "/trial", {"rater": "ann"}).fields
    content = booth.media(invitation["trial"], "left").read_bytes()
    answers: list[bytes] = []
    start = time.monotonic()
    threads = [threading.Thread(target=lambda: answers.append(ask(url, invitation["left"]).body)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [content] * 20 and time.monotonic() - start < 20


def test_the_other_loopback_address_serves_too(booth: Booth) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("needs IPv6")
    with serving(booth, host="::1") as address:
        assert address.startswith("http://[::1]:") and ask(address, "/").status == 200
        assert ask(address, "/", Host="evil.example").status == 400
