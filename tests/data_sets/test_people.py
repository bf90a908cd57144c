from __future__ import annotations

from dataclasses import replace

import pytest
from people import PACES, PITCHES, SPEAKERS_PER_SPLIT, Person, draw_person, draw_scene, generator


def _cast(split: str, seed: int = 0) -> list[Person]:
    return [draw_person(seed, split, index) for index in range(SPEAKERS_PER_SPLIT[split])]


def test_a_speaker_is_the_same_face_and_voice_every_time() -> None:
    assert draw_person(3, "train", 5) == draw_person(3, "train", 5)
    assert draw_person(3, "train", 5) != replace(draw_person(4, "train", 5))


def test_no_two_speakers_of_any_split_are_alike() -> None:
    people = [person for split in SPEAKERS_PER_SPLIT for person in _cast(split)]
    assert len({person.name for person in people}) == len(people)
    assert len({replace(person, name="") for person in people}) == len(people)


def test_the_cast_is_varied() -> None:
    cast = _cast("train")
    assert {person.kind for person in cast} == {"woman", "man"}
    assert len({person.skin for person in cast}) > 20
    assert len({(person.hair_style, person.hair_color) for person in cast}) > 15
    assert len({person.voice for person in cast}) > 90
    assert {True, False} == {person.glasses for person in cast} == {person.beard for person in cast}


def test_captions_say_how_the_voice_sounds() -> None:
    for person in _cast("train"):
        low, high = PITCHES[person.pitch]
        assert low <= person.voice.pitch <= high
        slow, fast = PACES[person.pace]
        assert slow <= person.voice.words_per_minute <= fast
        words = person.speaker.replace(",", "").split()
        assert words[0] == person.kind.capitalize()
        assert words[-1] == "voice"
        assert words[1:-1] == ([*filter(None, (person.pitch, person.pace))] or ["normal"])


@pytest.mark.parametrize(("num_shots", "most_words"), [(1, 15), (2, 18)])
def test_descriptions_are_short_and_of_few_words(num_shots: int, most_words: int) -> None:
    random = generator("test", num_shots)
    texts = [draw_scene(random, num_shots=num_shots).describe(person) for person in _cast("train") for _ in range(8)]
    assert max(len(text.split()) for text in texts) <= most_words
    assert len({word.strip(".,").lower() for text in texts for word in text.split()}) < 60
    assert len(set(texts)) > 600


def test_two_shots_differ_in_framing() -> None:
    random = generator("test")
    for _ in range(10):
        first, second = draw_scene(random, num_shots=2).shots
        assert first.framing != second.framing


def test_only_the_framings_asked_for_are_drawn() -> None:
    random = generator("test")
    shots = [shot for _ in range(10) for shot in draw_scene(random, num_shots=2, framings=["close-up"]).shots]
    assert {shot.framing for shot in shots} == {"close-up"}
