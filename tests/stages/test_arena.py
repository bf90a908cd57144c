"""The arena as its raters meet it: in a browser, through a reload, a kill and in company; and what it prints."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hh_train.arena.booth import VOTES_FILE, Booth, read_votes
from hh_train.arena.contest import Program
from hh_train.arena.journal import Journal
from hh_train.arena.server import ArenaServer
from hh_train.arena.stimuli import StimulusMaker
from hh_train.arena.trials import Pairing, Trial
from hh_train.arena.votes import Vote
from hh_train.data.footage.clip_folder import write_described_clip
from hh_train.runtime.composition import compose_config
from hh_train.runtime.config import config_faults, instantiate
from hh_train.types import Clip, ClipMetadata, DialogueLine, Prompt

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
STAGE = """
import sys
import threading
import time
from hh_train.runtime.composition import compose_config
from hh_train.runtime.config import config_faults, instantiate
config = compose_config("arena", sys.argv[1:])
assert not config_faults(config)
instantiate(config)
"""
PAIR_SECONDS = 2 * 0.52


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`secret-teacher` and `secret-student` have two prompts, of half a second each."""
    root = tmp_path_factory.mktemp("clips")
    for pitch, system in enumerate(("secret-teacher", "secret-student"), 1):
        (root / system).mkdir()
        for index in range(2):
            wave = 0.1 * pitch * torch.sin(2 * math.pi * 200 * pitch * torch.arange(13 * 640) / 16_000)
            ramp = torch.linspace(0, 255, 13)[:, None, None, None].expand(13, 48, 64, 3)
            frames = ((ramp + 60 * pitch) % 256).to(torch.uint8).contiguous()
            clip = Clip(frames=frames, frames_per_second=25.0, waveform=wave, samples_per_second=16_000)
            line = DialogueLine(speaker="Man", language="English", line=f"number {index} <b>")
            metadata = ClipMetadata(key=f"key-{index}", prompt=Prompt(description=f"Gray {index}", dialogue=(line,)))
            write_described_clip(root / system, clip, metadata, record={"generation": {"seed": 0}})
    return root


def overrides(clips: Path, output: Path, **keys: Any) -> list[str]:
    systems = ",".join(f"{name}:{clips / name}" for name in ("secret-teacher", "secret-student"))
    given = {"reference": "null", "output": output, "port": 0, "catch_every": 3, **keys}
    without = ["~systems.teacher", "~systems.student", "~systems.teacher_8_steps"]
    added = [f"+systems.{pair.split(':', 1)[0]}={pair.split(':', 1)[1]}" for pair in systems.split(",")]
    return [*without, *added, *(f"{key}={value}" for key, value in given.items())]


class Served:
    """The stage in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        environment = {**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", STAGE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            found = re.search(r"open (http://\S+:(\d+)/)", line)
            if found:
                self.url, self.port = found[1], int(found[2])
                return
        raise AssertionError(f"the arena did not open: {self.said}")

    def end(self, how: signal.Signals = signal.SIGINT) -> str:
        self.process.send_signal(how)
        rest, _ = self.process.communicate(timeout=60)
        return rest

    def ask(self, path: str, **fields: Any) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(fields).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)


@pytest.fixture
def serve(clips: Path, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Opens the stage on the two systems."""
    opened: list[Served] = []

    def open_it(**keys: Any) -> Served:
        opened.append(Served(*overrides(clips, tmp_path / "arena", **keys)))
        return opened[-1]

    yield open_it
    for served in opened:
        if served.process.poll() is None:
            served.process.kill()
            served.process.communicate()


@pytest.fixture(scope="module")
def program(clips: Path) -> Program:
    systems = {name: str(clips / name) for name in ("secret-teacher", "secret-student")}
    return StimulusMaker(folder=clips / "shown").make(systems)


