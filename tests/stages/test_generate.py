"""Generation from a checkpoint: the files of the contract, once, and from latents of the right codecs alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hh_train.data.media.files import MediaReader
from hh_train.data.shards.format import read_latent_clips
from hh_train.stages.generate import _emptied
from hh_train.types import ClipMetadata, Prompt

PROMPT = 'A man\n\nDialogue:\n<Man, English>: "number nine"'
KEYS = ["test-0", "test-1"]
Generate = Callable[..., Path]


@pytest.fixture(scope="module")
def generate(run_stage: Callable[..., Any], teacher: Path, student: Path) -> Generate:
    def run(sampler: str, *overrides: str) -> Path:
        return run_stage("generate", f"sampler={sampler}", "solver.num_steps=2", *overrides)

    return run


def record_of(folder: Path, key: str) -> dict[str, Any]:
    return json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("sampler", "evaluations"), [("student", 2), ("teacher", 4), ("teacher_8_steps", 2)])
def test_every_held_out_prompt_gets_a_clip_with_its_record(
    generate: Generate, road: Path, sampler: str, evaluations: int
) -> None:
    folder = generate(sampler)
    assert folder == road / "generated" / sampler
    files = {file.name for file in folder.iterdir()}
    assert files == {"config.yaml", *(f"{key}.{kind}" for key in KEYS for kind in ("mp4", "txt", "json"))}
    for _, metadata in read_latent_clips(road / "shards", "test"):
        key = metadata.key
        clip = MediaReader().read(folder / f"{key}.mp4")
        assert clip.frames.shape == (9, 32, 32, 3) and clip.frames_per_second == 25.0
        assert clip.waveform is not None and clip.waveform.shape == (9 * 640,)
        record = record_of(folder, key)
        assert ClipMetadata.from_json(record) == metadata
        assert Prompt.parse((folder / f"{key}.txt").read_text()) == metadata.prompt
        assert record["generation"]["num_function_evaluations"] == evaluations
        assert record["generation"]["seconds"] > 0 and record["generation"]["seed"] == 0
        assert record["latent_statistics"]["video"]["std"] > 0.1
        assert record["latent_statistics"]["audio"]["std"] > 0.1


def test_a_second_run_makes_what_is_missing_alone(
    generate: Generate, road: Path, times: Callable[[Path], dict[Path, int]]
) -> None:
    output = f"output={road}/twice"
    folder = generate("student", output)
    before = times(folder)
    generate("student", output)
    assert times(folder) == before
    lost = folder / "test-1.json"
    statistics = record_of(folder, "test-1")["latent_statistics"]
    lost.unlink()
    generate("student", output)
    assert record_of(folder, "test-1")["latent_statistics"]["video"] == pytest.approx(statistics["video"], rel=1e-2)
    kept = [file for file in before if file.stem == "test-0"]
    assert len(kept) == 3 and all(times(folder)[file] == before[file] for file in kept)


def test_some_clips_of_another_split(generate: Generate, road: Path) -> None:
    folder = generate("student", f"output={road}/some", "split=validation", "max_clips=1")
    assert [file.stem for file in folder.glob("*.mp4")] == ["validation-0"]


def test_a_prompt_of_ones_own(generate: Generate, road: Path, tmp_path: Path) -> None:
    (tmp_path / "nine.txt").write_text(PROMPT)
    changes = (f"prompt_file={tmp_path}/nine.txt", "num_frames=5", "size=[16,48]", "seed=7")
    folder = generate("student", f"output={road}/own", *changes)
    (file,) = folder.glob("*.mp4")
    assert file.stem == "nine"
    assert MediaReader().read(file).frames.shape == (5, 16, 48, 3)
    record = record_of(folder, "nine")
    assert record["generation"]["seed"] == 7
    assert ClipMetadata.from_json(record).prompt == Prompt.parse(PROMPT)
    assert (record["description"], record["transcript"]) == ("A man", "number nine")
    assert Prompt.parse((folder / "nine.txt").read_text()) == Prompt.parse(PROMPT)


def test_nothing_of_the_real_clip_goes_in(road: Path) -> None:
    clip, _ = next(iter(read_latent_clips(road / "shards", "test")))
    empty = _emptied(clip)
    assert clip.video.abs().max() > 0 and clip.audio.abs().max() > 0
    assert empty.video.shape == clip.video.shape and empty.audio.shape == clip.audio.shape
    assert empty.video.abs().max() == 0 and empty.audio.abs().max() == 0
    assert torch.equal(empty.text, clip.text) and empty.key == clip.key


def test_a_checkpoint_of_other_codecs_is_refused(generate: Generate, student: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(student, other)
    provenance = json.loads((other / "provenance.json").read_text())
    provenance["tokenizers"]["audio"] = "0123456789abcdef"
    (other / "provenance.json").write_text(json.dumps(provenance))
    with pytest.raises(ValueError, match="audio") as caught:
        generate("student", f"checkpoint={other}", f"output={tmp_path}/out")
    assert str(other) in str(caught.value)
    assert not list((tmp_path / "out").glob("*.mp4"))


def test_adapters_change_the_clips_and_are_recorded(generate: Generate, student_look: Path, road: Path) -> None:
    plain = generate("student", f"output={road}/plain", "max_clips=1")
    half = generate("student", f"output={road}/half", "max_clips=1", f"adapters=[{{path:{student_look},weight:0.5}}]")
    none = generate("student", f"output={road}/none", "max_clips=1", f"adapters=[{{path:{student_look},weight:0}}]")
    (key,) = [file.stem for file in plain.glob("*.mp4")]
    spreads = [record_of(folder, key)["latent_statistics"]["video"]["std"] for folder in (plain, half, none)]
    assert spreads[2] == pytest.approx(spreads[0], rel=1e-3) and abs(spreads[1] - spreads[0]) > 1e-2 * spreads[0]
    assert record_of(half, key)["generation"]["adapters"] == [{"path": str(student_look), "weight": 0.5}]
    with pytest.raises(ValueError, match="clips that were made with the adapters none, and now they are") as caught:
        generate("student", f"output={plain}", f"adapters=[{{path:{student_look}}}]")
    assert str(plain) in str(caught.value)
    with pytest.raises(ValueError, match="trained on another base"):
        generate("teacher", f"output={road}/other", f"adapters=[{{path:{student_look}}}]")


def test_a_folder_without_a_checkpoint_is_told(generate: Generate, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none holds no checkpoint"):
        generate("student", f"checkpoint={tmp_path}/none", f"output={tmp_path}/out")
