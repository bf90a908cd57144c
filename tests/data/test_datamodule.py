"""Order, budget, conditions, ranks and resume of the batches."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import re
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from torch import Tensor

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.loading.conditions import Phase
from hh_train.data.loading.shard_sets import Reading, ShardSet
from hh_train.data.shards.folder import ShardFolder
from hh_train.data.shards.format import STORED_DTYPE, TokenizedClip, write_null_text
from hh_train.data.shards.manifest import Manifest, TokenizerRecord
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


def data(shards: Path | str | ShardSet | list[ShardSet], **arguments: Any) -> LatentDataModule:
    defaults: dict[str, Any] = {"patch": PATCH, "tokens_per_batch": 200, "seed": 1, "shards_in_hand": 2}
    given = str(shards) if isinstance(shards, Path) else shards
    module = LatentDataModule(shards=given, **{**defaults, **arguments})
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
    assert sum(sizes) / len(sizes) > 170  # an epoch is 7.3 batches, rounded up to 8


def test_an_epoch_shows_every_clip_once(shards: Path) -> None:
    module = data(shards)
    length = len(module.plan.epoch(0))
    found = [key for batch in batches(module, 3 * length) for key in batch.keys]
    epochs = [found[start : start + 60] for start in (0, 60)]
    assert all(sorted(seen) == [f"train-{i:02d}" for i in range(60)] for seen in epochs)
    assert epochs[0] != epochs[1]


def test_clips_carry_their_own_latents(shards: Path) -> None:
    for batch in batches(data(shards, text_dropout=0.0), 10):
        assert batch.video.dtype == STORED_DTYPE
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


def test_a_run_on_changed_data_goes_on_as_far_into_the_epoch(
    shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hh_train.data.loading.plan.BATCHES_PER_SEGMENT", 2)
    monkeypatch.setattr(logging.getLogger("hh_train"), "propagate", True)
    before = data(shards)
    num_segments = before.plan.num_segments(0)
    for batch in batches(before, 5):
        before.on_before_batch_transfer(batch, 0)
    after = data(shards, tokens_per_batch=150, text_dropout=0.5)
    after.load_state_dict(before.state_dict())
    place = after.state_dict()
    assert place["epoch"] == 0 and place["batch"] == 0
    assert place["segment"] == int(2 / num_segments * after.plan.num_segments(0)) > 0
    assert "tokens_per_batch: 200 there, 150 wanted" in caplog.text
    assert "text_dropout" in caplog.text


def test_a_state_is_small(shards: Path) -> None:
    assert len(json.dumps(data(shards).state_dict())) < 2000


def test_a_state_may_come_before_the_shards_are_read(shards: Path) -> None:
    before = data(shards)
    for batch in batches(before, 4):
        before.on_before_batch_transfer(batch, 0)
    after = LatentDataModule(shards=str(shards), patch=PATCH, tokens_per_batch=200, seed=1, shards_in_hand=2)
    after.load_state_dict(before.state_dict())
    after.setup()
    assert_same(batches(after, 1)[0], batches(data(shards), 5)[4])


def test_workers_do_not_change_the_order(shards: Path) -> None:
    for one, other in zip(batches(data(shards), 12), batches(data(shards, num_workers=2), 12), strict=True):
        assert_same(one, other)


def test_what_workers_get_can_be_handed_to_any_process(shards: Path) -> None:
    """Where processes are spawned, not forked, the stream goes there as bytes."""
    alone = batches(data(shards), 3)
    stream = pickle.loads(pickle.dumps(data(shards).train_dataloader().dataset))
    assert [delivery.batch.keys for delivery in islice(stream, 3)] == [batch.keys for batch in alone]


def test_batches_need_a_setup(shards: Path) -> None:
    module = LatentDataModule(shards=str(shards), patch=PATCH, tokens_per_batch=200)
    for ask in (module.train_dataloader, module.val_dataloader, lambda: module.manifest):
        with pytest.raises(RuntimeError, match="call setup"):
            ask()


def test_threads_do_not_change_the_order(shards: Path) -> None:
    threaded = data(shards, reading=Reading(threads=3, prefetch_batches=2))
    for one, other in zip(batches(data(shards), 12), batches(threaded, 12), strict=True):
        assert_same(one, other)


class Recorder(LightningModule):
    """Remembers the clips of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.trained: list[tuple[str, ...]] = []
        self.validated: list[tuple[str, ...]] = []

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        assert batch.video.dtype == batch.audio.dtype == batch.text.dtype == torch.float32
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


