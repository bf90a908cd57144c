"""The teacher's training: what counts in the loss, and that ranks make no difference."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hh_train.data.packing import pack
from hh_train.flow.noise_levels import ShiftedUniform
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.flow_module import FlowMatchingModule
from hh_train.training.optim import AdamWRecipe
from hh_train.types import LatentClip, PackedBatch

Make = Callable[..., LatentClip]


def make_module(config: ModelConfig, **changes: object) -> FlowMatchingModule:
    model = SandwichTransformer(config=config, compute_dtype="float32")
    torch.nn.init.zeros_(model.final_linear_video.weight)
    torch.nn.init.zeros_(model.final_linear_audio.weight)
    recipe = AdamWRecipe(learning_rate=3e-3)
    module = FlowMatchingModule(model=model, noise_levels=ShiftedUniform(), optimizer=recipe, **changes)
    module.log = lambda *_, **__: None  # no trainer here
    return module


def loss(module: FlowMatchingModule, batch: PackedBatch) -> float:
    return float(type(module).training_step(module, batch, 0))


@pytest.fixture(autouse=True)
def no_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlowMatchingModule, "global_step", 0)


def test_a_zero_model_has_the_energy_of_noise_minus_clean(tiny_config: ModelConfig, make_clip: Make) -> None:
    """Clean of energy 4 and independent noise of energy 1: 5 for each modality, whatever their numbers of tokens."""
    clips = [make_clip(str(i), video=(3, 8, 8), audio=33, seed=i) for i in range(20)]
    batch = pack([replace(c, video=2 * c.video, audio=2 * c.audio) for c in clips], patch=(1, 2, 2))
    for weights, expected in (((1.0, 0.0), 5.0), ((0.0, 1.0), 5.0), ((1.0, 2.0), 15.0)):
        module = make_module(tiny_config, video_weight=weights[0], audio_weight=weights[1])
        assert loss(module, batch) == pytest.approx(expected, rel=0.05)


def test_given_tokens_carry_no_loss(tiny_config: ModelConfig, make_clip: Make) -> None:
    module = make_module(tiny_config)
    clip = make_clip("a", num_given_frames=1, audio_is_given=True)
    wild = replace(clip, video=clip.video.clone(), audio=clip.audio * 100)
    wild.video[:, :1] *= 100
    plain, changed = (loss(module, pack([c], patch=(1, 2, 2))) for c in (clip, wild))
    assert plain == changed  # the model predicts zero, so only targets could differ
    assert loss(module, pack([replace(clip, num_given_frames=0, audio_is_given=False)], patch=(1, 2, 2))) != plain


def test_given_tokens_reach_the_model_clean(tiny_config: ModelConfig, make_clip: Make) -> None:
    module = make_module(tiny_config)
    seen: list[PackedBatch] = []
    module.model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    batch = pack([make_clip("a", num_given_frames=1), make_clip("b", audio_is_given=True)], patch=(1, 2, 2))
    loss(module, batch)
    assert torch.equal(seen[0].video[batch.video_is_given], batch.video[batch.video_is_given])
    assert torch.equal(seen[0].audio[batch.audio_is_given], batch.audio[batch.audio_is_given])
    assert not torch.isclose(seen[0].video[~batch.video_is_given], batch.video[~batch.video_is_given]).any()


def test_it_learns(tiny_config: ModelConfig, make_clip: Make) -> None:
    torch.manual_seed(0)
    module = make_module(tiny_config)
    optimizer, _ = module.recipe.build(module.model.parameters(), num_steps=200)
    batch = pack([make_clip(str(i), seed=i % 2) for i in range(8)], patch=(1, 2, 2))
    first = loss(module, batch)
    for _ in range(100):
        objective = module.training_step(batch, 0)
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
    assert loss(module, batch) < 0.5 * first


def test_two_ranks_train_as_one_process_with_both_clips(one_process: Path, two_ranks: Path) -> None:
    losses = [json.loads((folder / "losses.json").read_text()) for folder in (one_process, two_ranks)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    alone, together = (load_file(folder / "teacher" / "model.safetensors") for folder in (one_process, two_ranks))
    assert alone["final_norm_video.weight"].abs().max() > 1e-4  # zero in a fresh model
    assert together.keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, atol=1e-5, rtol=1e-4, msg=name)
