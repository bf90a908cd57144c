"""Trains a tiny model for three steps on two clips and writes the losses and weights: in one process on both clips at
once, or under torchrun on one clip a rank, with whole (ddp) or sharded (fsdp) networks. Started by test_flow_module.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import DataLoader, IterableDataset

from hh_train.data.packing import pack
from hh_train.flow.noise_levels import ShiftedUniform
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.distributed import is_rank_zero, rank, world_size
from hh_train.training.flow_module import FlowMatchingModule
from hh_train.training.optim import AdamWRecipe
from hh_train.types import LatentClip, PackedBatch


class OwnClips(IterableDataset[PackedBatch]):
    """This rank's clips of the two."""

    def __iter__(self) -> Iterator[PackedBatch]:
        generator = torch.Generator().manual_seed(0)
        clips = [
            LatentClip(
                key=str(frames),
                video=torch.randn(3, frames, 4, 2, generator=generator),
                audio=torch.randn(4 * frames - 3, 5, generator=generator),
                text=torch.randn(frames, 7, generator=generator),
                num_given_frames=frames % 2,
            )
            for frames in (2, 5)
        ]
        while True:
            yield pack(clips[rank() :: world_size()], patch=(1, 2, 2))


class Losses(Callback):
    """Collects the loss, which is logged as its mean over ranks."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.values.append(float(trainer.callback_metrics["train/loss"]))


def strategy_of(name: str) -> str | Strategy:
    """Lightning's strategy, or for "fsdp" parameters sharded over all ranks."""
    return (
        ModelParallelStrategy(data_parallel_size=world_size_of_launch(), tensor_parallel_size=1)
        if name == "fsdp"
        else name
    )


def main(strategy: str, path: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        num_layers=3, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
        text_in_channels=7, mm_layers=(0, 2), gelu7_layers=(0,),
    )  # fmt: skip
    module = FlowMatchingModule(
        model=SandwichTransformer(config=config, compute_dtype="float32"),
        noise_levels=ShiftedUniform(),
        optimizer=AdamWRecipe(learning_rate=1e-3),
        audio_weight=2.0,
        ema_decay=0.5,
    )
    losses = Losses()
    trainer = Trainer(
        accelerator="cpu", devices=world_size_of_launch(), strategy=strategy_of(strategy), max_steps=3,
        callbacks=[losses], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(OwnClips(), batch_size=None))
    weights = get_model_state_dict(
        module.exported_model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if is_rank_zero():
        torch.save({"losses": losses.values, "weights": weights}, path)


def world_size_of_launch() -> int:
    import os

    return int(os.environ.get("WORLD_SIZE", "1"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