def on_rank(shards: Path, rank: int, world_size: int, **arguments: Any) -> LatentDataModule:
    module = data(shards, **arguments)
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


def steps_of_all_ranks(
    shards: Path, state: dict[str, Any] | None, num_ranks: int, num_steps: int, **arguments: Any
) -> tuple[list[tuple[str, ...]], dict[str, Any]]:
    """The clips of the batches that so many ranks train on, in the global order, and the state that each would save."""
    per_rank, states = [], []
    for rank in range(num_ranks):
        module = on_rank(shards, rank, num_ranks, **arguments)
        if state is not None:
            module.load_state_dict(state)
        loader = iter(module.train_dataloader())
        found = []
        for _ in range(num_steps):
            batch = module.on_before_batch_transfer(next(loader), 0)
            found.append(batch.keys)
        next(loader)  # read ahead, never trained on
        per_rank.append(found)
        states.append(module.state_dict())
    assert all(other == states[0] for other in states)
    return [keys for step in zip(*per_rank, strict=True) for keys in step], states[0]


LEGS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=3)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(legs=LEGS, seed=st.integers(0, 3), batches_per_segment=st.sampled_from([2, 1024]))
def test_any_numbers_of_ranks_in_turn_read_what_one_would(
    shards: Path, monkeypatch: pytest.MonkeyPatch, legs: list[tuple[int, int]], seed: int, batches_per_segment: int
) -> None:
    """A run stopped and resumed again and again, each leg with another number of ranks and of steps."""
    monkeypatch.setattr("hh_train.data.loading.plan.BATCHES_PER_SEGMENT", batches_per_segment)
    state, read = None, []
    for num_ranks, num_steps in legs:
        found, state = steps_of_all_ranks(shards, state, num_ranks, num_steps, seed=seed)
        read += found
    assert read == [batch.keys for batch in batches(data(shards, seed=seed), len(read))]


@pytest.mark.parametrize("legs", [[(1, 0, 3), (2, 2, 4), (3, 1, 2), (1, 3, 5)], [(2, 3, 3), (1, 2, 7), (4, 1, 2)]])
def test_any_numbers_of_workers_in_turn_read_what_one_process_would(
    shards: Path, legs: list[tuple[int, int, int]]
) -> None:
    """Real reading processes: ranks, workers of each, steps."""
    state, read = None, []
    for num_ranks, num_workers, num_steps in legs:
        found, state = steps_of_all_ranks(shards, state, num_ranks, num_steps, num_workers=num_workers)
        read += found
    assert read == [batch.keys for batch in batches(data(shards), len(read))]


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


