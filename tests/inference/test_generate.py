"""Generation: what a clip depends on and what not, what it costs, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import RenoiseSolver, UniPCSolver
from hh_train.inference.generate import ClipGenerator, GeneratedClip
from hh_train.types import LatentClip

PROMPT = 'A woman\n\nDialogue:\n<Woman, English>: "hello there"'
OTHER = "A dog barks"


def request(generator: ClipGenerator, key: str = "a", prompt: str = PROMPT, **changes: object) -> LatentClip:
    return generator.request(key, prompt, **{"num_frames": 9, "size": (32, 16), **changes})


def distance(one: GeneratedClip, other: GeneratedClip) -> float:
    return max(float((one.video - other.video).abs().max()), float((one.audio - other.audio).abs().max()))


def test_a_request_has_the_geometry_of_the_codecs(generator: ClipGenerator) -> None:
    clip = request(generator)
    assert clip.video.shape == (3, 3, 4, 2)
    assert clip.audio.shape == (9, 5)
    assert torch.equal(clip.text, generator.tokenizers.text.encode(PROMPT))
    assert clip.num_given_frames == 0 and not clip.audio_is_given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 8}, r"cannot generate 8 frames of 32x16 .*want 4k\+1 frames"),
        ({"size": (24, 16)}, "24x16 .*a height that 16 divides"),
        ({"size": (32, 20)}, "32x20 .*a width that 16 divides"),
        ({"size": (0, 16)}, "0x16"),
    ],
)
def test_sizes_that_do_not_fit_are_told(generator: ClipGenerator, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request(generator, **changes)


def test_media_have_the_size_that_was_asked_for(generator: ClipGenerator) -> None:
    (made,) = generator.generate([request(generator)], seed=0)
    assert made.key == "a"
    assert made.clip.frames.shape == (9, 32, 16, 3)
    assert made.clip.waveform.shape == (9 * 640,)
    assert made.clip.frames.float().std() > 1 and made.clip.waveform.abs().max() > 0
    assert torch.equal(made.clip.frames, generator.tokenizers.video.decode(made.video))
    assert torch.equal(made.clip.waveform, generator.tokenizers.audio.decode(made.audio))
    assert made.seconds > 0


@pytest.mark.parametrize("solver", [RenoiseSolver(num_steps=3), UniPCSolver(num_steps=3)])
@pytest.mark.parametrize("guidance", [Guidance(), Guidance(video=3.0, audio=2.0)])
def test_a_clip_does_not_depend_on_what_it_is_packed_with(
    generator: ClipGenerator, solver: RenoiseSolver | UniPCSolver, guidance: Guidance
) -> None:
    generator = replace(generator, solver=solver, guidance=guidance)
    requests = [request(generator), request(generator, "b", OTHER, num_frames=5), request(generator, "c")]
    together = generator.generate(requests, seed=0)
    assert [made.key for made in together] == ["a", "b", "c"]
    for clip, packed in zip(requests, together, strict=True):
        (alone,) = generator.generate([clip], seed=0)
        assert distance(alone, packed) < 1e-3
    assert distance(together[0], together[2]) > 0.1  # the same prompt and size under another key


def test_a_clip_depends_on_seed_and_prompt_alone(generator: ClipGenerator) -> None:
    def make(prompt: str, seed: int) -> GeneratedClip:
        return generator.generate([request(generator, prompt=prompt)], seed=seed)[0]

    first = make(PROMPT, 0)
    torch.manual_seed(123)
    assert distance(first, make(PROMPT, 0)) == 0
    assert distance(first, make(PROMPT, 1)) > 0.1
    assert distance(first, make(OTHER, 0)) > 0.1


@pytest.mark.parametrize(("scale", "passes_per_step"), [(1.0, 1), (3.0, 2)])
def test_evaluations_are_the_passes_of_a_clip(generator: ClipGenerator, scale: float, passes_per_step: int) -> None:
    seen: list[int] = []
    generator.model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].num_clips))
    steps: list[int] = []
    guided = replace(generator, guidance=Guidance(video=scale, audio=scale), solver=RenoiseSolver(num_steps=3))
    made = guided.generate([request(guided), request(guided, "b")], seed=0, on_step=lambda: steps.append(1))
    assert [clip.num_evaluations for clip in made] == [3 * passes_per_step] * 2
    assert sum(seen) == 2 * 3 * passes_per_step
    assert len(steps) == 3


@pytest.mark.parametrize("solver", [RenoiseSolver(num_steps=3), UniPCSolver(num_steps=3)])
def test_a_given_first_frame_survives_and_counts(generator: ClipGenerator, solver: RenoiseSolver | UniPCSolver) -> None:
    generator = replace(generator, solver=solver)
    empty = request(generator)
    picture = torch.randn(empty.video.shape, generator=torch.Generator().manual_seed(1))
    given = replace(empty, video=picture, num_given_frames=1)
    made, free = (generator.generate([clip], seed=0)[0] for clip in (given, empty))
    assert torch.equal(made.video[:, :1], picture[:, :1])
    assert (made.video[:, 1:] - picture[:, 1:]).abs().min(dim=0).values.max() > 0.1
    assert (made.video[:, 1:] - free.video[:, 1:]).abs().max() > 1e-3
    assert (made.audio - free.audio).abs().max() > 1e-3


def test_a_given_sound_survives(generator: ClipGenerator) -> None:
    empty = request(generator)
    sound = torch.randn(empty.audio.shape, generator=torch.Generator().manual_seed(1))
    (made,) = generator.generate([replace(empty, audio=sound, audio_is_given=True)], seed=0)
    assert torch.equal(made.audio, sound)


def test_a_single_picture_is_a_clip_of_one_frame(generator: ClipGenerator) -> None:
    picture = replace(request(generator, "picture", num_frames=1), audio=None)
    assert picture.video.shape[1] == 1
    (alone,) = generator.generate([picture], seed=0)
    assert alone.audio is None and alone.clip.waveform is None
    assert alone.clip.frames.shape == (1, 32, 16, 3)
    packed, _ = generator.generate([picture, request(generator, "clip")], seed=0)
    torch.testing.assert_close(packed.video, alone.video, atol=1e-4, rtol=0)
    other = replace(picture, text=generator.tokenizers.text.encode("something else"))
    (changed,) = generator.generate([other], seed=0)
    assert (changed.video - alone.video).abs().max() > 1e-3


def test_a_clip_without_sound_has_no_waveform(generator: ClipGenerator) -> None:
    (made,) = generator.generate([replace(request(generator), audio=None)], seed=0)
    assert made.audio is None and made.clip.waveform is None
    assert made.clip.frames.shape == (9, 32, 16, 3)


def test_sound_without_pictures_is_refused(generator: ClipGenerator) -> None:
    with pytest.raises(ValueError, match="without video latents cannot be shown"):
        generator.generate([replace(request(generator), video=None)], seed=0)
