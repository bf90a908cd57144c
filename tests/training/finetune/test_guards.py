"""What is seen before time is spent: counts, and a warning for each thing that goes wrong."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.loading.shard_sets import ShardSet
from hh_train.data.media.files import write_clip
from hh_train.data.shards.manifest import Manifest
from hh_train.model.transformer import SandwichTransformer
from hh_train.stages import tokenize
from hh_train.tokenizers import HashedTextTokenizer, MelAudioTokenizer, PatchVideoTokenizer
from hh_train.training.checkpoints import Provenance
from hh_train.training.finetune.guards import Captions, Guards, SetSurvey, Survey, require_base, survey_run
from hh_train.types import Clip

OWN = SetSurvey(
    source="own", num_clips=50, num_silent=0, num_pictures=0, num_dropped=0, num_held_out=3, num_values=10**9,
    buckets=(("7 x 4 x 4", 50),), clips_per_epoch=50, tokens_per_epoch=9000,
    captions=Captions.of([(str(index), f"clip {index}") for index in range(50)]),
)  # fmt: skip
SOUND = Survey(sets=(OWN,), steps_per_epoch=10, num_steps=500, trained_parameters=10**6)


def with_own(survey: Survey, **changes: object) -> Survey:
    return replace(survey, sets=(replace(survey.sets[0], **changes), *survey.sets[1:]))


def open_shards(shards: object) -> LatentDataModule:
    datamodule = LatentDataModule(
        shards=shards, patch=(1, 2, 2), tokens_per_batch=64, text_dropout=0.0, audio_to_video_share=0.0
    )
    datamodule.setup()
    return datamodule


def test_a_sound_run_has_no_warnings() -> None:
    assert Guards().warnings(SOUND) == []


@pytest.mark.parametrize(
    ("survey", "guards", "said"),
    [
        (with_own(SOUND, num_held_out=0), Guards(), "no clip is held out for validation"),
        (with_own(SOUND, num_silent=11), Guards(), "11 of 50 clips have no sound"),
        (SOUND, Guards(max_times_seen=40.0), "comes 50 times: they will be learnt by heart. Train for 400 steps"),
        (replace(SOUND, num_steps=2001), Guards(), "Train for 2,000 steps"),
        (with_own(SOUND, num_values=10**5, clips_per_epoch=51), Guards(), "with 1,000,000 parameters for 100,000"),
        (with_own(SOUND, captions=Captions.of([("a", " "), ("b", "x")])), Guards(), "(such as a)"),
        (with_own(SOUND, captions=Captions.of([("a", "x"), ("b", "x "), ("c", "y")])), Guards(), "same caption ('x')"),
    ],
)
def test_each_trouble_has_its_warning(survey: Survey, guards: Guards, said: str) -> None:
    (warning,) = guards.warnings(survey)
    assert said in warning


def test_limits_are_not_passed_by_reaching_them() -> None:
    assert Guards().warnings(with_own(SOUND, num_silent=10)) == []
    assert Guards().warnings(replace(SOUND, num_steps=2000)) == []
    assert Guards().warnings(with_own(SOUND, num_values=10**5)) == []
    assert Guards().warnings(with_own(SOUND, captions=None)) == []
    one_clip = Captions.of([("a", "x")])
    assert Guards().warnings(with_own(SOUND, num_clips=1, clips_per_epoch=1, captions=one_clip)) == []


def test_a_small_set_in_a_large_mixture_comes_often() -> None:
    """Half of each epoch: its clips come round while those of the other set come once."""
    prior = replace(OWN, source="prior", num_clips=2000, clips_per_epoch=1025)
    mixed = replace(SOUND, sets=(replace(OWN, clips_per_epoch=1025), prior), steps_per_epoch=200, num_steps=2400)
    assert mixed.times_seen(mixed.sets[0]) == pytest.approx(12 * 20.5)
    assert mixed.times_seen(prior) == pytest.approx(12 * 1025 / 2000)
    (warning,) = Guards().warnings(mixed)
    assert "comes 246 times" in warning
    silent = replace(mixed, num_steps=200)
    (warning,) = Guards().warnings(with_own(silent, num_silent=50))
    assert "the other sets keep the voice" in warning


def test_shards_are_counted(tiny_shards: Path) -> None:
    datamodule = open_shards(str(tiny_shards))
    survey = survey_run(datamodule, num_steps=12, trained_parameters=1000, num_captions=4)
    (own,) = survey.sets
    clip_tokens = {
        clip.sample.key: datamodule.budget.tokens(clip) for batch in datamodule.plan.epoch(0) for clip in batch
    }
    assert (own.num_clips, own.num_silent, own.num_pictures, own.num_dropped) == (6, 0, 0, 0)
    assert own.clips_per_epoch == 6 and own.tokens_per_epoch == sum(clip_tokens.values())
    assert own.num_values == 6 * (3 * 3 * 4 * 4 + 5 * 9)
    assert own.buckets == (("3 x 4 x 4", 6),)
    assert survey.steps_per_epoch == len(datamodule.plan.epoch(0))
    assert survey.epochs == survey.times_seen(own) == 12 / survey.steps_per_epoch
    assert own.captions is not None
    assert (own.captions.num_read, own.captions.num_empty, own.captions.num_commonest) == (4, 0, 1)
    halved = survey_run(datamodule, num_steps=12, trained_parameters=1000, world_size=2)
    assert halved.steps_per_epoch == survey.steps_per_epoch // 2


def test_every_set_is_counted(tiny_shards: Path) -> None:
    """Of the same clips here, one three times as often."""
    sets = [ShardSet(path=str(tiny_shards), weight=0.75), ShardSet(path=str(tiny_shards), weight=0.25)]
    survey = survey_run(open_shards(sets), num_steps=12, trained_parameters=1000)
    assert [one.clips_per_epoch for one in survey.sets] == [9, 3]
    assert [one.passes_per_epoch for one in survey.sets] == [1.5, 0.5]


def test_the_table_and_the_record_say_it(tiny_shards: Path) -> None:
    survey = survey_run(open_shards(str(tiny_shards)), num_steps=12, trained_parameters=1234)
    console = Console(file=io.StringIO(), width=200)
    console.print(survey.table())
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "12 steps" in printed and "1,234 trained parameters" in printed and "3 x 4 x 4: 6" in printed
    record = json.loads(json.dumps(survey.to_json()))
    assert record["sets"][0]["num_clips"] == 6
    assert record["times_seen"] == [record["epochs"]]


def test_silent_footage_with_one_caption(tmp_path: Path) -> None:
    (tmp_path / "footage" / "train").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for index in range(4):
        path = tmp_path / "footage" / "train" / f"{index}.mp4"
        frames = torch.randint(0, 255, (9, 32, 32, 3), generator=generator, dtype=torch.uint8)
        waveform = None if index else 0.3 * torch.randn(9 * 640, generator=generator)
        write_clip(path, Clip(frames=frames, frames_per_second=25.0, waveform=waveform, samples_per_second=16_000))
        path.with_suffix(".txt").write_text("A person")
    tokenize.run(
        footage=str(tmp_path / "footage"),
        output=str(tmp_path / "shards"),
        video=PatchVideoTokenizer(channels=3),
        audio=MelAudioTokenizer(channels=5, phase_iterations=2),
        text=HashedTextTokenizer(channels=20, place_channels=4),
        size=(32, 32),
        max_frames=9,
        reconstruct_clips=0,
        num_workers=0,
    )
    survey = survey_run(open_shards(str(tmp_path / "shards")), num_steps=1, trained_parameters=1)
    held_out, silent, same = Guards().warnings(survey)
    assert "no clip is held out" in held_out
    assert "3 of 4 clips have no sound" in silent
    assert "4 of 4 clips have the same caption ('A person')" in same


def test_the_base_goes_with_the_shards(tiny_shards: Path, shards_model: SandwichTransformer) -> None:
    manifest, config = Manifest.load(tiny_shards), shards_model.config
    ours = Provenance(stage="pretrain", num_steps=1, tokenizers=manifest.fingerprints())
    require_base(manifest, config, ours, owner="the teacher")
    require_base(manifest, config, None, owner="the teacher")
    other = replace(ours, tokenizers={**ours.tokenizers, "audio": "another"})
    with pytest.raises(ValueError, match=r"the teacher goes with other tokenizers.*audio \(another there"):
        require_base(manifest, config, other, owner="the teacher")
    wider = replace(config, audio_in_channels=64, video_in_channels=192)
    with pytest.raises(ValueError, match=r"video: 3 channels.*takes 48.*audio: 5 channels.*takes 64"):
        require_base(manifest, wider, None, owner="the teacher")
