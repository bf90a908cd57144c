"""Order, budget, conditions, ranks and resume of the batches."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.manifest import Manifest, TokenizerRecord
from hh_train.data.shard_folder import ShardFolder
from hh_train.data.shards import TokenizedClip, write_null_text
from hh_train.types import ClipMetadata, LatentClip, PackedBatch, Prompt

NULL_TOKENS = 3
PATCH = (1, 2, 2)


def clip(key: str, index: int) -> TokenizedClip:
    """Every value of a clip is its own number, so that batches show what is in them."""
    frames = 2 + index % 3
    latents = LatentClip(
        key=key,
        video=torch.full((4, frames, 4, 4), float(index)),
        audio=None if index % 5 == 4 else torch.full((4 * frames - 3, 6), float(index)),
        text=torch.full((4 + index % 2, 8), float(index)),
    )
    return TokenizedClip(latents=latents, metadata=ClipMetadata(key=key, prompt=Prompt(description="A face")))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training clips in several shards and 7 for validation."""
    path = tmp_path_factory.mktemp("shards")
    folder = ShardFolder(folder=path, settings={}, shard_bytes=20_000)
    folder.write_split("train", [clip(f"train-{i:02d}", i) for i in range(60)])
    folder.write_split("validation", [clip(f"validation-{i}", i) for i in range(7)])
    write_null_text(path, torch.full((NULL_TOKENS, 8), -1.0))
    record = TokenizerRecord(tokenizer_class="none", num_channels=4, fingerprint="0")
    folder.finish(
        Manifest(
            settings={},
            frames_per_second=25.0,
            samples_per_second=16_000,
            tokenizers=dict.fromkeys(("video", "audio", "text"), record),
            shards=folder.records,
        )
    )
    assert len(Manifest.load(path).shards_of("train")) > 4
    return path


def data(shards: Path, **arguments: Any) -> LatentDataModule:
    defaults: dict[str, Any] = {"patch": PATCH, "tokens_per_batch": 200, "seed": 1, "shards_in_hand": 2}
    module = LatentDataModule(shards=str(shards), **{**defaults, **arguments})
    module.setup("fit")
    return module


def batches(module: LatentDataModule, count: int) -> list[PackedBatch]:
    return list(islice(iter(module.train_dataloader()), count))


