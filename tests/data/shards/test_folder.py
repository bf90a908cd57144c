"""Shards folders that are written in one go, in several, with other settings, and with parts missing."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hh_train.data.footage.files import DroppedClip
from hh_train.data.shards.folder import ShardFolder
from hh_train.data.shards.format import TokenizedClip, read_shard, write_null_text
from hh_train.data.shards.manifest import Manifest
from hh_train.types import ClipMetadata, LatentClip, Prompt

SETTINGS: dict[str, Any] = {"size": [64, 64], "tokenizers": {"video": {"whitening": 0.5}}}
NUM_CLIPS = 18
BAD = {2: "no caption", 6: "too short", 7: "no caption"}


def clip(index: int) -> TokenizedClip | DroppedClip:
    key = f"clip{index}"
    if index in BAD:
        return DroppedClip(key=key, split="train", reason=BAD[index])
    latents = LatentClip(
        key=key,
        video=torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(index)),
        audio=None if index == 4 else torch.full((5, 4), float(index)),
        text=torch.zeros(2, 8),
    )
    return TokenizedClip(latents=latents, metadata=ClipMetadata(key=key, prompt=Prompt(description="d")))


def open_folder(path: Path, **changes: Any) -> ShardFolder:
    arguments: dict[str, Any] = {"settings": SETTINGS, "shard_bytes": 5_000, "companions": ("tokenizers",)}
    return ShardFolder(folder=path, **{**arguments, **changes})


class KilledError(Exception):
    """Stands for the end of the process."""


def killed(*_: object) -> None:
    raise KilledError


def write(folder: ShardFolder, *, killed_before: int | None = None) -> list[int]:
    """Writes what is missing, in order; the clips that had to be made."""
    made = []

    def clips() -> Iterator[TokenizedClip | DroppedClip]:
        for index in range(NUM_CLIPS):
            if folder.is_done(f"clip{index}"):
                continue
            if index == killed_before:
                raise KilledError
            made.append(index)
            yield clip(index)

    try:
        folder.write_split("train", clips())
    except KilledError:
        assert killed_before is not None
    return made


def finish(folder: ShardFolder) -> None:
    (folder.folder / "tokenizers").mkdir(exist_ok=True)
    write_null_text(folder.folder, torch.zeros(1, 8))
    folder.finish(
        Manifest(
            settings=folder.settings,
            frames_per_second=25.0,
            samples_per_second=16_000,
            tokenizers={},
            shards=folder.records,
        )
    )


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    folder = open_folder(tmp_path / "whole")
    assert write(folder) == list(range(NUM_CLIPS))
    finish(folder)
    return tmp_path / "whole"


def test_everything_is_there_once(whole: Path) -> None:
    manifest = Manifest.load(whole)
    names = [shard.name for shard in manifest.shards]
    assert names == [f"train-{number:06d}.tar" for number in range(len(names))]
    assert len(names) > 1
    stored = [latents.key for name in names for latents, _ in read_shard(whole / name)]
    assert stored == [f"clip{i}" for i in range(NUM_CLIPS) if i not in BAD]
    assert [sample.key for sample in manifest.samples_of("train")] == stored
    assert {dropped.key: dropped.reason for dropped in manifest.dropped} == {f"clip{i}": r for i, r in BAD.items()}
    assert sum(shard.num_silent for shard in manifest.shards) == 1
    assert not list(whole.glob(".*"))


@pytest.mark.parametrize("killed_before", range(NUM_CLIPS))
def test_a_killed_run_goes_on_and_loses_nothing(whole: Path, tmp_path: Path, killed_before: int) -> None:
    path = tmp_path / "again"
    first = write(open_folder(path), killed_before=killed_before)
    folder = open_folder(path)
    assert not folder.is_complete
    second = write(folder)
    twice = set(first) & set(second)
    assert twice <= set(BAD)  # bad clips of an open shard are looked at again, no other
    assert set(first) | set(second) == set(range(NUM_CLIPS))
    finish(folder)
    assert contents(path) == contents(whole)


def test_killed_twice_in_one_shard(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "again"
    write(open_folder(path), killed_before=1)
    write(open_folder(path), killed_before=3)
    write(folder := open_folder(path))
    finish(folder)
    assert contents(path) == contents(whole)


def test_killed_between_a_shard_and_the_removal_of_its_clips(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr("hh_train.data.shards.open_shard.OpenShard.forget_pending", killed)
        write(open_folder(path), killed_before=NUM_CLIPS)
    write(folder := open_folder(path))
    finish(folder)
    assert contents(path) == contents(whole)


def test_a_shard_that_was_lost_on_the_way_is_made_again(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "again"
    write(open_folder(path), killed_before=NUM_CLIPS - 1)
    assert len(list(path.glob("*.tar"))) >= 2
    (path / "train-000000.tar").unlink()
    write(folder := open_folder(path))
    finish(folder)
    stored = sorted(latents.key for shard in path.glob("*.tar") for latents, _ in read_shard(shard))
    assert stored == sorted(f"clip{i}" for i in range(NUM_CLIPS) if i not in BAD)
    assert len(Manifest.load(path).shards) == len(list(path.glob("*.tar")))


def test_a_finished_folder_is_left_alone(whole: Path) -> None:
    before = contents(whole)
    folder = open_folder(whole, overwrite=True)
    assert folder.is_complete
    assert contents(whole) == before


@pytest.mark.parametrize("complete", [True, False])
def test_other_settings_are_refused_by_name(whole: Path, tmp_path: Path, complete: bool) -> None:
    path = whole
    if not complete:
        path = tmp_path / "half"
        write(open_folder(path), killed_before=5)
    other = {"size": [64, 64], "tokenizers": {"video": {"whitening": 1.0}}}
    before = contents(path)
    with pytest.raises(ValueError, match=r"tokenizers\.video\.whitening: 0\.5 there, 1\.0 wanted.*overwrite=true"):
        open_folder(path, settings=other)
    assert contents(path) == before
    (path / "notes.txt").write_text("mine")
    folder = open_folder(path, settings=other, overwrite=True)
    assert not folder.is_complete
    assert [file.name for file in path.iterdir() if file.name != ".progress"] == ["notes.txt"]
    assert write(folder) == list(range(NUM_CLIPS))


@pytest.mark.parametrize("name", ["train-000001.tar", "null.safetensors", "tokenizers"])
def test_a_finished_folder_that_lacks_a_part_is_refused(whole: Path, name: str) -> None:
    if (whole / name).is_dir():
        (whole / name).rmdir()
    else:
        (whole / name).unlink()
    with pytest.raises(ValueError, match=rf"lacks {name}.*overwrite=true"):
        open_folder(whole)
    assert not open_folder(whole, overwrite=True).is_complete


def test_latents_that_cannot_be_stored_are_left_out(tmp_path: Path) -> None:
    good = clip(0)
    assert isinstance(good, TokenizedClip)
    bad = LatentClip(key="bad", video=torch.full((1, 1, 1, 1), float("nan")), audio=None, text=torch.zeros(1, 8))
    folder = open_folder(tmp_path)
    folder.write_split("train", [TokenizedClip(latents=bad, metadata=good.metadata), good])
    (record,) = folder.records
    assert [sample.key for sample in record.samples] == ["clip0"]
    assert [(dropped.key, "not finite" in dropped.reason) for dropped in record.dropped] == [("bad", True)]


def test_shards_need_a_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard size"):
        open_folder(tmp_path, shard_bytes=0)


# Footage that changes, and several processes

FOOTAGE = {f"clip{index}": "first" for index in range(NUM_CLIPS)}
SPLIT_OF = {f"clip{index}": "validation" if index % 5 == 0 else "train" for index in range(100)}


def expected(footage: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Both splits; the order is not that of the numbers."""
    keys = sorted(footage, key=lambda key: hash(int(key.removeprefix("clip")) * 7919 % 31))
    return {split: {key: footage[key] for key in keys if SPLIT_OF[key] == split} for split in ("train", "validation")}


