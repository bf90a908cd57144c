"""A judge's folder is whole or not there, and tells its floor."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from hh_train.metrics.clip_metric import Score
from hh_train.stages.judge_folder import first_reasons, kept_floor, print_floor, print_usable, write_judge


def save(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")


def fail(folder: Path) -> None:
    save(folder)
    raise OSError("the disk is full")


def test_it_is_written_whole_and_kept(tmp_path: Path) -> None:
    folder, console = tmp_path / "judge", Console(quiet=True)
    assert kept_floor(folder, console) is None
    with pytest.raises(OSError, match="full"):
        write_judge(folder, fail, {"test": 1})
    assert kept_floor(folder, console) is None and not folder.exists()
    write_judge(folder, save, {"test": 2})
    assert kept_floor(folder, console) == {"test": 2}
    write_judge(folder, save, {"test": 3})
    assert kept_floor(folder, console) == {"test": 3}


def test_shares_and_frames_are_printed_with_their_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    score = Score(mean=0.125, low=0.1, high=0.15, num_clips=8)._asdict()
    undefined = Score(mean=None, low=None, high=None, num_clips=0)._asdict()
    floor = {"validation": {"all": score, "error_frames": score}, "test": {"all": undefined}}
    print_floor(Console(width=100), floor, title="Its floor", rows="clips", value="error")
    told = capsys.readouterr().out
    assert "12.5%" in told and "10.0% to 15.0%" in told
    assert "0.12" in told and "0.10 to 0.15" in told
    assert "test" not in told


def test_what_cannot_be_used_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    left_out = {f"clip{i}": "has no sound" for i in range(12)}
    print_usable(Console(width=100), "train", used=3, chosen=15, having="sound", left_out=left_out)
    told = capsys.readouterr().out
    assert "train: 3 of 15 clips have sound" in told and told.count("left out") == 10
    assert first_reasons(left_out) == "clip0: has no sound; clip1: has no sound; clip2: has no sound"