def as_member_of_a_group(
    shards: Path, folder: Path, rank: int, num_ranks: int, num_workers: int, num_steps: int, answers: Any
) -> None:
    """Trains a few steps in a gloo group, from the state in the folder if there is one, and leaves the next there."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store{num_ranks}", rank=rank, world_size=num_ranks
    )
    module = data(shards, num_workers=num_workers)
    saved = folder / "state.json"
    if saved.exists():
        module.load_state_dict(json.loads(saved.read_text()))
    torch.distributed.barrier()
    loader = iter(module.train_dataloader())
    trained = [module.on_before_batch_transfer(next(loader), 0).keys for _ in range(num_steps)]
    states: list[Any] = [None] * num_ranks
    torch.distributed.all_gather_object(states, module.state_dict())
    assert all(state == states[0] for state in states)
    if rank == 0:
        saved.write_text(json.dumps(states[0]))
    answers.put((rank, trained, len(module.val_dataloader())))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_groups_of_processes_resume_each_other(shards: Path, tmp_path: Path) -> None:
    """Two gloo ranks with a worker each, then three without, then one: together they read what one process would."""
    context = multiprocessing.get_context("fork")
    read: list[tuple[str, ...]] = []
    for num_ranks, num_workers, num_steps in ((2, 1, 3), (3, 0, 2), (1, 2, 4)):
        answers = context.Queue()
        members = [
            context.Process(
                target=as_member_of_a_group,
                args=(shards, tmp_path, rank, num_ranks, num_workers, num_steps, answers),
            )
            for rank in range(num_ranks)
        ]
        for member in members:
            member.start()
        told = sorted(answers.get(timeout=120) for _ in members)
        for member in members:
            member.join(60)
            assert member.exitcode == 0
        assert len({num_validation for _, _, num_validation in told}) == 1
        read += [keys for step in zip(*(trained for _, trained, _ in told), strict=True) for keys in step]
    assert len(read) == 3 * 2 + 2 * 3 + 4
    assert read == [batch.keys for batch in batches(data(shards), len(read))]


def copy_of(shards: Path, folder: Path) -> Path:
    return Path(shutil.copytree(shards, folder / "copy"))


def damage(shards: Path, key: str, *, value: bytes = b"\xff", all_of_it: bool = False) -> None:
    """Overwrites the header of a clip's latents, or all of their bytes."""
    for record in Manifest.load(shards).shards:
        for sample in record.samples:
            if sample.key == key:
                assert sample.offset is not None and sample.num_bytes is not None
                length = sample.num_bytes - 400 if all_of_it else 40
                with (shards / record.name).open("r+b") as file:
                    file.seek(sample.offset + (400 if all_of_it else 0))
                    file.write(value * length)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_clips_are_left_out_counted_and_told(
    shards: Path,
    tmp_path: Path,
    num_workers: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logging.getLogger("hh_train"), "propagate", True)
    copy = copy_of(shards, tmp_path)
    damage(copy, "train-07")
    damage(copy, "train-08", all_of_it=True)  # latents of NaN
    manifest = copy / "manifest.json"  # of a time when no checksums were written
    manifest.write_text(re.sub(r'"checksum": \d+', '"checksum": null', manifest.read_text()))
    damage(copy, "validation-3")
    sound, harmed = data(shards), data(copy, num_workers=num_workers)
    lost = {"train-07", "train-08"}
    num_batches = 3 * len(sound.plan.epoch(0))
    for one, other in zip(batches(sound, num_batches), batches(harmed, num_batches), strict=True):
        assert other.keys == tuple(key for key in one.keys if key not in lost)
    assert {key for _, key in harmed.skipped} == lost
    assert 5 <= harmed.num_skipped <= 8
    assert caplog.text.count("left out the clip 'train-07'") == 1
    assert "train-08" in caplog.text and "NaN" in caplog.text
    left = sorted(key for batch in harmed.val_dataloader() for key in batch.keys)
    assert left == [f"validation-{i}" for i in range(7) if i != 3]
    harmed.teardown("fit")
    assert "3 clips could not be read" in caplog.text


def test_a_batch_without_any_sound_clip_is_replaced_by_the_next(shards: Path, tmp_path: Path) -> None:
    copy = copy_of(shards, tmp_path)
    alone = batches(data(shards), 6)
    for key in alone[2].keys:
        damage(copy, key)
    lost = set(alone[2].keys)
    found = batches(data(copy), 6)
    assert found[2].keys == tuple(key for key in found[3].keys if key not in lost)
    for key in (f"train-{i:02d}" for i in range(60)):
        damage(copy, key)
    with pytest.raises(ValueError, match=r"none of .* clips in a row can be read"):
        batches(data(copy), 1)