def make(key: str, version: str) -> TokenizedClip | DroppedClip:
    """The clip, whose latents depend on the version."""
    made = clip(int(key.removeprefix("clip")))
    if isinstance(made, DroppedClip):
        return DroppedClip(key=key, split=SPLIT_OF[key], reason=made.reason)
    text = torch.full((2, 8), float(len(version)))
    latents = LatentClip(key=key, video=made.latents.video, audio=made.latents.audio, text=text)
    return TokenizedClip(latents=latents, metadata=made.metadata)


def work(
    path: Path, footage: Mapping[str, str], *, kill_after: int | None = None, pause: float = 0.0, **changes: Any
) -> list[str]:
    """All that one process does, up to the manifest where it is the last; the clips that it had to make."""
    folder = open_folder(path, footage=footage, **changes)
    made: list[str] = []
    if folder.is_complete:
        return made
    clips = expected(footage)
    folder.expect(clips)
    folder.companion("tokenizers", Path.mkdir)

    def coming(split: str) -> Iterator[TokenizedClip | DroppedClip]:
        for key, version in clips[split].items():
            if not folder.is_done(key):
                if len(made) == kill_after:
                    raise KilledError
                made.append(key)
                time.sleep(pause)
                yield make(key, version)

    for split in clips:
        folder.write_split(split, coming(split))
    if folder.close_part():
        finish(folder)
    return made


