"""Footage to shards: what is kept, what is left out and why, restarts, and refusals."""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from hh_train.data.annotate import Transcription
from hh_train.data.datamodule import LatentDataModule
from hh_train.data.media.files import write_clip
from hh_train.data.selection.accounting import Accounting
from hh_train.data.selection.buckets import Buckets
from hh_train.data.selection.cuts import CutDetector
from hh_train.data.selection.duplicates import DuplicateSearch
from hh_train.data.selection.filters import Black
from hh_train.data.selection.windows import WindowPlan
from hh_train.data.shards.format import read_latent_clips, read_null_text
from hh_train.data.shards.manifest import Manifest
from hh_train.stages import tokenize
from hh_train.stages.clip_encoder import ClipEncoder
from hh_train.tokenizers import HashedTextTokenizer, MelAudioTokenizer, PatchVideoTokenizer, load_tokenizers
from hh_train.types import Clip, DialogueLine, Prompt


def write_footage(path: Path, index: int, *, num_frames: int = 13, sound: bool = True, caption: bool = True) -> None:
    """A gray bar that moves to a tone, both of their own for each index."""
    columns = torch.arange(32)
    frames = torch.zeros(num_frames, 32, 32, 3, dtype=torch.uint8)
    for i in range(num_frames):
        frames[i] = (128 + 100 * torch.sin(columns / (2 + index % 3) + 0.3 * i)).to(torch.uint8)[None, :, None]
    time = torch.arange(num_frames * 640) / 16_000
    waveform = 0.3 * torch.sin(2 * math.pi * (200 + 100 * index) * time)
    clip = Clip(frames=frames, frames_per_second=25.0, waveform=waveform if sound else None, samples_per_second=16_000)
    write_clip(path, clip)
    if caption:
        dialogue = (DialogueLine(speaker="Man", language="English", line=f"number {index}"),)
        prompt = Prompt(description="A bar moves", dialogue=dialogue, background_sound="a tone")
        path.with_suffix(".txt").write_text(prompt.compose())


def codecs() -> dict[str, Any]:
    return {
        "video": PatchVideoTokenizer(channels=12),
        "audio": MelAudioTokenizer(channels=16, phase_iterations=2),
        "text": HashedTextTokenizer(),
    }


