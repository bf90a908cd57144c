"""Draws, by counting."""

from __future__ import annotations

import numpy as np
import pytest

from hh_train.data.loading.clip_index import ClipColumns, digest_of
from hh_train.data.loading.conditions import Conditions, Phase


def columns(count: int, *, first: int = 0, frames: int = 2, audio: int = 5, reverse: bool = False) -> ClipColumns:
    keys = [f"clip{i}" for i in range(first, first + count)]
    return ClipColumns(
        grid=np.array([[frames, 4, 4] if frames else [0, 0, 0]] * count, dtype=np.int32),
        audio=np.full(count, audio, dtype=np.int32),
        text=np.full(count, 3, dtype=np.int32),
        hash=np.array([digest_of(key) for key in (keys[::-1] if reverse else keys)], dtype=np.uint64),
    )


def turns(count: int, turn: int = 0) -> np.ndarray:
    return np.full(count, turn, dtype=np.uint64)


def conditions(text: float = 0.0, image: float = 0.0, audio: float = 0.0, alone: float = 0.0) -> Conditions:
    return Conditions(text_dropout=text, image_to_video_share=image, audio_to_video_share=audio, sound_only_share=alone)


def test_draws_depend_on_seed_turn_and_clip_alone() -> None:
    drawing = conditions(0.5, 0.5, 0.5)
    drawn = drawing.draw(columns(64), turns(64), seed=0)
    backward = drawing.draw(columns(64, reverse=True), turns(64), seed=0)
    assert (drawn.drops_text == backward.drops_text[::-1]).all()
    assert (drawn.drops_text != drawing.draw(columns(64), turns(64, 1), seed=0).drops_text).any()
    assert (drawn.drops_text != drawing.draw(columns(64), turns(64), seed=1).drops_text).any()


def test_draws_have_their_shares_and_are_independent() -> None:
    drawn = conditions(0.2, 0.5, 0.4).draw(columns(20_000), turns(20_000), seed=3)
    text, image, audio = drawn.drops_text, drawn.gives_image, drawn.gives_audio
    shares = [found.mean() for found in (text, image, audio, text & image, text & audio, image & audio)]
    assert shares == pytest.approx([0.2, 0.5, 0.4, 0.1, 0.08, 0.2], abs=0.012)
    over_turns = np.array(
        [conditions(0.3).draw(columns(1), turns(1, turn), seed=3).drops_text[0] for turn in range(900)]
    )
    assert over_turns.mean() == pytest.approx(0.3, abs=0.06)


def test_something_is_always_left_to_generate() -> None:
    always = conditions(1.0, 1.0, 1.0)
    kinds = {
        "all": columns(1),
        "still": columns(1, frames=1),
        "silent": columns(1, audio=-1),
        "sound": columns(1, frames=0),
    }
    drawn = {name: always.draw(clips, turns(1), seed=0) for name, clips in kinds.items()}
    assert {name: (bool(d.gives_image[0]), bool(d.gives_audio[0])) for name, d in drawn.items()} == {
        "all": (True, True),
        "still": (False, True),
        "silent": (True, False),
        "sound": (False, False),
    }


def test_sound_alone_is_drawn_at_its_share_and_gives_nothing() -> None:
    drawn = conditions(0.0, 0.5, 0.5, 0.25).draw(columns(4000), turns(4000), seed=0)
    assert drawn.drops_video.mean() == pytest.approx(0.25, abs=0.025)
    assert not (drawn.drops_video & (drawn.gives_image | drawn.gives_audio)).any()
    silent = conditions(alone=1.0).draw(columns(10, audio=-1), turns(10), seed=0)
    assert not silent.drops_video.any()


@pytest.mark.parametrize("name", ["text_dropout", "image_to_video_share", "audio_to_video_share", "sound_only_share"])
@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_shares_lie_between_0_and_1(name: str, share: float) -> None:
    shares = {"text_dropout": 0.0, "image_to_video_share": 0.0, "audio_to_video_share": 0.0, name: share}
    with pytest.raises(ValueError, match=name):
        Conditions(**shares)


def test_a_phase_changes_what_it_names() -> None:
    usual = conditions(0.1, 0.2, 0.3, 0.4)
    assert Phase(from_epoch=3).conditions(usual) == usual
    assert Phase(from_epoch=3, text_dropout=0.0, sound_only_share=1.0).conditions(usual) == conditions(
        0.0, 0.2, 0.3, 1.0
    )
