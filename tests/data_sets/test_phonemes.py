from __future__ import annotations

import numpy as np
import pytest
from phonemes import MouthTrack, closures, mouth_track, split_sounds, unknown_sounds
from speech import Phoneme, Voice, speak

FRAMES_PER_SECOND = 25
CLOSING = {
    "en": "Bob moves a big apple cup by a map",
    "de": "Papa bäckt Brot mit Bananen",
    "fr": "papa boit beaucoup de pommes",
    "zh": "爸爸跑步怕猫",
    "yue": "爸爸跑步怕貓",
    "ja": "パンお たべます ぼくも",
    "ko": "아빠가 밥을 먹어요 편지",
}


def _at_frames(phonemes: tuple[Phoneme, ...]) -> tuple[np.ndarray, MouthTrack]:
    times = (np.arange(int(phonemes[-1].end * FRAMES_PER_SECOND) + 6) + 0.5) / FRAMES_PER_SECOND
    return times, mouth_track(phonemes, times)


def _one(symbol: str, neighbor: str = "a") -> MouthTrack:
    """The mouth in the middle of a sound between two others."""
    sounds = [Phoneme(neighbor, 0.2, 0.4), Phoneme(symbol, 0.4, 0.6), Phoneme(neighbor, 0.6, 0.8)]
    return mouth_track(sounds, np.array([0.5]))


@pytest.mark.parametrize("language", CLOSING)
@pytest.mark.parametrize("delay", [0.0, 0.013, 0.026])
def test_the_lips_are_together_in_a_frame_of_every_p_b_and_m(language: str, delay: float) -> None:
    voice = Voice(variant="m3", pitch=50, words_per_minute=205)
    spoken = speak(CLOSING[language], language=language, voice=voice).phonemes
    phonemes = tuple(Phoneme(p.symbol, p.start + 0.1 + delay, p.end + 0.1 + delay) for p in spoken)
    times, mouth = _at_frames(phonemes)
    windows = closures(phonemes)
    assert len(windows) >= 4
    for start, end in windows:
        inside = (times >= start) & (times <= end)
        assert inside.any()
        assert np.all(mouth.opening[inside] == 0)
    assert mouth.opening.max() > 0.5


def test_closed_lips_go_with_a_quiet_mouth_of_p() -> None:
    sound = speak("a papa papa", language="fr", voice=Voice(variant="f2", pitch=50, words_per_minute=160))
    energy = np.sqrt(np.convolve(sound.waveform**2, np.ones(160) / 160, "same"))
    windows = [window for window in closures(sound.phonemes) if window[0] > 0.05]
    assert len(windows) >= 3
    for start, end in windows:
        assert energy[int(16_000 * start) : int(16_000 * end)].mean() < 0.15 * energy.max()


def test_shapes_are_those_of_the_sounds() -> None:
    a, i, u, f, s = (_one(symbol, neighbor="t") for symbol in "aiufs")
    assert a.opening[0] > 0.8
    assert i.opening[0] < 0.5
    assert u.rounding[0] > 0.8
    assert i.rounding[0] < 0.1
    assert i.width[0] > 0.8
    assert u.width[0] < 0.4
    assert min(f.teeth[0], s.teeth[0]) > 0.8
    assert u.teeth[0] < 0.2
    assert f.opening[0] < 0.3


def test_the_mouth_rests_closed_before_and_after_speech_and_in_pauses() -> None:
    phonemes = [Phoneme("a", 0.3, 0.5), Phoneme("a", 0.9, 1.1)]
    mouth = mouth_track(phonemes, np.array([0.05, 0.2, 0.4, 0.7, 1.0, 1.2, 1.35]))
    assert mouth.opening[[0, 1, 3, 5, 6]] == pytest.approx(0, abs=0.02)
    assert mouth.opening[[2, 4]].min() > 0.8


def test_every_value_is_a_share() -> None:
    _, mouth = _at_frames(
        speak("my mother plays", language="en", voice=Voice(variant="f1", pitch=40, words_per_minute=160)).phonemes
    )
    for values in (mouth.opening, mouth.width, mouth.rounding, mouth.teeth):
        assert values.min() >= 0
        assert values.max() <= 1


def test_diphthongs_and_affricates_share_their_time() -> None:
    sounds = split_sounds([Phoneme("aɪ", 0.0, 0.2), Phoneme("tʃ", 0.2, 0.3), Phoneme("iː", 0.3, 0.5)])
    assert [(s.symbol, round(s.start, 3), round(s.end, 3)) for s in sounds] == [
        ("a", 0.0, 0.1),
        ("ɪ", 0.1, 0.2),
        ("t", 0.2, 0.25),
        ("ʃ", 0.25, 0.3),
        ("i", 0.3, 0.5),
    ]


def test_sounds_without_a_shape_are_told() -> None:
    assert unknown_sounds([Phoneme("a", 0, 1), Phoneme("ʘ", 1, 2)]) == {"ʘ"}


def test_no_phonemes_are_refused() -> None:
    with pytest.raises(ValueError, match="no phonemes"):
        mouth_track([], np.zeros(3))