def tokenized(footage: Path, output: Path, **arguments: Any) -> Any:
    settings: dict[str, Any] = {"size": (16, 24), "max_frames": 9, "reconstruct_clips": 2, "num_workers": 2}
    return tokenize.run(footage=str(footage), output=str(output), **{**codecs(), **settings, **arguments})


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good clips, one of them silent, and five bad ones."""
    folder = tmp_path_factory.mktemp("footage")
    for split, count in (("train", 6), ("validation", 2), ("test", 1)):
        for index in range(count):
            write_footage(folder / split / f"{split}-{index}.mp4", index)
    write_footage(folder / "train" / "silent.mp4", 7, sound=False)
    write_footage(folder / "train" / "uncaptioned.mp4", 8, caption=False)
    write_footage(folder / "train" / "short.mp4", 9, num_frames=4)
    (folder / "train" / "text.mp4").write_text("no video")
    (folder / "train" / "text.txt").write_text("A caption")
    (folder / "train" / "empty.mp4").touch()
    (folder / "train" / "empty.txt").write_text("A caption")
    write_footage(folder / "train" / "talkative.mp4", 9)
    line = " ".join(["word"] * 80)
    (folder / "train" / "talkative.txt").write_text(f'A man\n\nDialogue:\n<Man, English>: "{line}"')
    return folder


@pytest.fixture(scope="module")
def shards(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shards")
    tokenized(footage, output)
    return output


def test_good_clips_are_kept_and_bad_ones_told(shards: Path) -> None:
    manifest = Manifest.load(shards)
    assert {s.key for s in manifest.samples_of("train")} == {"silent", *(f"train-{i}" for i in range(6))}
    assert [len(manifest.samples_of(split)) for split in ("validation", "test")] == [2, 1]
    assert sum(shard.num_silent for shard in manifest.shards) == 1
    reasons = {clip.key: clip.reason for clip in manifest.dropped}
    assert set(reasons) == {"uncaptioned", "short", "text", "empty", "talkative"}
    assert "no caption" in reasons["uncaptioned"]
    assert "too short: 4 frames" in reasons["short"]
    assert "cannot be read" in reasons["text"]
    assert "cannot be read" in reasons["empty"]
    assert "82 tokens" in reasons["talkative"]


def test_latents_have_the_geometry_of_the_clip(shards: Path) -> None:
    clips = {clip.key: clip for clip, _ in read_latent_clips(shards, "train")}
    assert clips["train-0"].video.shape == (12, 3, 2, 3)
    assert clips["train-0"].audio.shape == (9, 16)
    assert clips["train-0"].text.shape[1] == 96
    assert clips["silent"].audio is None
    assert clips["silent"].video.shape == (12, 3, 2, 3)


def test_latents_are_those_of_the_saved_codecs(shards: Path, footage: Path) -> None:
    saved = load_tokenizers(shards)
    clip, metadata = next(iter(read_latent_clips(shards, "test")))
    original = tokenize._reader(saved.video, saved.audio, (16, 24), 9).read(footage / "test" / "test-0.mp4")
    torch.testing.assert_close(clip.video, saved.video.encode(original.frames), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(clip.audio, saved.audio.encode(original.waveform), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(clip.text, saved.text.encode(metadata.prompt.compose()), atol=2e-3, rtol=1e-3)
    assert metadata.transcript == "number 0"
    assert Manifest.load(shards).fingerprints() == saved.fingerprints()
    torch.testing.assert_close(read_null_text(shards), saved.text.encode(saved.text.null_prompt))


def test_statistics_are_near_those_wanted(shards: Path) -> None:
    statistics = Manifest.load(shards).statistics()["train"]
    for modality in ("video", "audio"):
        assert abs(statistics[modality]["mean"]) < 0.1
        assert statistics[modality]["std"] == pytest.approx(1.0, abs=0.15)


def test_reconstruction_is_measured_and_written(shards: Path) -> None:
    measures = Manifest.load(shards).reconstruction
    assert measures["video_psnr_db"] > 30
    assert 0 < measures["audio_mel_distance_db"] < 6
    assert abs(measures["audio_loudness_change_db"]) < 3
    written = sorted(path.name for path in (shards / "reconstruction").iterdir())
    assert written == [f"validation-{i}.{suffix}" for i in (0, 1) for suffix in ("json", "mp4", "txt")]
    fields = json.loads((shards / "reconstruction" / "validation-0.json").read_text())
    assert fields["transcript"] == "number 0"
    assert set(fields["latent_statistics"]) == {"video", "audio"}


def test_the_data_module_reads_what_was_written(shards: Path) -> None:
    data = LatentDataModule(shards=str(shards), patch=(1, 2, 1), tokens_per_batch=200)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.video.shape[1] == 24
    assert batch.num_tokens <= 200


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_leaves_finished_shards_alone(shards: Path, footage: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*")}
    tokenized(footage, shards)
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*")} == before


@pytest.mark.parametrize("survived", [0, 1, 3])
def test_a_killed_run_goes_on_to_the_same_shards(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    tokenized(footage, tmp_path / "whole", shard_megabytes=0.01)
    encoded = []
    real = ClipEncoder._alone

    def dies(*arguments: Any) -> Any:
        if len(encoded) == survived:
            raise KeyboardInterrupt
        encoded.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(ClipEncoder, "_alone", dies)
    with pytest.raises(KeyboardInterrupt):
        tokenized(footage, tmp_path / "killed", shard_megabytes=0.01)
    with pytest.raises(ValueError, match="to its end"):
        Manifest.load(tmp_path / "killed")
    monkeypatch.setattr(ClipEncoder, "_alone", real)
    tokenized(footage, tmp_path / "killed", shard_megabytes=0.01)
    whole, killed = files_of(tmp_path / "whole"), files_of(tmp_path / "killed")
    assert len([name for name in whole if name.endswith(".tar")]) >= 3
    assert whole.keys() == killed.keys()
    assert [name for name in whole if whole[name] != killed[name]] == []


def test_other_settings_are_refused_by_name_unless_overwritten(footage: Path, tmp_path: Path) -> None:
    tokenized(footage, tmp_path)
    with pytest.raises(ValueError, match=r"max_frames: 9 there, 5 wanted.*overwrite=true"):
        tokenized(footage, tmp_path, max_frames=5)
    with pytest.raises(ValueError, match=r"tokenizers\.video\.channels: 12 there, 10 wanted"):
        tokenized(footage, tmp_path, video=PatchVideoTokenizer(channels=10))
    manifest = tokenized(footage, tmp_path, max_frames=5, overwrite=True)
    assert {sample.video for sample in manifest.samples_of("train")} == {(2, 2, 3)}


def test_when_clips_come_and_go_only_new_ones_are_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    footage = tmp_path / "footage"
    for index in range(3):
        write_footage(footage / "train" / f"{index}.mp4", index)
    write_footage(footage / "validation" / "held-out.mp4", 4)
    tokenized(footage, tmp_path / "shards")
    write_footage(footage / "train" / "new.mp4", 5)
    (footage / "train" / "0.mp4").unlink()
    (footage / "train" / "1.txt").write_text("Another caption")
    encoded = []
    real = ClipEncoder._alone

    def spy(encoder: ClipEncoder, item: Any) -> Any:
        encoded.append(item.window.key)
        return real(encoder, item)

    monkeypatch.setattr(ClipEncoder, "_alone", spy)
    manifest = tokenized(footage, tmp_path / "shards")
    assert sorted(encoded) == ["1", "new"]
    assert {sample.key for sample in manifest.samples_of("train")} == {"1", "2", "new"}
    prompts = {
        clip.key: metadata.prompt.description for clip, metadata in read_latent_clips(tmp_path / "shards", "train")
    }
    assert prompts["1"] == "Another caption"


def test_a_folder_without_splits_is_split(tmp_path: Path) -> None:
    for index in range(8):
        write_footage(tmp_path / "footage" / f"{index}.mp4", index)
    manifest = tokenized(tmp_path / "footage", tmp_path / "shards")
    assert [len(manifest.samples_of(split)) for split in ("train", "validation", "test")] == [6, 1, 1]


def test_fitted_codecs_are_used_as_they_are(shards: Path, footage: Path, tmp_path: Path) -> None:
    saved = load_tokenizers(shards)
    manifest = tokenized(footage, tmp_path, video=saved.video, audio=saved.audio)
    assert manifest.fingerprints() == Manifest.load(shards).fingerprints()


def test_an_empty_folder_and_a_missing_one_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no media"):
        tokenized(tmp_path / "empty", tmp_path / "shards")
    with pytest.raises(ValueError, match="does not exist"):
        tokenized(tmp_path / "missing", tmp_path / "shards")


def test_footage_without_any_usable_clip_tells_why(tmp_path: Path) -> None:
    (tmp_path / "footage").mkdir()
    for index in range(3):
        (tmp_path / "footage" / f"{index}.mp4").write_text("no video")
        (tmp_path / "footage" / f"{index}.txt").write_text("A caption")
    with pytest.raises(ValueError, match="cannot be read as media"):
        tokenized(tmp_path / "footage", tmp_path / "shards")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (20, 24)}, "multiples"),
        ({"max_frames": 8}, "multiple of 4 plus 1"),
        ({"shard_megabytes": 0.0}, "positive"),
    ],
)
def test_settings_that_do_not_fit_are_told(
    footage: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tokenized(footage, tmp_path, **arguments)


def scene(seed: int, num_frames: int) -> torch.Tensor:
    """A picture of large spots that pans by a pixel a frame: [num_frames, 32, 64, 3]."""
    spots = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(spots, size=(32, 64 + num_frames), mode="bicubic").clamp(0, 1)[0]
    views = [picture[:, :, i : i + 64] for i in range(num_frames)]
    return (torch.stack(views).permute(0, 2, 3, 1) * 255).to(torch.uint8)


def write_film(path: Path, *scenes: torch.Tensor, seed: int = 0, caption: str | None = None) -> None:
    """Scenes to noise of changing loudness."""
    frames = torch.cat(scenes)
    generator = torch.Generator().manual_seed(seed)
    loudness = torch.rand(1, 1, 2 + frames.shape[0] // 3, generator=generator)
    envelope = torch.nn.functional.interpolate(loudness, size=frames.shape[0] * 640, mode="linear")[0, 0]
    waveform = 0.3 * envelope * torch.randn(envelope.shape, generator=generator)
    write_clip(path, Clip(frames=frames, frames_per_second=25.0, waveform=waveform, samples_per_second=16_000))
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)


PROMPT = 'Two people talk.\n\nDialogue:\n<Woman, English>: "All of the words"'


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films of several shots, a copy of one of them, one that is black, one that is tall, and one too short."""
    folder = tmp_path_factory.mktemp("films")
    for index in range(3):
        write_film(
            folder / "train" / f"film{index}.mp4",
            *(scene(10 * index + k, 30) for k in range(3)),
            seed=index,
            caption=PROMPT,
        )
    write_film(folder / "validation" / "held.mp4", scene(50, 30), scene(51, 12), seed=5, caption=PROMPT)
    (folder / "train" / "copy.mp4").write_bytes((folder / "train" / "film1.mp4").read_bytes())
    (folder / "train" / "copy.txt").write_text("Another caption")
    write_film(folder / "train" / "black.mp4", torch.zeros(30, 32, 64, 3, dtype=torch.uint8), seed=6, caption=PROMPT)
    write_film(folder / "train" / "tall.mp4", scene(60, 30).transpose(1, 2).contiguous(), seed=7, caption=PROMPT)
    write_film(folder / "train" / "brief.mp4", scene(61, 12), seed=8, caption=PROMPT)
    return folder


