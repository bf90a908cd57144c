"""Fine-tuning from a checkpoint: what is trained, what a killed run goes on from, what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from hh_train.data.datamodule import LatentDataModule
from hh_train.flow.noise_levels import ShiftedUniform
from hh_train.model.checkpoint import save_model
from hh_train.model.lora import AdapterRecipe, AdapterRule
from hh_train.model.quantized.formats import NF4Format
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.finetune.anchor import TeacherCheckpoint
from hh_train.training.finetune.base import BaseModel
from hh_train.training.finetune.export import Export
from hh_train.training.finetune.module import FLOAT32, FineTuningModule
from hh_train.training.finetune.rates import LayerwiseRates
from hh_train.training.fit import fit_or_resume
from hh_train.training.optim import AdamWRecipe

NUM_STEPS = 4
WAYS = {
    "adapters": {"adapters": AdapterRecipe(rules=(AdapterRule(rank=2),)), "ema_decay": 0.5},
    "decomposed": {"adapters": AdapterRecipe(rules=(AdapterRule(rank=2),), decomposed=True), "frozen": NF4Format()},
    "parts": {"adapters": None, "rates": LayerwiseRates(shares={"adapter.*": 0}, depth_decay=0.5), "ema_decay": 0.5},
}


class Cut(Callback):
    """Ends the run in the middle of a step."""

    def __init__(self, *, in_step: int) -> None:
        self.in_step = in_step

    def on_before_optimizer_step(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.in_step:
            raise OSError("no power")


@pytest.fixture
def base(shards_model: SandwichTransformer, tmp_path: Path) -> BaseModel:
    folder = save_model(shards_model.state_dict(), shards_model.config, tmp_path / "base" / "model")
    return BaseModel(checkpoint=str(folder.parent), compute_dtype="float32")


def make(base: BaseModel, way: str) -> FineTuningModule:
    settings = {"frozen": FLOAT32, **WAYS[way]}
    recipe = AdamWRecipe(learning_rate=1e-2, warmup_steps=2, final_share=0.1)
    return FineTuningModule(base=base, noise_levels=ShiftedUniform(), optimizer=recipe, seed=5, **settings)


def run(base: BaseModel, shards: Path, output: Path, way: str, *callbacks: Callback) -> tuple[FineTuningModule, Path]:
    module = make(base, way)
    save = ModelCheckpoint(dirpath=output / "checkpoints", save_last=True, save_top_k=0, every_n_train_steps=1)
    trainer = Trainer(
        accelerator="cpu", max_steps=NUM_STEPS, max_epochs=-1, logger=False, callbacks=[save, *callbacks],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        check_val_every_n_epoch=None, val_check_interval=2,
    )  # fmt: skip
    data = LatentDataModule(shards=str(shards), patch=(1, 2, 2), tokens_per_batch=100, seed=3)
    fit_or_resume(module, data, trainer)
    return module, Export().write(module, data.manifest, output, scores={})


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_was_cut_off_ends_with_the_same_weights(
    base: BaseModel, tiny_shards: Path, tmp_path: Path, way: str
) -> None:
    _, whole = run(base, tiny_shards, tmp_path / "whole", way)
    with pytest.raises(OSError, match="no power"):
        run(base, tiny_shards, tmp_path / "cut", way, Cut(in_step=3))
    torch.manual_seed(1)  # nothing is drawn from the global generator
    _, resumed = run(base, tiny_shards, tmp_path / "cut", way)
    before, wanted, got = (load_file(folder / "model.safetensors") for folder in (base.folder, whole, resumed))
    assert any(not torch.equal(wanted[name], before[name]) for name in before)
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor), name


def test_a_run_with_other_adapters_is_not_gone_on_with(base: BaseModel, tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no power"):
        run(base, tiny_shards, tmp_path / "run", "parts", Cut(in_step=2))
    with pytest.raises(ValueError, match="of a run with other adapters or frozen parts"):
        run(base, tiny_shards, tmp_path / "run", "adapters")


def test_a_run_from_another_base_is_not_gone_on_with(
    base: BaseModel, shards_model: SandwichTransformer, tiny_shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="no power"):
        run(base, tiny_shards, tmp_path / "run", "adapters", Cut(in_step=2))
    torch.nn.init.normal_(shards_model.final_norm_audio.weight)
    other = save_model(shards_model.state_dict(), shards_model.config, tmp_path / "other")
    with pytest.raises(ValueError, match="of a run on another base"):
        run(BaseModel(checkpoint=str(other), compute_dtype="float32"), tiny_shards, tmp_path / "run", "adapters")


def test_the_average_is_what_is_exported(base: BaseModel, tiny_shards: Path, tmp_path: Path) -> None:
    module, folder = run(base, tiny_shards, tmp_path / "run", "parts")
    exported, latest = load_file(folder / "model.safetensors"), module.model.state_dict()
    name = "final_linear_video.weight"
    assert not torch.allclose(exported[name], latest[name], atol=1e-5)
    with module.exporting() as model:
        assert torch.equal(exported[name], model.state_dict()[name])


def test_layers_learn_at_rates_of_their_own(base: BaseModel) -> None:
    module = make(base, "parts")
    module.configure_model()
    model = module.model
    module.configure_model()
    assert module.model is model  # built once
    shares = {id(p): one.share for one in module.rated_parameters() for p in one.parameters}
    named = dict(module.model.named_parameters())
    assert shares[id(named["final_linear_audio.weight"])] == 1
    assert shares[id(named["block.layers.1.mlp.down_proj.weight"])] == 0.25  # of four layers
    assert not named["adapter.video_embedder.weight"].requires_grad


def test_a_checkpoint_without_a_configuration_is_read_off_its_shapes(base: BaseModel) -> None:
    wanted = base.architecture
    (base.folder / "config.json").unlink()
    assert BaseModel(checkpoint=base.checkpoint).architecture == wanted
    module = make(BaseModel(checkpoint=base.checkpoint), "adapters")
    module.configure_model()
    assert module.model.config == wanted


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"adapters": AdapterRecipe(), "rates": LayerwiseRates()}, "got adapters and rates"),
        ({"adapters": None, "frozen": NF4Format()}, "got quantization=nf4 and offload=False without adapters"),
        ({"adapters": None, "offload": True}, "got quantization=float32 and offload=True without adapters"),
        ({"adapters": None, "anchor": TeacherCheckpoint(checkpoint="x")}, "got an anchor without adapters"),
    ],
)
def test_what_does_not_go_together(base: BaseModel, settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FineTuningModule(
            base=base, noise_levels=ShiftedUniform(), optimizer=AdamWRecipe(learning_rate=1.0),
            **{"frozen": FLOAT32, **settings},
        )  # fmt: skip


def test_a_teacher_of_another_architecture_is_refused(
    base: BaseModel, tiny_model: SandwichTransformer, tmp_path: Path
) -> None:
    other = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "other")
    with pytest.raises(ValueError, match="another architecture than the student"):
        TeacherCheckpoint(checkpoint=str(other)).load(base.architecture)


def test_two_ranks_train_as_one_process_with_both_clips(one_process: Path, two_ranks: Path) -> None:
    """Whole or sharded, where each process has read its own part of the base."""
    before, alone, together = (
        load_file(folder / "model.safetensors")
        for folder in (one_process / "base", one_process / "tuned", two_ranks / "tuned")
    )
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, atol=2e-5, rtol=1e-3, msg=name)
    assert all(not torch.equal(alone[name], before[name]) for name in before if name.endswith("weight"))


def test_two_ranks_train_the_adapter_of_one_process(one_process: Path, two_ranks: Path) -> None:
    """By what it changes. Its first factor has gradients near 0 at first, of which Adam makes whole steps."""
    alone, together = (changes(folder / "adapted.safetensors") for folder in (one_process, two_ranks))
    assert together.keys() == alone.keys()
    for name, change in alone.items():
        assert change.abs().max() > 1e-3
        torch.testing.assert_close(together[name], change, atol=0.02 * float(change.abs().max()), rtol=0, msg=name)


def changes(file: Path) -> dict[str, torch.Tensor]:
    """Of each matrix."""
    stored = load_file(file)
    firsts = [name for name in stored if name.endswith("lora_A.weight")]
    return {name: stored[name.replace("lora_A", "lora_B")] @ stored[name] for name in firsts}
