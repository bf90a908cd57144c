"""Codecs to folders and back, and what tells them apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hh_train.tokenizers import (
    HashedTextTokenizer,
    MelAudioTokenizer,
    PatchVideoTokenizer,
    Tokenizers,
    load_tokenizer,
    load_tokenizers,
)


def video_tokenizer(seed: int = 0, whitening: float = 0.5) -> PatchVideoTokenizer:
    tokenizer = PatchVideoTokenizer(channels=6, stride=(4, 4, 4), whitening=whitening)
    clip = torch.randint(0, 256, (41, 8, 8, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    tokenizer.fit([clip])
    return tokenizer


def audio_tokenizer() -> MelAudioTokenizer:
    tokenizer = MelAudioTokenizer(channels=4, num_mels=40, phase_iterations=2)
    tokenizer.fit([0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))])
    return tokenizer


def test_a_saved_codec_comes_back_the_same(tmp_path: Path) -> None:
    clip = torch.randint(0, 256, (9, 8, 8, 3), dtype=torch.uint8)
    before = video_tokenizer()
    before.save_pretrained(tmp_path)
    after = PatchVideoTokenizer.from_pretrained(tmp_path)
    assert after.settings() == before.settings()
    assert after.fingerprint() == before.fingerprint()
    assert torch.equal(after.encode(clip), before.encode(clip))
    assert torch.equal(after.decode(after.encode(clip)), before.decode(before.encode(clip)))


def test_load_tokenizer_finds_the_class(tmp_path: Path) -> None:
    audio = audio_tokenizer()
    audio.save_pretrained(tmp_path / "audio")
    HashedTextTokenizer(channels=80).save_pretrained(tmp_path / "text")
    found = load_tokenizer(tmp_path / "audio")
    assert isinstance(found, MelAudioTokenizer)
    waveform = 0.1 * torch.randn(6400)
    assert torch.equal(found.decode(found.encode(waveform)), audio.decode(audio.encode(waveform)))
    text = load_tokenizer(tmp_path / "text")
    assert isinstance(text, HashedTextTokenizer)
    assert text.num_channels == 80


def test_fingerprints_tell_weights_and_settings_apart() -> None:
    assert video_tokenizer().fingerprint() == video_tokenizer().fingerprint()
    others = [video_tokenizer(seed=1), video_tokenizer(whitening=0.4), audio_tokenizer(), HashedTextTokenizer()]
    fingerprints = {codec.fingerprint() for codec in [video_tokenizer(), *others]}
    assert len(fingerprints) == 5
    assert HashedTextTokenizer(null_prompt="other").fingerprint() not in fingerprints


def test_an_unfitted_codec_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fit"):
        PatchVideoTokenizer().save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_folder_without_codec_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"channels": 3}))
    with pytest.raises(ValueError, match="channels"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name", ["hh_train.tokenizers.video.Missing", "missing_module.Codec", "nodots", "json.JSONDecoder"]
)
def test_a_class_that_is_no_codec_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"class": name}))
    with pytest.raises(ValueError, match=name):
        load_tokenizer(tmp_path)


def test_another_class_is_refused(tmp_path: Path) -> None:
    HashedTextTokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="HashedTextTokenizer"):
        PatchVideoTokenizer.from_pretrained(tmp_path)


def test_three_codecs_travel_together(tmp_path: Path) -> None:
    codecs = Tokenizers(video=video_tokenizer(), audio=audio_tokenizer(), text=HashedTextTokenizer())
    codecs.save(tmp_path / "tokenizers")
    assert load_tokenizers(tmp_path).fingerprints() == codecs.fingerprints()
    assert load_tokenizers(tmp_path / "tokenizers").fingerprints() == codecs.fingerprints()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizers"]


def test_a_codec_of_the_wrong_modality_is_named(tmp_path: Path) -> None:
    for name in ("video", "audio", "text"):
        HashedTextTokenizer().save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match="no video tokenizer"):
        load_tokenizers(tmp_path)
