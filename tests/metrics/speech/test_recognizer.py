"""The recognizer as a function: features, batching, languages, saving. What it learns is tested with its training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hh_train.metrics.speech.recognizer import LogMel, Recognizer, RecognizerConfig, build_vocabulary, mel_filters


@pytest.fixture(scope="module")
def untrained() -> Recognizer:
    """Random weights; statistics of the normalization that are not the start's."""
    torch.manual_seed(0)
    characters, languages = build_vocabulary([("one two", "en"), ("eins zwei", "German"), ("一二", "zh")])
    config = RecognizerConfig(characters=characters, languages=languages, width=32, num_blocks=2)
    recognizer = Recognizer(config=config)
    recognizer.train()
    with torch.no_grad():
        for _ in range(3):
            recognizer(torch.rand(4, 60, 80) - 1, torch.tensor([60, 50, 40, 30]))
    return recognizer.eval()


def tone(hertz: float, seconds: float, loudness: float = 0.3) -> torch.Tensor:
    return loudness * torch.sin(torch.arange(round(seconds * 16_000)) * 2 * torch.pi * hertz / 16_000)


def test_a_tone_lights_its_own_mel() -> None:
    features = LogMel(num_mels=80)(tone(1000, 0.5))
    assert features.shape == (50, 80)
    peaks = mel_filters(80, 257).argmax(dim=0) * 16_000 / 512
    lit = features[25].argmax()
    assert abs(float(peaks[lit]) - 1000) < 80
    assert float(features.max()) == 0.0 and float(features.min()) >= -1.0


def test_loudness_does_not_matter() -> None:
    log_mel = LogMel(num_mels=40)
    assert torch.allclose(log_mel(tone(500, 0.3)), log_mel(tone(500, 0.3, loudness=0.03)), atol=1e-3)


def test_padding_does_not_change_a_result(untrained: Recognizer) -> None:
    waveforms = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1 for n in (16_000, 9000, 30_001)]
    together = untrained.transcribe_batch(waveforms, ["en", None, "de"])
    alone = [untrained.transcribe(w, code) for w, code in zip(waveforms, ["en", None, "de"], strict=True)]
    assert together == alone
    assert any(together)


def test_a_language_keeps_to_its_own_characters(untrained: Recognizer) -> None:
    waveform = torch.randn(32_000, generator=torch.Generator().manual_seed(1)) * 0.1
    assert set(untrained.transcribe(waveform, "zh")) <= set("一二")
    assert set(untrained.transcribe(waveform, "English")) <= set("one two")
    with pytest.raises(ValueError, match="was not trained on 'French' but on de, en, zh"):
        untrained.transcribe(waveform, "French")


def test_silence_says_nothing(untrained: Recognizer) -> None:
    assert untrained.transcribe_batch([torch.zeros(16_000), torch.zeros(0)], ["en", "en"]) == ["", ""]


def test_repeats_collapse_and_a_blank_parts_them(untrained: Recognizer) -> None:
    o, n, e = (untrained.encode_text(c, "en")[0] for c in "one")
    assert untrained._collapse([o, o, 0, n, n, e, 0, e]) == "onee"


def test_saved_and_loaded_it_hears_the_same(untrained: Recognizer, tmp_path: Path) -> None:
    untrained.save(tmp_path / "recognizer")
    again = Recognizer.load(tmp_path / "recognizer")
    assert again.fingerprint() == untrained.fingerprint()
    waveform = torch.randn(32_000, generator=torch.Generator().manual_seed(2)) * 0.1
    assert again.transcribe(waveform, "en") == untrained.transcribe(waveform, "en")
    with torch.no_grad():
        again.head.bias += 1e-3
    assert again.fingerprint() != untrained.fingerprint()
    with pytest.raises(ValueError, match="holds no recognizer"):
        Recognizer.load(tmp_path)


def test_it_knows_its_languages(untrained: Recognizer) -> None:
    assert untrained.languages == ("de", "en", "zh")
