"""Estimators of quality: what they call things, what they refuse, and, where they are installed, what they say."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hh_train.metrics.sound import quality
from hh_train.metrics.sound.quality import Dnsmos, Nisqa, ReferenceQuality

needs_reference_tools = pytest.mark.skipif(
    find_spec("pesq") is None or find_spec("pystoi") is None, reason="needs the packages pesq and pystoi"
)


def speechlike(seed: int = 0, seconds: float = 3.0) -> Tensor:
    """Harmonics of a moving voice, in syllables."""
    time = torch.arange(round(seconds * 16_000)) / 16_000
    pitch = 120 + 20 * torch.sin(2 * torch.pi * 0.7 * time)
    phase = 2 * torch.pi * torch.cumsum(pitch, 0) / 16_000
    voice = sum(torch.sin(k * phase) / k for k in range(1, 20))
    syllables = torch.sin(2 * torch.pi * 2 * time).clamp(min=0)
    noise = 0.02 * torch.randn(time.shape, generator=torch.Generator().manual_seed(seed))
    return 0.2 * syllables * (voice + noise)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "find_spec", lambda name: object())


def test_missing_packages_and_weights_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quality, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"librosa.*hh-train\[quality\]"):
        Dnsmos(folder=str(tmp_path))
    with pytest.raises(ValueError, match="librosa"):
        Dnsmos()
    with pytest.raises(ValueError, match="pesq, pystoi"):
        ReferenceQuality()
    monkeypatch.setattr(quality, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match=r"lacks sig_bak_ovr\.onnx, model_v8\.onnx"):
        Dnsmos(folder=str(tmp_path))
    with pytest.raises(ValueError, match=r"lacks nisqa\.tar"):
        Nisqa(folder=str(tmp_path))


@pytest.mark.usefixtures("installed")
def test_dnsmos_names_what_torchmetrics_returns_by_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchmetrics.functional.audio import dnsmos

    for name in ("sig_bak_ovr.onnx", "model_v8.onnx"):
        (tmp_path / name).write_bytes(name.encode())
    estimator = Dnsmos(folder=str(tmp_path))
    asked = []

    def answer(waveform: Tensor, rate: int, **options: object) -> Tensor:
        found = Path(dnsmos.DNSMOS_DIR, "DNSMOS", "model_v8.onnx").read_bytes()
        asked.append((waveform.shape[0], rate, options["personalized"], found))
        return torch.tensor([1.0, 2.0, 3.0, 4.0])

    monkeypatch.setattr(dnsmos, "DNSMOS_DIR", "elsewhere")
    monkeypatch.setattr(dnsmos, "deep_noise_suppression_mean_opinion_score", answer)
    assert estimator.score(torch.ones(16_000)) == {
        "dnsmos_p808": 1.0, "dnsmos_speech": 2.0, "dnsmos_background": 3.0, "dnsmos_overall": 4.0,
    }  # fmt: skip
    assert asked == [(16_000, 16_000, False, b"model_v8.onnx")]
    assert set(estimator.score(torch.ones(16_000))) == {measure.name for measure in estimator.measures}
    with pytest.raises(ValueError, match=r"0\.01 s of sound"):
        estimator.score(torch.ones(160))
    first = estimator.fingerprint()
    (tmp_path / "model_v8.onnx").write_bytes(b"others")
    assert Dnsmos(folder=str(tmp_path)).fingerprint() != first


@pytest.mark.usefixtures("installed")
def test_nisqa_names_what_torchmetrics_returns_by_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchmetrics.functional.audio import nisqa

    (tmp_path / "nisqa.tar").write_bytes(b"weights")
    estimator = Nisqa(folder=str(tmp_path))
    monkeypatch.setattr(nisqa, "NISQA_DIR", "elsewhere")
    monkeypatch.setattr(
        nisqa, "non_intrusive_speech_quality_assessment", lambda sound, rate: torch.arange(5.0) + sound.mean()
    )
    assert list(estimator.score(torch.ones(16_000)).items()) == [
        ("nisqa_overall", 1.0),
        ("nisqa_noisiness", 2.0),
        ("nisqa_discontinuity", 3.0),
        ("nisqa_coloration", 4.0),
        ("nisqa_loudness", 5.0),
    ]
    with pytest.raises(ValueError, match="not finite"):
        estimator.score(torch.full((16_000,), torch.nan))


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("speechmos", "librosa", "onnxruntime")),
    reason="needs the packages speechmos, librosa and onnxruntime",
)
def test_the_published_dnsmos_hears_noise() -> None:
    estimator = Dnsmos()
    clean = speechlike()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    first, second = estimator.score(clean), estimator.score(clean + 0.1 * noise)
    assert first["dnsmos_background"] > second["dnsmos_background"] + 0.3
    assert all(1 <= value <= 5 for value in (*first.values(), *second.values()))


@needs_reference_tools
def test_more_noise_is_worse_and_the_reference_itself_is_best() -> None:
    clean = speechlike()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    metric = ReferenceQuality()
    scores = []
    for level in (0.0, 0.003, 0.03, 0.3):
        metric.reset()
        metric.update("clip", clean + level * noise, clean, samples_per_second=16_000)
        found = metric.compute()
        scores.append((found["pesq"].mean, found["stoi"].mean))
    pesq, stoi = zip(*scores, strict=True)
    assert list(pesq) == sorted(pesq, reverse=True) and pesq[0] > pesq[-1] + 1
    assert list(stoi) == sorted(stoi, reverse=True) and stoi[0] == pytest.approx(1.0, abs=1e-3)
    metric.update("silent", torch.zeros_like(clean), clean, samples_per_second=16_000)
    assert metric.compute()["stoi"].num_undefined == 1
    with pytest.raises(ValueError, match="wide band takes 16000"):
        metric.update("other", clean, clean, samples_per_second=8000)