def run_killed(path: Path, footage: Mapping[str, str], **changes: Any) -> list[str]:
    try:
        return work(path, footage, **changes)
    except KilledError:
        return []


def everything(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def fresh(path: Path, footage: Mapping[str, str], num_processes: int = 1) -> dict[str, bytes]:
    """The folder as an undisturbed run from nothing leaves it."""
    for process in range(num_processes):
        work(path, footage, process=process, num_processes=num_processes)
    return everything(path)


ADDED = {**FOOTAGE, "clip30": "first", "clip31": "first", "clip35": "first"}
REMOVED = {key: version for key, version in FOOTAGE.items() if key not in ("clip0", "clip9", "clip17")}
CHANGED = {**FOOTAGE, "clip3": "second", "clip10": "second"}
GOOD = {key for key in ADDED if int(key.removeprefix("clip")) not in BAD}


@pytest.mark.parametrize(
    ("footage", "new"),
    [(ADDED, {"clip30", "clip31", "clip35"}), (REMOVED, set()), (CHANGED, {"clip3", "clip10"}), (FOOTAGE, set())],
)
@pytest.mark.parametrize("begun", [None, 11])
def test_changed_footage_costs_its_own_clips_alone(
    tmp_path: Path, footage: dict[str, str], new: set[str], begun: int | None
) -> None:
    first = run_killed(tmp_path / "shards", FOOTAGE, kill_after=begun)
    assert bool(first) == (begun is None)
    again = work(tmp_path / "shards", footage)
    if begun is None:
        assert set(again) & GOOD == new
    else:
        assert 0 < len(again) < len(footage) - 5
    assert everything(tmp_path / "shards") == fresh(tmp_path / "fresh", footage)
    assert work(tmp_path / "shards", footage) == []
    manifest = Manifest.load(tmp_path / "shards")
    stored = [sample.key for split in ("train", "validation") for sample in manifest.samples_of(split)]
    assert sorted(stored) == sorted(set(footage) & GOOD)


def test_footage_that_changes_back_and_forth(tmp_path: Path) -> None:
    path = tmp_path / "shards"
    work(path, FOOTAGE)
    run_killed(path, CHANGED, kill_after=1)
    run_killed(path, {**CHANGED, **ADDED}, kill_after=2)
    run_killed(path, ADDED, kill_after=1)
    assert set(work(path, FOOTAGE)) <= {f"clip{index}" for index in BAD}
    assert everything(path) == fresh(tmp_path / "fresh", FOOTAGE)


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_a_kill_while_stored_clips_are_set_aside_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    path = tmp_path / "shards"
    work(path, FOOTAGE)
    assert len(list(path.glob("*.tar"))) == 3
    renamed = []
    rename = Path.rename

    def dies(source: Path, target: Path) -> Path:
        if len(renamed) == survived:
            raise KilledError
        renamed.append(target)
        return rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Path, "rename", dies)
        work(path, ADDED)
    assert not (path / "manifest.json").exists()
    assert set(work(path, ADDED)) & GOOD == {"clip30", "clip31", "clip35"}
    assert everything(path) == fresh(tmp_path / "fresh", ADDED)


