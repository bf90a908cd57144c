"""Real clips through the codecs: what they show, and that nothing is decoded twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hh_train.data.footage.files import FootageFile, find_footage
from hh_train.data.media.files import MediaReader
from hh_train.stages.codec_clips import CodecClips, decode, latent_statistics
from hh_train.types import LatentClip

Times = Callable[[Path], dict[Path, int]]


@pytest.fixture
def files(tiny_shards: Path) -> dict[str, FootageFile]:
    """The real test clips by key, and one that the shards lack."""
    found = {f.key: f for f in find_footage(tiny_shards.parent / "footage" / "test", held_out_share=0.0)}
    return found | {"stranger": next(iter(found.values()))}


def test_what_is_decoded_is_the_real_clip_but_for_the_codecs(
    tiny_shards: Path, files: dict[str, FootageFile], tmp_path: Path
) -> None:
    codec = CodecClips(shards=str(tiny_shards), folder=str(tmp_path))
    written = codec.write(files, share=set(files))
    assert list(written) == [key for key in files if key != "stranger"]
    read = MediaReader(size=(32, 32), samples_per_second=16_000, frame_multiple=1, min_frames=2).read
    ours, real = ({key: read(found[key].path) for key in written} for found in (written, files))
    for key, clip in ours.items():
        others = [k for k in real if k != key]
        count = min(len(clip.frames), *(len(real[k].frames) for k in real))

        def apart(name: str, shown: torch.Tensor = clip.frames[:count], count: int = count) -> float:
            return float((shown.float() - real[name].frames[:count].float()).abs().mean())

        assert apart(key) < min(apart(other) for other in others)
        assert clip.waveform is not None and float(clip.waveform.abs().max()) > 0


def test_each_process_decodes_its_share_and_only_what_has_changed(
    tiny_shards: Path, files: dict[str, FootageFile], tmp_path: Path, times: Times
) -> None:
    codec = CodecClips(shards=str(tiny_shards), folder=str(tmp_path))
    first, second = sorted(key for key in files if key != "stranger")
    everything = codec.write(files, share={first})
    assert set(everything) == {first, second} and not everything[second].path.exists()
    codec.write(files, share={second})
    before = times(tmp_path)
    codec.write(files, share=set(files))
    assert times(tmp_path) == before
    record = tmp_path / f"{first}.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"latents": "of another codec"}))
    codec.write(files, share=set(files))
    changed = {path for path, time in times(tmp_path).items() if before[path] != time}
    assert {path.stem for path in changed} == {first}


def test_statistics_and_what_cannot_be_shown(tiny_shards: Path, files: dict[str, FootageFile]) -> None:
    codec = CodecClips(shards=str(tiny_shards), folder="")
    (latents, _), *_ = codec.held_out([key for key in files if key != "stranger"])
    assert latents.video is not None
    found = latent_statistics(latents)
    assert found["video"] == {"mean": float(latents.video.mean()), "std": float(latents.video.std())}
    silent = LatentClip(key="sound alone", video=None, audio=latents.audio, text=latents.text)
    assert set(latent_statistics(silent)) == {"audio"}
    with pytest.raises(ValueError, match="no picture to decode"):
        decode(silent, codec.tokenizers, frames_per_second=25.0)