@pytest.fixture
def open_arena(program: Program, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Opens the page in a thread, as the stage does in a process; the address."""
    running: list[tuple[ArenaServer, threading.Thread, Booth]] = []

    def open_it(**pairing: Any) -> str:
        booth = Booth(program=program, pairing=Pairing(contests=program.contests, **pairing), folder=tmp_path / "arena")
        server = ArenaServer(booth, port=0)
        thread = threading.Thread(target=server.serve)
        thread.start()
        running.append((server, thread, booth))
        return server.url

    yield open_it
    for server, thread, booth in running:
        server.stop()
        thread.join()
        booth.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright, which drives a browser")
    path = os.environ.get("HH_TRAIN_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with driver.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).is_file():
            pytest.skip("needs Chromium: `playwright install chromium`, or one on the path or in HH_TRAIN_BROWSER")
        chromium = playwright.chromium.launch(executable_path=path, args=["--mute-audio", "--no-sandbox"])
        if not plays_h264(chromium):
            pytest.skip("needs a Chromium that plays H.264; this one is built without")
        yield chromium
        chromium.close()


def plays_h264(chromium: Any) -> bool:
    page = chromium.new_page()
    answer = page.evaluate(
        "document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.64000a, mp4a.40.2\"')"
    )
    page.close()
    return bool(answer)


class Rater:
    """Someone in front of the page, with a browser of their own."""

    def __init__(self, browser: Any, name: str) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 950})
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.name, self.faults = name, []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._note)
        self.addresses: list[str] = []
        self.page.on("request", lambda request: self.addresses.append(request.url))

    def _note(self, message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def start(self, url: str) -> None:
        self.page.goto(url)
        self.page.fill("#name", self.name)
        self.page.click("text=Start")
        self.page.wait_for_selector("#trial:not([hidden])")

    @property
    def progress(self) -> str:
        return self.page.text_content("#progress")

    @property
    def sources(self) -> list[str]:
        return [self.page.get_attribute(f"[data-side={side}] video", "src") for side in ("left", "right")]

    @property
    def can_vote(self) -> bool:
        return bool(self.page.evaluate("!document.querySelector('#ballot fieldset').disabled"))

    @property
    def is_finished(self) -> bool:
        return self.page.is_visible("#finished")

    def play(self, *sides: str) -> None:
        for side in sides:
            self.page.click(f"[data-side={side}] .play")
            self.page.wait_for_selector(f"[data-side={side}].played")

    def choose(self, choice: str, **aspects: str) -> None:
        for name, value in {"winner": choice, **aspects}.items():
            self.page.check(f"input[name={name}][value={value}]", force=True)

    def send(self) -> None:
        before = self.sources
        self.page.click("#send")
        self.page.wait_for_function(
            "before => !document.getElementById('finished').hidden"
            " || document.querySelector('[data-side=left] video').getAttribute('src') !== before",
            arg=before[0],
        )


def trial_of(source: str) -> str:
    return source.split("/")[-2]


def test_no_vote_before_both_clips_were_played(browser: Any, open_arena: Callable[..., str], tmp_path: Path) -> None:
    ann = Rater(browser, "Ann")
    ann.start(open_arena())
    assert not ann.can_vote
    prompt = ann.page.text_content("#prompt")
    assert "Gray" in prompt and "<b>" in prompt  # a prompt is text, whatever it holds
    ann.page.keyboard.press("a")
    ann.page.keyboard.press("Enter")
    ann.play("left")
    assert not ann.can_vote
    ann.page.click("[data-side=right] .play")
    ann.page.click("[data-side=left] .play")  # stops the other
    ann.page.wait_for_function("() => document.querySelector('[data-side=left] .state').textContent === 'played'")
    assert "not played" in ann.page.text_content("[data-side=right] .state") and not ann.can_vote
    ann.play("right")
    assert ann.can_vote and ann.page.is_disabled("#send")  # nothing is chosen yet
    ann.choose("both_bad")
    assert ann.page.is_enabled("#send")
    ann.page.click("#other")
    assert ann.page.is_visible("#welcome") and not ann.faults
    assert not (tmp_path / "arena" / VOTES_FILE).exists()


def test_a_session_with_a_reload_in_the_middle(browser: Any, open_arena: Callable[..., str], tmp_path: Path) -> None:
    ann = Rater(browser, "Ann")
    ann.start(open_arena(catch_every=2))
    given: list[tuple[str, str]] = []
    while not ann.is_finished:
        number = len(given) + 1
        assert ann.progress.startswith(f"Pair {number} ") and not ann.can_vote
        if number == 2:
            ann.play("left", "right")
            sources = ann.sources
            ann.page.reload()
            ann.page.wait_for_selector("#trial:not([hidden])")
            assert ann.sources == sources and ann.progress.startswith("Pair 2 ")
            assert not ann.can_vote  # what was played before the reload is forgotten, to be sure
        ann.play("left", "right")
        choice = ("right", "both_bad", "tie")[(number - 1) % 3]
        given.append((trial_of(ann.sources[0]), choice))
        ann.choose(choice, lips="left", picture="tie")
        ann.send()
    assert not ann.faults
    assert not any("secret" in address or "key-" in address for address in ann.addresses)
    votes, num_damaged = read_votes(tmp_path / "arena")
    assert [(vote.trial.id, vote.winner) for vote in votes] == given and num_damaged == 0
    assert {(vote.lips, vote.speech, vote.picture) for vote in votes} == {("left", None, "tie")}
    kinds = Counter(vote.trial.kind for vote in votes)
    assert kinds["comparison"] == 2 and kinds["identical"] >= 1


def test_two_raters_at_once(browser: Any, open_arena: Callable[..., str], tmp_path: Path) -> None:
    url = open_arena(catch_every=None)
    raters = [Rater(browser, "Ann"), Rater(browser, "Bob")]
    for rater in raters:
        rater.start(url)
    assert raters[0].sources != raters[1].sources
    for choice in ("left", "right"):
        for rater in raters:  # both play at the same time
            rater.page.click("[data-side=left] .play")
        for rater in raters:
            rater.page.wait_for_selector("[data-side=left].played")
            rater.play("right")
            rater.choose(choice if rater.name == "Ann" else "tie")
        for rater in raters:
            rater.send()
    assert all(rater.is_finished and not rater.faults for rater in raters)
    votes, _ = read_votes(tmp_path / "arena")
    by_rater = {name: [v for v in votes if v.trial.rater == name] for name in ("ann", "bob")}
    assert [v.winner for v in by_rater["ann"]] == ["left", "right"]
    assert [v.winner for v in by_rater["bob"]] == ["tie", "tie"]
    for mine in by_rater.values():
        assert {v.trial.key for v in mine} == {"key-0", "key-1"}
    assert Counter(v.trial.left for v in votes) == {"secret-teacher": 2, "secret-student": 2}


def test_a_vote_goes_through_after_the_server_was_killed(
    browser: Any, serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve(catch_every="null")
    assert "prompts: 2; systems: secret-teacher, secret-student; votes so far: 0" in served.said
    ann = Rater(browser, "Ann")
    ann.start(served.url)
    ann.play("left", "right")
    ann.choose("left")
    ann.send()
    ann.page.keyboard.press("1")
    ann.page.wait_for_selector("[data-side=left].played")
    ann.page.keyboard.press("2")
    ann.page.wait_for_selector("[data-side=right].played")
    ann.page.keyboard.press("x")
    served.end(signal.SIGKILL)
    ann.page.click("#send")
    ann.page.wait_for_selector("#fault:not([hidden])")
    assert "does not answer" in ann.page.text_content("#fault")
    served = serve(catch_every="null", port=served.port)
    assert "votes so far: 1" in served.said
    ann.page.click("#again")
    ann.page.wait_for_selector("#finished:not([hidden])")
    said = served.end()
    assert [vote.winner for vote in read_votes(tmp_path / "arena")[0]] == ["left", "both_bad"]
    assert "Rating, overall" in said and "votes: 2; prompts: 2; raters: 1;" in said


def test_an_interrupt_prints_what_was_voted(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve(catch_every="null", max_prompts=1)
    trial = served.ask("trial", rater="ann")
    time.sleep(PAIR_SECONDS)
    served.ask("vote", trial=trial["trial"], rater="ann", winner="left", plays={"left": 1, "right": 1})
    assert served.ask("trial", rater="ann") == {"finished": True}
    said = served.end()
    (vote,) = read_votes(tmp_path / "arena")[0]
    assert "Rating, overall" in said and f"{vote.trial.left} over {vote.trial.right}: +" in said
    assert "Traceback" not in said and served.process.returncode == 0


def write_votes(folder: Path) -> None:
    journal = Journal(folder / VOTES_FILE)
    for index in range(40):
        trial = Trial(
            id=str(index),
            rater="bob" if index % 4 == 0 else "ann",
            kind="comparison",
            key=f"key-{index % 10}",
            left="new",
            right="old",
            left_source="1",
            right_source="2",
        )
        winner = "right" if trial.rater == "bob" else "left"
        journal.append(Vote(trial=trial, winner=winner, lips=None, speech="tie", picture=None, time=1e9).to_json())
    with journal.path.open("ab") as file:
        file.write(b'{"version": 1, "tra')  # torn by a kill


def report(clips: Path, tmp_path: Path, **keys: Any) -> dict[str, Any]:
    config = compose_config("arena", overrides(clips, tmp_path, report="true", **keys))
    assert not config_faults(config)
    assert instantiate(config) == tmp_path
    told: dict[str, Any] = json.loads((tmp_path / "ratings.json").read_text(encoding="utf-8"))
    return told


def test_what_was_voted_is_printed_at_any_time(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    write_votes(tmp_path)
    told = report(clips, tmp_path, tie_rule="davidson")
    printed = capsys.readouterr().out
    assert "votes: 40; prompts: 10; raters: 2;" in printed and "tie rule: davidson" in printed
    assert "1 lines of the votes cannot be read" in printed
    assert "Rating, speech" in printed and "Rating, lips" not in printed
    first, second = told["rankings"]["overall"]["ratings"]
    assert (first["system"], first["num_wins"], second["num_wins"]) == ("new", 30, 10)
    assert first["points"] - second["points"] == pytest.approx(400 * math.log10(3), abs=3)
    alone = report(clips, tmp_path, leave_out="[bob]")
    printed = capsys.readouterr().out
    assert "bob (left out)" in printed and "new is preferred" in printed and "that rater alone" in printed
    assert alone["rankings"]["overall"]["ratings"][0]["num_votes"] == 30
    with (tmp_path / "votes.csv").open(newline="", encoding="utf-8") as file:
        assert [row["winner"] for row in csv.DictReader(file)] == ["model_a"] * 30


def test_without_votes_there_is_nothing_to_report(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no votes"):
        instantiate(compose_config("arena", overrides(clips, tmp_path / "arena", report="true")))


def test_without_a_prompt_that_can_be_shown_no_page_is_opened(clips: Path, tmp_path: Path) -> None:
    for system in ("secret-teacher", "secret-student"):
        (tmp_path / system).mkdir()
        (tmp_path / system / "key.mp4").write_bytes(b"no clip")
        (tmp_path / system / "key.txt").write_text("A prompt")
    with pytest.raises(ValueError, match="no prompt is left"):
        instantiate(compose_config("arena", overrides(tmp_path, tmp_path / "arena")))
