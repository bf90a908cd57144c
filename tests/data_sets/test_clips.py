from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from clips import SHORTEST_FRAMES, Recipe, plan_clip, render_clip
from people import draw_person

from hh_train.data.media.files import MediaReader

RECIPE = Recipe(
    seed=0,
    languages=("en",),
    content="digits",
    digits=(2, 3),
    width=64,
    height=64,
    max_seconds=4.0,
    two_shot_share=0.0,
    framings=("close-up", "medium shot"),
    head_motion=1.0,
)
SAMPLES_PER_FRAME = 640


def _paths(footage: Path) -> list[Path]:
    return sorted(footage.rglob("*.mp4"))


def test_clips_have_frames_for_video_latents_and_sound_to_match() -> None:
    for index in range(20):
        clip = plan_clip(RECIPE, "train", index)
        assert clip.num_frames % 4 == 1
        assert SHORTEST_FRAMES <= clip.num_frames <= 45
        assert clip.waveform.shape == (clip.num_frames * SAMPLES_PER_FRAME,)
        assert clip.phonemes[-1].end <= clip.num_frames / 25


def test_captions_of_digit_strings_are_short() -> None:
    prompts = [plan_clip(RECIPE, "train", index).metadata.prompt.compose() for index in range(40)]
    assert max(len(prompt.split()) for prompt in prompts) <= 30


def test_a_speaker_keeps_name_and_looks_over_clips() -> None:
    clips = [plan_clip(RECIPE, "test", index) for index in range(30)]
    people = {clip.metadata.speaker: clip.person for clip in clips}
    assert 5 < len(people) < 30
    assert all(clip.person == people[clip.metadata.speaker] for clip in clips)


def test_a_new_person_is_the_speaker_of_the_test_split_and_changes_clothes() -> None:
    recipe = replace(RECIPE, person=3)
    clips = [plan_clip(recipe, split, index) for split in ("train", "validation", "test") for index in range(8)]
    assert {clip.person for clip in clips} == {draw_person(0, "test", 3)}
    assert len({(clip.scene.clothes_color, clip.scene.background) for clip in clips}) > 15
    assert len({clip.metadata.transcript for clip in clips}) > 15


def test_a_still_head_only_moves_mouth_brows_and_lids(tmp_path: Path) -> None:
    for name, head_motion in (("still", 0.0), ("usual", 1.0)):
        (tmp_path / name).mkdir()
        render_clip(replace(RECIPE, head_motion=head_motion), "train", 0, tmp_path / name)
    still, usual = (
        MediaReader().read(tmp_path / name / "train-000000.mp4").frames.float() for name in ("still", "usual")
    )
    forehead = slice(14, 22)
    assert still.std(0)[forehead].mean() < 0.5 * usual.std(0)[forehead].mean()
    assert still.std(0)[38:54, 20:44].mean() > 2 * still.std(0)[forehead].mean()  # the mouth moves


def test_no_room_for_a_line_is_told() -> None:
    with pytest.raises(ValueError, match="max-seconds"):
        plan_clip(replace(RECIPE, max_seconds=1.0, digits=(6, 6)), "train", 0)


def test_every_decoded_clip_is_as_its_truth_says(footage: Path) -> None:
    for path in _paths(footage):
        truth = json.loads(path.with_suffix(".json").read_text())["truth"]
        clip = MediaReader().read(path)
        num_frames = clip.frames.shape[0]
        assert clip.waveform is not None
        assert clip.waveform.shape[0] == num_frames * SAMPLES_PER_FRAME
        assert {len(values) for values in truth["mouth"].values()} == {num_frames}
        assert len(truth["mouth_box"]) == num_frames
        assert truth["cuts_seconds"] == []


def test_streams_are_h264_and_aac_from_zero_on(footage: Path) -> None:
    with av.open(str(_paths(footage)[0])) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.average_rate, audio.rate) == (25, 16_000)
        assert (video.start_time, audio.start_time) == (0, 0)


def test_the_decoded_sound_is_where_it_was_put(footage: Path) -> None:
    for index in range(3):
        planned = plan_clip(RECIPE, "train", index).waveform
        waveform = MediaReader().read(footage / "train" / f"train-{index:06d}.mp4").waveform
        assert waveform is not None
        correlation = np.correlate(waveform.numpy(), planned, "full")
        assert abs(int(correlation.argmax()) - (len(planned) - 1)) <= 1


def test_lips_and_decoded_sound_move_together(footage: Path) -> None:
    correlations = []
    for path in _paths(footage):
        opening = np.array(json.loads(path.with_suffix(".json").read_text())["truth"]["mouth"]["opening"])
        waveform = MediaReader().read(path).waveform
        assert waveform is not None
        power = waveform.numpy().reshape(-1, SAMPLES_PER_FRAME).astype(np.float64) ** 2
        envelope = np.log(np.sqrt(power.mean(1)) + 3e-3)
        at_lags = {lag: _correlation(opening, envelope, lag) for lag in range(-5, 6)}
        assert abs(max(at_lags, key=lambda lag: at_lags[lag])) <= 1
        correlations.append(at_lags[0])
    assert np.mean(correlations) > 0.75


def test_the_picture_shows_the_opening_of_the_truth(footage: Path) -> None:
    """Where the mouth opens, the decoded pixels of the mouth's box differ from those of the closed mouth."""
    correlations = []
    for path in _paths(footage):
        truth = json.loads(path.with_suffix(".json").read_text())["truth"]
        opening = np.array(truth["mouth"]["opening"])
        pictures = MediaReader().read(path).frames.numpy().astype(float)
        spread = []
        for picture, (left, top, right, bottom) in zip(pictures, truth["mouth_box"], strict=True):
            rows, columns = slice(round(64 * top), round(64 * bottom)), slice(round(64 * left), round(64 * right))
            spread.append(picture[rows, columns].std())
        correlations.append(np.corrcoef(opening, spread)[0, 1])
    assert np.mean(correlations) > 0.6


def test_lips_are_closed_at_the_start_and_the_end(footage: Path) -> None:
    for path in _paths(footage):
        opening = json.loads(path.with_suffix(".json").read_text())["truth"]["mouth"]["opening"]
        assert max(opening[0], opening[-1]) < 0.03
        assert max(opening) > 0.3


def test_the_box_stays_on_the_mouth_at_any_size_and_over_a_cut(tmp_path: Path) -> None:
    recipe = replace(RECIPE, width=160, height=96, two_shot_share=1.0, content="sentences")
    render_clip(recipe, "train", 0, tmp_path)
    fields = json.loads((tmp_path / "train-000000.json").read_text())
    clip = MediaReader().read(tmp_path / "train-000000.mp4")
    assert clip.frames.shape[1:] == (96, 160, 3)
    cut = round(25 * fields["truth"]["cuts_seconds"][0])
    steps = np.abs(np.diff(clip.frames.numpy().astype(float), axis=0)).mean((1, 2, 3))
    assert int(steps.argmax()) + 1 == cut
    widths = [right - left for left, _, right, _ in fields["truth"]["mouth_box"]]
    assert np.abs(np.diff(widths)).argmax() + 1 == cut
    assert ", then " in fields["description"]


def _correlation(opening: np.ndarray, envelope: np.ndarray, lag: int) -> float:
    """Of the opening with the sound `lag` frames later."""
    size = len(opening)
    first, second = opening[max(0, -lag) : size - max(0, lag)], envelope[max(0, lag) : size - max(0, -lag)]
    return float(np.corrcoef(first, second)[0, 1])