def test_footage_with_no_file_in_common_is_refused(tmp_path: Path) -> None:
    work(tmp_path, FOOTAGE)
    before = everything(tmp_path)
    other = dict.fromkeys(FOOTAGE, "other")
    with pytest.raises(ValueError, match=r"holds shards of other footage.*overwrite=true"):
        work(tmp_path, other)
    assert everything(tmp_path) == before
    assert len(work(tmp_path, other, overwrite=True)) == NUM_CLIPS


def test_a_lost_shard_is_made_again_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "shards"
    run_killed(path, FOOTAGE, kill_after=14)
    names = sorted(path.glob("train-*.tar"))
    assert len(names) >= 2
    names[0].unlink()
    run_killed(path, FOOTAGE, kill_after=1)
    work(path, FOOTAGE)
    assert everything(path) == fresh(tmp_path / "fresh", FOOTAGE)


def test_tars_of_someone_else_stay(tmp_path: Path) -> None:
    (tmp_path / "mine-000000.tar").write_bytes(b"mine")
    work(tmp_path, FOOTAGE)
    assert (tmp_path / "mine-000000.tar").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["missing", "out of turn", "unknown", "too early"])
def test_clips_that_were_not_expected_are_refused(tmp_path: Path, kind: str) -> None:
    folder = open_folder(tmp_path, footage=FOOTAGE)
    keys = list(expected(FOOTAGE)["train"])
    if kind != "too early":
        folder.expect(expected(FOOTAGE))
    coming = {"missing": keys[1:], "out of turn": [keys[1], keys[0]], "unknown": [*keys, "clip90"], "too early": keys}
    message = {"missing": "no clip came", "out of turn": "no clip came", "unknown": "'clip90' came out of turn"}
    with pytest.raises(ValueError, match=message.get(kind, "call `expect` first")):
        folder.write_split("train", [make(key, "first") for key in coming[kind]])