FULL: dict[str, Any] = {
    "buckets": Buckets(sizes=((16, 32), (32, 16)), frames=(13, 25)),
    "cuts": CutDetector(),
    "windows": WindowPlan(placement="sliding"),
    "duplicates": DuplicateSearch(),
    "filters": {"black": Black(), "silent": None},
}
COPIES = {f"copy_{start:09d}" for start in (0, 1200, 2400)}


def lost(manifest: Manifest) -> dict[str, str]:
    return {clip.key: clip.reason.split(":")[0] for clip in manifest.dropped}


def test_films_become_shots_in_buckets_without_copies(films: Path, tmp_path: Path) -> None:
    manifest = tokenized(films, tmp_path, **FULL)
    keys = {sample.key: sample.video for sample in manifest.samples_of("train")}
    assert set(keys) == {f"film{i}_{start:09d}" for i in (0, 2) for start in (0, 1200, 2400)} | {"tall_000000000"} | (
        {f"film1_{start:09d}" for start in (0, 1200, 2400)} | COPIES
    ) - {clip.key for clip in manifest.dropped}
    assert keys["film0_000001200"] == (7, 2, 4)
    assert keys["tall_000000000"] == (7, 4, 2)
    reasons = lost(manifest)
    assert reasons["black_000000000"] == "is black"
    assert reasons["brief_000000000"] == "is too short"
    assert reasons["held_000001200"] == "is too short"
    assert sorted(reasons.values()).count("is a duplicate") == 3