def test_a_truncated_shard_loses_its_last_clips(shards: Path, tmp_path: Path) -> None:
    copy = copy_of(shards, tmp_path)
    record = Manifest.load(copy).shards_of("train")[1]
    os.truncate(copy / record.name, record.num_bytes // 2)
    harmed = data(copy)
    batches(harmed, len(harmed.plan.epoch(0)))
    gone = {key for _, key in harmed.skipped}
    assert 0 < len(gone) < len(record.samples)
    assert gone < {sample.key for sample in record.samples}


def test_a_missing_shard_is_an_error(shards: Path, tmp_path: Path) -> None:
    copy = copy_of(shards, tmp_path)
    late = data(copy)
    (copy / "train-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of the \d+ shards .* train-000001.tar"):
        data(copy)
    with pytest.raises(ValueError, match=r"the shard train-000001.tar of .* is missing"):
        batches(late, 30)


def without_spans(shards: Path) -> None:
    """As if the manifest were from before it said where clips lie."""
    path = shards / "manifest.json"
    fields = json.loads(path.read_text())
    for record in fields["shards"]:
        for sample in record["samples"]:
            del sample["offset"], sample["num_bytes"]
    path.write_text(json.dumps(fields))


def test_clips_are_found_without_being_told_where(shards: Path, tmp_path: Path) -> None:
    copy = copy_of(shards, tmp_path)
    without_spans(copy)
    for one, other in zip(batches(data(shards), 10), batches(data(copy), 10), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_on_the_web_give_the_same_batches(
    shards: Path, web_folder: Any, tmp_path: Path, caching: bool, num_workers: int
) -> None:
    shutil.copytree(shards, web_folder.folder / "shards")
    cache = str(tmp_path / "cache") if caching else None
    reading = Reading(cache_folder=cache, cache_gigabytes=60_000e-9)
    remote = data(f"{web_folder.url}/shards", reading=reading, num_workers=num_workers)
    web_folder.failures.extend([503, "cut"])
    for one, other in zip(batches(data(shards), 20), batches(remote, 20), strict=True):
        assert_same(one, other)
    assert {key for batch in remote.val_dataloader() for key in batch.keys} == {f"validation-{i}" for i in range(7)}
    assert not remote.skipped
    if caching:
        size = sum(path.stat().st_size for path in Path(str(cache)).iterdir())
        assert 0 < size <= 60_000


def test_a_cache_too_small_for_a_shard_reads_clips_from_afar(shards: Path, web_folder: Any, tmp_path: Path) -> None:
    shutil.copytree(shards, web_folder.folder / "shards")
    reading = Reading(cache_folder=str(tmp_path / "cache"), cache_gigabytes=1e-6)
    remote = data(f"{web_folder.url}/shards", reading=reading)
    for one, other in zip(batches(data(shards), 5), batches(remote, 5), strict=True):
        assert_same(one, other)
    without_spans(web_folder.folder / "shards")
    with pytest.raises(ValueError, match=r"set reading\.cache_folder"):
        batches(data(f"{web_folder.url}/shards", reading=reading), 1)


def test_a_shard_missing_on_the_web_is_an_error(shards: Path, web_folder: Any) -> None:
    shutil.copytree(shards, web_folder.folder / "shards")
    (web_folder.folder / "shards" / "train-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"the shard train-000001.tar of http.* is missing"):
        batches(data(f"{web_folder.url}/shards"), 30)
    with pytest.raises(ValueError, match=r"no manifest.json in http.*: run `hh-train tokenize`"):
        data(f"{web_folder.url}/elsewhere")


def test_shards_in_s3_give_the_same_batches(shards: Path, s3_endpoint: str, tmp_path: Path) -> None:
    import s3fs

    options = {"endpoint_url": s3_endpoint, "key": "testing", "secret": "testing"}
    system = s3fs.S3FileSystem(**options)
    system.mkdir("latents")
    system.put(str(shards), "latents/set", recursive=True)
    there = ShardSet(path="s3://latents/set", storage_options=options)
    for reading in (Reading(), Reading(cache_folder=str(tmp_path / "cache"))):
        remote = data(there, reading=reading, num_workers=1)
        for one, other in zip(batches(data(shards), 8), batches(remote, 8), strict=True):
            assert_same(one, other)
    system.rm("latents/set/train-000002.tar")
    with pytest.raises(ValueError, match=r"s3://latents/set lacks 1 of .* train-000002.tar"):
        data(there)


def test_sets_are_mixed_by_weight_and_clips_by_theirs(shards: Path, tmp_path: Path) -> None:
    copy = copy_of(shards, tmp_path)
    weights = tmp_path / "weights.json"
    weights.write_text(json.dumps({f"train-{i:02d}": 0.0 for i in range(50)}))
    sets = [ShardSet(path=str(shards), weight=2.0), ShardSet(path=str(copy), weight=1.0, clip_weights=str(weights))]
    mixed = data(sets)
    planned = [clip for batch in mixed.plan.epoch(0) for clip in batch]
    assert [clip.set_number for clip in planned].count(1) == round(len(planned) / 3)
    assert {clip.sample.key for clip in planned if clip.set_number == 1} == {f"train-{i}" for i in range(50, 60)}
    read = [key for batch in batches(mixed, len(mixed.plan.epoch(0))) for key in batch.keys]
    assert read == [clip.sample.key for clip in planned]
    assert sorted(key for batch in mixed.val_dataloader() for key in batch.keys) == sorted(
        2 * [f"validation-{i}" for i in range(7)]
    )


def test_a_curriculum_comes_from_a_configuration(shards: Path) -> None:
    taught = data(shards, curriculum=[Phase(from_epoch=1, text_dropout=1.0)], text_dropout=0.0)
    lengths = [len(taught.plan.epoch(epoch)) for epoch in range(2)]
    found = batches(taught, sum(lengths))
    assert all((batch.text != -1).all() for batch in found[: lengths[0]])
    assert all((batch.text == -1).all() for batch in found[lengths[0] :])


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
