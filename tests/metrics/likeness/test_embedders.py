"""Embeddings follow the person, and not the wall, the clothes, the words or the loudness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from hh_train.metrics.faces.cascade import CascadeFaces
from hh_train.metrics.faces.track import NoFaceError
from hh_train.metrics.likeness.embedders import Embedder, FaceLayout, NetworkFace, NetworkVoice, VoiceProfile
from hh_train.metrics.measurer import Sample
from hh_train.types import Clip

SampleOf = Callable[[int, int], Sample]


@pytest.mark.parametrize("embedder", [FaceLayout(), VoiceProfile()], ids=["face", "voice"])
def test_clips_of_one_person_lie_nearer_than_those_of_two(embedder: Embedder, sample_of: SampleOf) -> None:
    found = [[embedder.embed(sample_of(person, take)) for take in range(3)] for person in range(4)]
    within = max(float((a - b).norm()) for takes in found for a in takes for b in takes)
    between = min(
        float((a - b).norm()) for i, mine in enumerate(found) for theirs in found[:i] for a in mine for b in theirs
    )
    assert 0 < within < between
    assert isinstance(embedder, Embedder)


def test_a_voice_is_the_same_at_any_loudness(sample_of: SampleOf) -> None:
    sample = sample_of(1, 0)
    assert sample.clip.waveform is not None
    soft = replace(sample, clip=replace(sample.clip, waveform=0.1 * sample.clip.waveform))
    torch.testing.assert_close(VoiceProfile().embed(soft), VoiceProfile().embed(sample), atol=1e-4, rtol=1e-4)


def test_without_a_face_or_sound_there_is_nothing_to_embed(sample_of: SampleOf) -> None:
    clip = sample_of(0, 0).clip
    wall = Sample(
        key="wall",
        clip=replace(clip, frames=torch.full_like(clip.frames, 90)),
        transcript=None,
        language=None,
        faces=CascadeFaces(),
    )
    with pytest.raises(NoFaceError, match="no face was found"):
        FaceLayout().embed(wall)
    for waveform, named in ((None, "no sound track"), (torch.zeros(16_000), "silent")):
        mute = Sample(key="mute", clip=replace(clip, waveform=waveform), transcript=None, language=None)
        with pytest.raises(ValueError, match=named):
            VoiceProfile().embed(mute)


@dataclass
class FrameStub:
    """The mean color of each frame."""

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.float().mean(dim=(1, 2))

    def fingerprint(self) -> str:
        return "colors"


@dataclass
class SoundStub:
    """Two rows: the first and the last sample."""

    name: str = "ends"
    dim: int = 1

    def features(self, clip: Clip) -> torch.Tensor:
        assert clip.waveform is not None
        return torch.stack((clip.waveform[:1], clip.waveform[-1:]))

    def fingerprint(self) -> str:
        return "ends"


def test_networks_are_averaged_over_the_clip(sample_of: SampleOf) -> None:
    sample = sample_of(2, 1)
    waveform = torch.linspace(1, 3, 16_000)
    voice = NetworkVoice(network=SoundStub())
    assert float(voice.embed(replace(sample, clip=replace(sample.clip, waveform=waveform)))) == pytest.approx(2.0)
    face = NetworkFace(network=FrameStub())
    found = face.embed(sample_of(0, 1))
    assert found.shape == (3,) and float(found[0]) > 100  # skin fills the head
    assert float(face.embed(sample_of(1, 1))[0]) < float(found[0]) - 40
    fingerprints = {e.fingerprint() for e in (voice, face, FaceLayout(), VoiceProfile())}
    assert len(fingerprints) == 4 and "colors" in face.fingerprint()