def test_files_that_are_cut_otherwise_cost_their_own_clips_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same files, but other clips than the folder was begun with: one is gone, and one has changed."""
    made = [key for keys in expected(FOOTAGE).values() for key in keys][:13]
    run_killed(tmp_path / "shards", FOOTAGE, kill_after=13)
    before = expected
    gone, changed = made[1], made[3]

    def otherwise(footage: Mapping[str, str]) -> dict[str, dict[str, str]]:
        kept = {split: {k: v for k, v in keys.items() if k != gone} for split, keys in before(footage).items()}
        kept[SPLIT_OF[changed]][changed] = "second"
        return kept

    monkeypatch.setattr(f"{__name__}.expected", otherwise)
    again = work(tmp_path / "shards", FOOTAGE)
    assert gone not in again
    assert changed in again
    assert set(again) & set(made) & GOOD <= {changed}
    assert everything(tmp_path / "shards") == fresh(tmp_path / "fresh", FOOTAGE)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_processes_share_the_clips_out_and_the_last_finishes(tmp_path: Path, order: Sequence[int]) -> None:
    path = tmp_path / "shards"
    made = []
    for process in order:
        assert not (path / "manifest.json").exists()
        made.append(work(path, FOOTAGE, process=process, num_processes=3))
    assert all(made)
    assert sorted(key for keys in made for key in keys) == sorted(FOOTAGE)
    assert everything(path) == fresh(tmp_path / "fresh", FOOTAGE, num_processes=3)
    manifest = Manifest.load(path)
    names = [shard.name for shard in manifest.shards]
    assert names == sorted(names)
    assert {name.split("-")[1] for name in names} == {"0000", "0001", "0002"}
    assert len(manifest.dropped) == len(BAD)
    alone = fresh(tmp_path / "alone", FOOTAGE)
    assert {s.key for s in manifest.samples_of("train")} == {
        s.key for s in Manifest.load(tmp_path / "alone").samples_of("train")
    }
    assert alone.keys() != everything(path).keys()


def test_a_process_that_ran_again_changes_nothing(tmp_path: Path) -> None:
    work(tmp_path / "shards", FOOTAGE, process=1, num_processes=2)
    work(tmp_path / "shards", FOOTAGE, process=1, num_processes=2)
    work(tmp_path / "shards", FOOTAGE, process=0, num_processes=2)
    assert everything(tmp_path / "shards") == fresh(tmp_path / "fresh", FOOTAGE, num_processes=2)


def test_another_number_of_processes_uses_what_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "shards"
    first = work(path, FOOTAGE, process=0, num_processes=3)
    with pytest.raises(KilledError):
        work(path, FOOTAGE, process=2, num_processes=3, kill_after=2)
    again = [key for process in (0, 1) for key in work(path, FOOTAGE, process=process, num_processes=2)]
    assert not set(first) & set(again) & GOOD
    assert everything(path) == fresh(tmp_path / "fresh", FOOTAGE, num_processes=2)
    assert work(path, FOOTAGE, num_processes=1) == []  # complete is complete


def test_without_footage_the_number_of_processes_stays(tmp_path: Path) -> None:
    write(open_folder(tmp_path, process=1, num_processes=2), killed_before=3)
    with pytest.raises(ValueError, match=r"was begun by 2 processes.*overwrite=true"):
        open_folder(tmp_path)


def test_processes_need_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got process 2 of 2; wanted 0 to 1"):
        open_folder(tmp_path, process=2, num_processes=2)


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6))
def test_any_chain_of_kills_leads_to_the_same_bytes(seed: int) -> None:
    chance = random.Random(seed)
    footages = [FOOTAGE, ADDED, REMOVED, CHANGED]
    with TemporaryDirectory() as name:
        path = Path(name)
        for _ in range(chance.randint(1, 4)):
            number = chance.choice([1, 1, 2])
            process = chance.randrange(number)
            changes = {"process": process, "num_processes": number, "kill_after": chance.randint(0, 12)}
            run_killed(path / "shards", chance.choice(footages), **changes)
        last, number = chance.choice(footages), chance.choice([1, 2])
        for process in range(number):
            work(path / "shards", last, process=process, num_processes=number)
        if Manifest.load(path / "shards").shards[0].name.count("-") == number:  # else an earlier run was complete
            assert everything(path / "shards") == fresh(path / "fresh", last, num_processes=number)


def _process(path: Path, process: int, num_processes: int, pause: float) -> None:
    torch.set_num_threads(1)
    work(path, FOOTAGE, process=process, num_processes=num_processes, pause=pause)
    os._exit(0)


@pytest.mark.parametrize("num_processes", [1, 3])
def test_real_processes_killed_at_random_points(tmp_path: Path, num_processes: int) -> None:
    expected_bytes = fresh(tmp_path / "fresh", FOOTAGE, num_processes=num_processes)
    context = multiprocessing.get_context("fork")
    chance = random.Random(0)
    kills = 0
    for trial in range(3):
        path = tmp_path / f"killed{trial}"
        patience = 12
        while patience and not (path / "manifest.json").exists():
            patience -= 1
            running = [
                context.Process(target=_process, args=(path, process, num_processes, 0.01 * num_processes))
                for process in range(num_processes)
            ]
            for process in running:
                process.start()
            for process in running:
                process.join(chance.uniform(0.01, 0.15) if patience > 2 else 30)
                if process.exitcode is None and process.pid is not None:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
                process.join()
                assert process.exitcode in (0, -signal.SIGKILL)
        work(path, FOOTAGE, num_processes=num_processes)  # tidies up where the kill came after the manifest
        assert everything(path) == expected_bytes
    assert kills > 0