def assert_same(first: PackedBatch, second: PackedBatch) -> None:
    assert first.keys == second.keys
    for name in ("video", "audio", "text", "video_is_given", "audio_is_given", "sequence_index"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_the_stream_is_a_function_of_the_seed(shards: Path) -> None:
    first, second = batches(data(shards), 30), batches(data(shards), 30)
    for one, other in zip(first, second, strict=True):
        assert_same(one, other)
    assert [b.keys for b in batches(data(shards, seed=2), 5)] != [b.keys for b in first[:5]]


def test_no_batch_is_over_budget_and_most_are_nearly_full(shards: Path) -> None:
    sizes = [batch.num_tokens for batch in batches(data(shards), 50)]
    assert max(sizes) <= 200
    assert sum(sizes) / len(sizes) > 150


def test_an_epoch_shows_every_clip_once_but_for_the_remainder(shards: Path) -> None:
    module = data(shards)
    seen = [clip.sample.key for batch in module.plan.epoch(0) for clip in batch]
    assert len(seen) == len(set(seen))
    assert len(seen) >= 60 - 8
    assert seen != [clip.sample.key for batch in module.plan.epoch(1) for clip in batch]
    many = Counter(clip.sample.key for epoch in range(20) for batch in module.plan.epoch(epoch) for clip in batch)
    assert len(many) == 60
    assert min(many.values()) >= 12


def test_clips_carry_their_own_latents(shards: Path) -> None:
    for batch in batches(data(shards, text_dropout=0.0), 10):
        assert batch.video.dtype == torch.float32
        numbers = torch.tensor([float(key.removeprefix("train-")) for key in batch.keys])
        assert torch.equal(batch.video[:, 0], numbers[batch.video_clip])
        assert torch.equal(batch.audio[:, 0], numbers[batch.audio_clip])


def test_text_dropout_puts_the_null_prompt(shards: Path) -> None:
    all_dropped = batches(data(shards, text_dropout=1.0), 3)
    assert all(
        (batch.text == -1).all() and batch.text.shape[0] == NULL_TOKENS * batch.num_clips for batch in all_dropped
    )
    drawn = [
        layout.text == NULL_TOKENS for batch in batches(data(shards, text_dropout=0.3), 150) for layout in batch.layouts
    ]
    assert sum(drawn) / len(drawn) == pytest.approx(0.3, abs=0.06)


def given_shares(found: list[PackedBatch]) -> tuple[float, float]:
    """The share of clips with a given first frame, and of clips with sound whose sound is given."""
    frames, sounds, clips, audible = 0, 0, 0, 0
    for batch in found:
        for index, layout in enumerate(batch.layouts):
            given = batch.video_is_given[batch.video_clip == index]
            per_frame = layout.num_video // layout.video[0]
            assert given.sum() in (0, per_frame)
            assert given[: int(given.sum())].all()
            frames += bool(given.any())
            clips += 1
            sound = batch.audio_is_given[batch.audio_clip == index]
            assert not sound.any() or sound.all()
            audible += layout.audio > 0
            sounds += bool(sound.any())
    return frames / clips, sounds / audible


def test_conditions_are_drawn_at_their_shares(shards: Path) -> None:
    frames, sounds = given_shares(batches(data(shards, image_to_video_share=0.4, audio_to_video_share=0.2), 150))
    assert frames == pytest.approx(0.4, abs=0.06)
    assert sounds == pytest.approx(0.2, abs=0.06)
    assert given_shares(batches(data(shards, image_to_video_share=0.0, audio_to_video_share=0.0), 20)) == (0, 0)


@pytest.mark.parametrize("num_trained", [0, 1, 7, 40])
def test_resume_goes_on_with_the_very_next_batch(shards: Path, num_trained: int) -> None:
    wanted = batches(data(shards), num_trained + 3)[num_trained:]
    before = data(shards)
    loader = iter(before.train_dataloader())
    for _ in range(num_trained):
        before.on_before_batch_transfer(next(loader), 0)
    next(loader)  # read ahead, never trained on
    after = data(shards)
    after.load_state_dict(before.state_dict())
    for found, expected in zip(batches(after, 3), wanted, strict=True):
        assert_same(found, expected)


def test_another_seed_cannot_resume(shards: Path) -> None:
    with pytest.raises(ValueError, match="seed"):
        data(shards, seed=2).load_state_dict(data(shards, seed=1).state_dict())


def test_workers_do_not_change_the_order(shards: Path) -> None:
    for one, other in zip(batches(data(shards), 12), batches(data(shards, num_workers=2), 12), strict=True):
        assert_same(one, other)


class Recorder(LightningModule):
    """Remembers the clips of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.trained: list[tuple[str, ...]] = []
        self.validated: list[tuple[str, ...]] = []

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        self.trained.append(batch.keys)
        return self.weight.sum()

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        self.validated.append(batch.keys)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, max_steps: int) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def test_a_lightning_run_resumes_exactly(shards: Path, tmp_path: Path) -> None:
    whole = Recorder()
    trainer(tmp_path, 13).fit(whole, datamodule=data(shards))
    first = Recorder()
    start = trainer(tmp_path, 6)
    start.fit(first, datamodule=data(shards))
    start.save_checkpoint(tmp_path / "middle.ckpt")
    second = Recorder()
    trainer(tmp_path, 13).fit(second, datamodule=data(shards), ckpt_path=tmp_path / "middle.ckpt", weights_only=False)
    assert len(whole.trained) == 13
    assert first.trained + second.trained == whole.trained
    assert {key for keys in whole.validated for key in keys} == {f"validation-{i}" for i in range(7)}


class _Rank:
    """What the data module asks a trainer for."""

    training = True

    def __init__(self, rank: int, world_size: int) -> None:
        self.global_rank, self.world_size = rank, world_size


def on_rank(shards: Path, rank: int, world_size: int) -> LatentDataModule:
    module = data(shards)
    module.trainer = _Rank(rank, world_size)
    return module


def test_ranks_deal_out_the_stream_of_one_process(shards: Path) -> None:
    alone = [batch.keys for batch in batches(data(shards), 21)]
    for rank in range(3):
        assert [batch.keys for batch in batches(on_rank(shards, rank, 3), 7)] == alone[rank::3]


def test_more_ranks_may_resume_what_fewer_began(shards: Path) -> None:
    alone = [batch.keys for batch in batches(data(shards), 20)]
    before = on_rank(shards, 1, 2)
    for batch in batches(before, 5):
        before.on_before_batch_transfer(batch, 0)
    for rank in range(4):
        after = on_rank(shards, rank, 4)
        after.load_state_dict(before.state_dict())
        assert [batch.keys for batch in batches(after, 2)] == alone[10 + rank :: 4][:2]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_validation_has_as_many_batches_on_every_rank_and_every_clip_once(shards: Path, world_size: int) -> None:
    loaders = [list(on_rank(shards, rank, world_size).val_dataloader()) for rank in range(world_size)]
    assert len({len(loader) for loader in loaders}) == 1
    keys = sorted(key for loader in loaders for batch in loader for key in batch.keys)
    assert keys == [f"validation-{i}" for i in range(7)]
    assert not any(batch.video_is_given.any() for loader in loaders for batch in loader)


def test_more_ranks_than_validation_clips_repeat_some(shards: Path) -> None:
    loaders = [list(on_rank(shards, rank, 8).val_dataloader()) for rank in range(8)]
    assert [len(loader) for loader in loaders] == [1] * 8


SCRIPT = """
import sys
from itertools import islice
import torch.distributed as dist
from hh_train.data.datamodule import LatentDataModule

rank, folder, shards = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
data = LatentDataModule(shards=shards, patch=(1, 2, 2), tokens_per_batch=200, seed=1, shards_in_hand=2)
data.setup()
print(*(key for batch in islice(data.train_dataloader(), 2) for key in batch.keys), sep=",")
print(len(data.val_dataloader()))
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_of_a_group_see_different_clips(shards: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path), str(shards)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    answers = [process.communicate(timeout=120)[0].split() for process in processes]
    (first, first_length), (second, second_length) = answers
    alone = batches(data(shards), 4)
    assert first.split(",") == [key for batch in alone[0::2] for key in batch.keys]
    assert second.split(",") == [key for batch in alone[1::2] for key in batch.keys]
    assert not set(first.split(",")) & set(second.split(","))
    assert first_length == second_length


def test_validation_can_be_shortened(shards: Path) -> None:
    loader = data(shards, max_validation_clips=2).val_dataloader()
    assert [key for batch in loader for key in batch.keys] == ["validation-0", "validation-1"]


def test_a_budget_too_small_names_clip_and_tokens(shards: Path) -> None:
    # the largest: 4 latent frames of 4 patches, 13 of sound, 5 of text
    with pytest.raises(ValueError, match=r"train-05.*up to 34 tokens.*tokens_per_batch is 33"):
        data(shards, tokens_per_batch=33)


def test_a_patch_that_does_not_divide_names_the_clip(shards: Path) -> None:
    with pytest.raises(ValueError, match=r"train-00.*patch"):
        data(shards, patch=(1, 3, 2))


def test_shards_are_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hh-train tokenize"):
        data(tmp_path)


@pytest.mark.parametrize("name", ["text_dropout", "image_to_video_share", "audio_to_video_share"])
def test_shares_are_checked(shards: Path, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        data(shards, **{name: 1.5})
