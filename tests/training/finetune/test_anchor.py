"""A student that is fine-tuned moves by what its teacher lacks of the data, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hh_train.data.packing import pack
from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.noise_levels import SampledLevels, sampling_levels
from hh_train.flow.path import velocity
from hh_train.training.finetune.anchor import shift_losses
from hh_train.training.flow_matching import NoisedPack
from hh_train.types import LatentClip, Modality, PackedBatch, Prediction


class Constant:
    """Predicts one velocity for all tokens of a modality."""

    def __init__(self, video: float, audio: float) -> None:
        self.values = torch.tensor([video, audio], requires_grad=True)

    def __call__(self, batch: PackedBatch) -> Prediction:
        video, audio = (value.expand_as(x) for value, x in zip(self.values, (batch.video, batch.audio), strict=True))
        return Prediction(video=video, audio=audio)


@pytest.fixture
def drawn(make_clip: Callable[..., LatentClip]) -> tuple[PackedBatch, NoisedPack]:
    clips = [
        make_clip(str(index), video=(3, 4, 4), audio=9, seed=index, num_given_frames=index % 2) for index in range(6)
    ]
    batch = pack(clips, patch=(1, 2, 2))
    noise = ClipNoise(batch, seed=0, purpose="train")
    return batch, NoisedPack.draw(batch, (batch.video, batch.audio), noise, SampledLevels(num_steps=4))


def means(losses: dict[Modality, object]) -> list[torch.Tensor]:
    return [losses[modality].mean() for modality in (Modality.VIDEO, Modality.AUDIO)]


def test_the_least_loss_is_at_the_student_moved_by_what_the_teacher_lacks(
    drawn: tuple[PackedBatch, NoisedPack],
) -> None:
    """With constant predictors: at v_S + mean(v) - v_T, over the tokens that are not given."""
    batch, noised_pack = drawn
    student, teacher = Constant(0.7, -0.4), Constant(0.2, 0.3)
    data = [velocity(clean, noise) for clean, noise in zip(noised_pack.clean, noised_pack.noise, strict=True)]
    free = (~batch.video_is_given, ~batch.audio_is_given)
    best = [
        float(own + values[counted].mean() - known)
        for own, values, counted, known in zip(student.values, data, free, teacher.values, strict=True)
    ]
    adapted = Constant(*best)
    sum(means(shift_losses(adapted, student, teacher, batch, noised_pack))).backward()
    torch.testing.assert_close(adapted.values.grad, torch.zeros(2), atol=1e-6, rtol=0)
    assert student.values.grad is None and teacher.values.grad is None
    elsewhere = Constant(best[0] + 0.1, best[1] + 0.1)
    sum(means(shift_losses(elsewhere, student, teacher, batch, noised_pack))).backward()
    torch.testing.assert_close(elsewhere.values.grad, torch.full((2,), 0.2), atol=1e-6, rtol=0)


def test_data_that_the_teacher_knows_leaves_the_student_as_it_is(drawn: tuple[PackedBatch, NoisedPack]) -> None:
    """A student far from the data's mean, as few steps need; plain flow matching would pull it back."""
    batch, noised_pack = drawn

    def knowing(_: PackedBatch) -> Prediction:
        video, audio = (velocity(c, n) for c, n in zip(noised_pack.clean, noised_pack.noise, strict=True))
        return Prediction(video=video, audio=audio)

    student = Constant(3.0, -3.0)
    adapted = Constant(3.0, -3.0)
    losses = means(shift_losses(adapted, student, knowing, batch, noised_pack))
    sum(losses).backward()
    assert [float(loss) for loss in losses] == pytest.approx([0.0, 0.0], abs=1e-9)
    torch.testing.assert_close(adapted.values.grad, torch.zeros(2), atol=1e-6, rtol=0)


def test_a_students_levels_are_those_of_its_sampler() -> None:
    drawn = SampledLevels(num_steps=8, shift=5.0).sample(4000, torch.Generator().manual_seed(0))
    levels, counts = drawn.unique(return_counts=True)
    torch.testing.assert_close(levels.flip(0), torch.tensor(sampling_levels(8, shift=5.0)[:-1]))
    assert counts.min() > 4000 / 8 * 0.85
    with pytest.raises(ValueError, match="at least 1 step"):
        SampledLevels(num_steps=0)
