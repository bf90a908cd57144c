"""What the loss sees of conditions: given tokens enter clean and teach nothing, all others are noised and count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hh_train.data.packing import pack
from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.noise_levels import ShiftedUniform
from hh_train.training.flow_matching import NoisedPack, flow_matching_losses, sums_per_clip, weighted_objective
from hh_train.types import LatentClip, Modality, PackedBatch, Prediction

Make = Callable[..., LatentClip]
PATCH = (1, 2, 2)
WEIGHTS = {Modality.VIDEO: 1.0, Modality.AUDIO: 1.0}
PER_FRAME = 2
CONDITIONS: dict[str, tuple[dict[str, Any], int, int]] = {
    "nothing given": ({}, 0, 0),
    "image to video": ({"num_given_frames": 1}, PER_FRAME, 0),
    "audio to video": ({"audio_is_given": True}, 0, 5),
    "image and audio to video": ({"num_given_frames": 1, "audio_is_given": True}, PER_FRAME, 5),
    "text to image": ({"video": (1, 4, 2), "audio": None}, 0, 0),
    "image to silent video": ({"audio": None, "num_given_frames": 1}, PER_FRAME, 0),
    "text to sound": ({"video": None}, 0, 0),
}
"""Changes of a clip of 2 x 2 video and 5 audio tokens, and how many of each are given then."""


class Recorder:
    """A model with a prediction of its own, which keeps what it was shown."""

    def __init__(self, batch: PackedBatch) -> None:
        self.video = torch.randn_like(batch.video).requires_grad_()
        self.audio = torch.randn_like(batch.audio).requires_grad_()

    def __call__(self, batch: PackedBatch) -> Prediction:
        self.shown = batch
        return Prediction(video=self.video, audio=self.audio)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_given_tokens_enter_clean_and_carry_no_loss(make_clip: Make, condition: str) -> None:
    changes, num_video, num_audio = CONDITIONS[condition]
    torch.manual_seed(0)
    batch = pack([make_clip("other", seed=1), make_clip("own", **changes)], patch=PATCH)
    assert (int(batch.video_is_given.sum()), int(batch.audio_is_given.sum())) == (num_video, num_audio)
    model = Recorder(batch)
    draws = ClipNoise(batch, seed=0, purpose="test")
    noised = NoisedPack.draw(batch, (batch.video, batch.audio), draws, ShiftedUniform())
    losses = flow_matching_losses(model, batch, noised)
    weighted_objective(losses, WEIGHTS).backward()
    for modality, name in ((Modality.VIDEO, "video"), (Modality.AUDIO, "audio")):
        given, clean = getattr(batch, f"{name}_is_given"), getattr(batch, name)
        shown, gradient = getattr(model.shown, name), getattr(model, name).grad
        assert torch.equal(shown[given], clean[given])
        assert ((shown - clean)[~given].abs().amax(-1) > 0).all()
        assert (gradient[given] == 0).all()
        assert (gradient[~given].abs().amax(-1) > 0).all()
        assert losses[modality].count.sum() == (~given).sum()


def test_the_first_frame_alone_is_given(make_clip: Make) -> None:
    batch = pack([make_clip("a", video=(3, 4, 2), num_given_frames=1)], patch=PATCH)
    counted = sums_per_clip((torch.ones(6), torch.ones(5)), batch)
    assert counted[Modality.VIDEO].total.tolist() == [4] and counted[Modality.AUDIO].total.tolist() == [5]
    counted = sums_per_clip((torch.tensor([9.0, 9, 1, 1, 1, 1]), torch.ones(5)), batch)
    assert counted[Modality.VIDEO].mean() == 1
