"""Known people: their held-out clips are recognized, other people's are not, and what says nothing is undefined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hh_train.metrics.faces.cascade import CascadeFaces
from hh_train.metrics.likeness.embedders import FaceLayout, VoiceProfile
from hh_train.metrics.likeness.measurer import LikenessMeasurer
from hh_train.metrics.likeness.reference import ReferenceClips
from hh_train.metrics.measurer import Measurer, Sample
from hh_train.types import Clip

SampleOf = Callable[[int, int], Sample]
TAKES = 5


@pytest.fixture(scope="module")
def clips(
    tmp_path_factory: pytest.TempPathFactory, clip_of: Callable[[int, int], Clip]
) -> Callable[..., ReferenceClips]:
    root = tmp_path_factory.mktemp("people")
    for person in range(4):
        for take in range(TAKES):
            (root / f"{person}-{take}").write_text(f"{person} {take}")

    def read(path: Path) -> Clip:
        person, take = path.name.split("-")
        return clip_of(int(person), int(take))

    def make(*people: int, takes: int = TAKES) -> ReferenceClips:
        paths = {f"person {p}": [root / f"{p}-{take}" for take in range(takes)] for p in people}
        return ReferenceClips(folder="clips", paths=paths, read=read)

    return make


@pytest.fixture(scope="module")
def measurer(clips: Callable[..., ReferenceClips]) -> LikenessMeasurer:
    return LikenessMeasurer(person=clips(0), others=clips(1, 2, 3), face=FaceLayout(), voice=VoiceProfile())


def test_held_out_clips_of_the_person_are_recognized_and_others_are_not(
    measurer: LikenessMeasurer, sample_of: SampleOf
) -> None:
    own = [measurer.measure(sample_of(0, take)).values for take in (7, 8)]
    other = [measurer.measure(sample_of(person, 7)).values for person in (1, 2, 3)]
    for kind in ("face", "voice"):
        assert [values[f"{kind}_recognized"] for values in own] == [1.0, 1.0]
        assert [values[f"{kind}_recognized"] for values in other] == [0.0, 0.0, 0.0]
        mine, theirs = ([float(values[f"{kind}_likeness"]) for values in group] for group in (own, other))  # type: ignore[arg-type]
        assert min(mine) > 0.8
        assert max(theirs) < min(mine) - 0.3
        assert sum(theirs) / len(theirs) < 0.2
    assert set(own[0]) == {measure.name for measure in measurer.measures}
    assert isinstance(measurer, Measurer)
    assert measurer.measures[1].title == "face recognized among 4 people"


def test_face_and_voice_are_judged_apart(measurer: LikenessMeasurer, sample_of: SampleOf) -> None:
    seen, heard = sample_of(0, 7), sample_of(2, 7)
    values = measurer.measure(replace(seen, clip=replace(seen.clip, waveform=heard.clip.waveform))).values
    assert (values["face_recognized"], values["voice_recognized"]) == (1.0, 0.0)


def test_a_face_mixed_with_another_is_less_alike(measurer: LikenessMeasurer, sample_of: SampleOf) -> None:
    own, other = sample_of(0, 7), sample_of(1, 7)
    found = []
    for share in (0.0, 0.3, 0.6, 1.0):
        frames = (1 - share) * own.clip.frames.float() + share * other.clip.frames.float()
        mixed = replace(own, clip=replace(own.clip, frames=frames.round().to(torch.uint8)))
        found.append(measurer.measure(mixed).values["face_likeness"])
    assert found == sorted(found, reverse=True)  # type: ignore[type-var]


class Constant:
    def embed(self, sample: Sample) -> torch.Tensor:
        return torch.ones(8)

    def fingerprint(self) -> str:
        return "constant"


def test_a_constant_embedder_recognizes_nobody(clips: Callable[..., ReferenceClips], sample_of: SampleOf) -> None:
    blind = LikenessMeasurer(person=clips(0), others=clips(1, 2, 3), face=Constant(), voice=None)
    measured = blind.measure(sample_of(0, 7))
    assert measured.values == {} and [m.name for m in blind.measures] == ["face_likeness", "face_recognized"]
    assert "tells people apart" in measured.notes[0]


def test_without_face_or_sound_that_part_is_undefined(measurer: LikenessMeasurer, sample_of: SampleOf) -> None:
    sample = sample_of(0, 7)
    mute = measurer.measure(replace(sample, clip=replace(sample.clip, waveform=None)))
    assert set(mute.values) == {"face_likeness", "face_recognized"} and "no sound track" in mute.notes[0]


def test_clips_and_references_without_a_face(clips: Callable[..., ReferenceClips], sample_of: SampleOf) -> None:
    def wall(path: Path) -> Clip:
        clip = sample_of(0, int(path.name[-1])).clip
        return replace(clip, frames=torch.full_like(clip.frames, 90))

    person = ReferenceClips(folder="walls", paths=clips(0, takes=2).paths, read=wall)
    measurer = LikenessMeasurer(person=person, others=clips(1, 2, 3, takes=2), face=FaceLayout(), voice=VoiceProfile())
    sample = replace(sample_of(0, 7), faces=CascadeFaces())
    measured = measurer.measure(sample)
    assert "none of the person's clips in walls show a face" in measured.notes[0]
    assert measured.values["voice_recognized"] == 1.0
    bare = measurer.measure(replace(sample, clip=replace(sample.clip, frames=torch.full_like(sample.clip.frames, 90))))
    assert "no face was found" in bare.notes[0] and set(bare.values) == {"voice_likeness", "voice_recognized"}


def test_a_reference_clip_is_compared_with_the_rest(
    measurer: LikenessMeasurer, clips: Callable[..., ReferenceClips], sample_of: SampleOf
) -> None:
    path = clips(0).paths["person 0"][2]
    alone = measurer.measure(replace(sample_of(0, 2), path=path)).values["face_likeness"]
    copied = measurer.measure(sample_of(0, 2)).values["face_likeness"]
    assert alone < copied < 1  # type: ignore[operator]
    single = LikenessMeasurer(person=clips(0, takes=1), others=clips(1, 2, 3), face=FaceLayout(), voice=None)
    path = clips(0).paths["person 0"][0]
    assert "only reference clip" in single.measure(replace(sample_of(0, 0), path=path)).notes[0]


def test_whom_it_cannot_tell_apart_it_refuses(clips: Callable[..., ReferenceClips]) -> None:
    with pytest.raises(ValueError, match=r"clips of 2 people other than person 0 \(person 1, person 2\)"):
        LikenessMeasurer(person=clips(0), others=clips(0, 1, 2), face=FaceLayout(), voice=None)
    with pytest.raises(ValueError, match="holds clips of 2 people"):
        LikenessMeasurer(person=clips(0, 1), others=clips(1, 2, 3), face=FaceLayout(), voice=None)


def test_the_protocol_says_who_is_compared_by_what(clips: Callable[..., ReferenceClips]) -> None:
    def protocol(person: int, *others: int, face: bool = True) -> dict[str, str]:
        embedder = FaceLayout() if face else Constant()
        return dict(LikenessMeasurer(person=clips(person), others=clips(*others), face=embedder, voice=None).protocol())

    first = protocol(0, 1, 2, 3)
    assert first == protocol(0, 0, 1, 2, 3)  # the person is none of the others
    changed = (protocol(1, 0, 2, 3), protocol(0, 1, 2, 3, face=False))
    assert first not in changed and {"person", "others", "space", "face"} == set(first)