def test_the_accounting_adds_up_and_is_in_the_manifest(films: Path, tmp_path: Path) -> None:
    manifest = tokenized(films, tmp_path, **FULL)
    accounting = Accounting.from_json(manifest.accounting)
    assert accounting.num_kept == sum(len(manifest.samples_of(split)) for split in manifest.splits)
    assert accounting.num_dropped == len(manifest.dropped)
    assert accounting.files == 8
    assert accounting.seconds == pytest.approx(accounting.num_kept * 1.0)
    assert accounting.footage_seconds == pytest.approx((4 * 90 + 42 + 30 + 30 + 12) / 25, abs=0.1)
    assert not (tmp_path / ".survey").exists()


def test_a_dry_run_tells_the_same_and_encodes_nothing(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = ClipEncoder._alone
    monkeypatch.delattr(ClipEncoder, "_alone")
    preview = tokenized(films, tmp_path, dry_run=True, **FULL)
    assert isinstance(preview, Accounting)
    told = capsys.readouterr().out
    assert "is black" in told
    assert "16 x 32" in told
    assert not list(tmp_path.glob("*.tar"))
    monkeypatch.setattr(ClipEncoder, "_alone", real, raising=False)
    manifest = tokenized(films, tmp_path, **FULL)
    final = Accounting.from_json(manifest.accounting)
    assert (final.buckets, final.dropped) == (preview.buckets, preview.dropped)


def test_words_of_a_whole_film_do_not_stick_to_its_shots(films: Path, tmp_path: Path) -> None:
    manifest = tokenized(films, tmp_path, **FULL)
    for clip, metadata in read_latent_clips(tmp_path, "train"):
        is_part = not clip.key.startswith("tall")
        assert (metadata.transcript is None) == is_part
        assert (metadata.prompt.dialogue == ()) == is_part
        assert metadata.prompt.description
        assert metadata.key == clip.key
    (count,) = manifest.accounting["notes"].values()
    said = [sample.key for sample in manifest.samples_of("train") if sample.key.startswith("film")]
    assert count == 1 + len(said) >= 7  # the held-out one as well; the copy of a film has a caption without words


class Ear:
    """Hears how long a clip is."""

    def transcribe(
        self, waveform: torch.Tensor, *, samples_per_second: int, language: str | None = None
    ) -> Transcription:
        return Transcription(text=f"{waveform.shape[0] / samples_per_second:.0f} seconds", language="de")

    def settings(self) -> dict[str, Any]:
        return {"ear": 1}


class Eye:
    """Sees how many frames a clip has."""

    def caption(self, frames: torch.Tensor) -> str:
        return f"{frames.shape[0]} frames"

    def settings(self) -> dict[str, Any]:
        return {"eye": 1}


def test_clips_are_heard_and_described(films: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    for name in ("film0", "film2"):
        (bare / "train").mkdir(parents=True, exist_ok=True)
        (bare / "train" / f"{name}.mp4").write_bytes((films / "train" / f"{name}.mp4").read_bytes())
    arguments = {**FULL, "transcriber": Ear(), "captioner": Eye(), "reconstruct_clips": 0}
    tokenized(bare, tmp_path / "shards", **arguments)
    stored = list(read_latent_clips(tmp_path / "shards", "train"))
    assert len(stored) == 6
    for _, metadata in stored:
        assert metadata.prompt.compose() == '25 frames\n\nDialogue:\n<Speaker, German>: "1 seconds"'
        assert (metadata.transcript, metadata.language) == ("1 seconds", "de")
    with pytest.raises(ValueError, match=r"annotation\.captioner"):
        tokenized(bare, tmp_path / "shards", **{**arguments, "captioner": None})


def test_several_shots_are_described_one_by_one(films: Path, tmp_path: Path) -> None:
    arguments = {**FULL, "windows": WindowPlan(max_shots=2), "captioner": Eye(), "reconstruct_clips": 0}
    arguments["buckets"] = Buckets(sizes=((16, 32),), frames=(25, 49))
    tokenized(films, tmp_path, **arguments)
    described = {metadata.key: metadata.prompt.description for _, metadata in read_latent_clips(tmp_path, "train")}
    assert described["film0_000000000"] == "Shot 1: 30 frames\nShot 2: 19 frames"
    assert described["film0_000002400"] == "25 frames"


@pytest.mark.parametrize("survived", [0, 2, 7])
def test_a_killed_run_over_films_goes_on_to_the_same_shards(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    tokenized(films, tmp_path / "whole", shard_megabytes=0.01, **FULL)
    encoded = []
    real = ClipEncoder._alone

    def dies(*arguments: Any) -> Any:
        if len(encoded) == survived:
            raise KeyboardInterrupt
        encoded.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(ClipEncoder, "_alone", dies)
    with pytest.raises(KeyboardInterrupt):
        tokenized(films, tmp_path / "killed", shard_megabytes=0.01, **FULL)
    monkeypatch.setattr(ClipEncoder, "_alone", real)
    tokenized(films, tmp_path / "killed", shard_megabytes=0.01, **FULL)
    whole, killed = files_of(tmp_path / "whole"), files_of(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert [name for name in whole if whole[name] != killed[name]] == []


def test_two_processes_share_the_work(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    first = tokenized(films, tmp_path, **FULL)
    assert isinstance(first, Accounting)
    monkeypatch.setenv("RANK", "1")
    manifest = tokenized(films, tmp_path, **FULL)
    assert isinstance(manifest, Manifest)
    assert 0 < first.num_kept < manifest.accounting["clips"] == 11
    assert len(manifest.dropped) == 6


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        (Buckets(sizes=((20, 32),)), "bucket size"),
        (Buckets(sizes=((16, 32),), frames=(24,)), "bucket lengths"),
    ],
)
def test_buckets_that_the_codec_cannot_take_are_told(
    footage: Path, tmp_path: Path, buckets: Buckets, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tokenized(footage, tmp_path, buckets=buckets)


def test_a_table_and_tars_are_footage_too(footage: Path, tmp_path: Path) -> None:
    rows = [f"{footage}/train/train-{index}.mp4,A bar moves" for index in range(4)]
    (tmp_path / "clips.csv").write_text("\n".join(["video,caption", *rows]))
    from_table = tokenized(tmp_path / "clips.csv", tmp_path / "from_table")
    with tarfile.open(tmp_path / "clips.tar", "w") as tar:
        for index in range(4):
            for suffix in ("mp4", "txt"):
                tar.add(footage / "train" / f"train-{index}.{suffix}", f"{index}.{suffix}")
    from_tar = tokenized(tmp_path / "clips.tar", tmp_path / "from_tar")
    for manifest in (from_table, from_tar):
        assert sum(len(manifest.samples_of(split)) for split in manifest.splits) == 4


class BatchPatches(PatchVideoTokenizer):
    """Counts what it encodes together."""

    sizes: ClassVar[list[int]] = []

    def encode_many(self, clips: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self.sizes.append(len(clips))
        return [self.encode(clip) for clip in clips]


def test_batches_give_what_single_clips_give(footage: Path, shards: Path, tmp_path: Path) -> None:
    """Among the clips are a silent one, some that cannot be read, and one whose prompt is too long."""
    BatchPatches.sizes.clear()
    tokenized(footage, tmp_path, video=BatchPatches(channels=12), batch_clips=3)
    assert max(BatchPatches.sizes) == 3
    for split in ("train", "validation", "test"):
        wanted, found = (list(read_latent_clips(folder, split)) for folder in (shards, tmp_path))
        assert [clip.key for clip, _ in found] == [clip.key for clip, _ in wanted]
        for (ours, metadata), (theirs, known) in zip(found, wanted, strict=True):
            assert metadata == known
            assert torch.equal(ours.video, theirs.video)
            assert torch.equal(ours.text, theirs.text)
            assert (ours.audio is None) == (theirs.audio is None)
            assert ours.audio is None or torch.equal(ours.audio, theirs.audio)
    reasons = [{clip.key: clip.reason for clip in Manifest.load(folder).dropped} for folder in (shards, tmp_path)]
    assert reasons[0] == reasons[1]


class Together(PatchVideoTokenizer):
    """Its latents tell what was encoded together, as the last bits do on a GPU; it dies when it is told to."""

    calls_left: ClassVar[int] = 10**9

    def encode_many(self, clips: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if not Together.calls_left:
            raise KeyboardInterrupt
        Together.calls_left -= 1
        shift = sum(float(clip.float().mean()) for clip in clips)
        return [self.encode(clip) + shift for clip in clips]


@pytest.mark.parametrize("survived", [1, 2])
def test_what_is_encoded_together_does_not_depend_on_kills(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """The run dies between batches, and, as the first clips of a batch are being written, within one."""
    video = Together(channels=12)
    whole = tokenized(footage, tmp_path / "whole", video=video, batch_clips=3)
    monkeypatch.setattr(Together, "calls_left", survived)
    with pytest.raises(KeyboardInterrupt):
        tokenized(footage, tmp_path / "killed", video=Together(channels=12), batch_clips=3)
    pending = sorted((tmp_path / "killed").rglob("*.clips/*.tar"))
    assert pending
    pending[-1].unlink()  # as if the kill had come before this clip was on disk
    monkeypatch.setattr(Together, "calls_left", 10**9)
    tokenized(footage, tmp_path / "killed", video=Together(channels=12), batch_clips=3)
    found = files_of(tmp_path / "killed")
    assert [name for name, content in files_of(tmp_path / "whole").items() if found[name] != content] == []
    assert whole.samples_of("train")
