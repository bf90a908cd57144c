from __future__ import annotations

import torch

from hh_train.metrics.speech.augmentation import augment, vocode
from hh_train.metrics.speech.recognizer import LogMel


def sweep() -> torch.Tensor:
    t = torch.arange(16_000) / 16_000
    return 0.4 * torch.sin(2 * torch.pi * (300 * t + 1200 * t**2))


def test_vocoded_sound_keeps_its_spectrum_and_loses_its_phase() -> None:
    sound = sweep()
    rebuilt = vocode(sound, num_mels=80, num_iterations=8, generator=torch.Generator().manual_seed(0))
    assert rebuilt.shape == sound.shape
    log_mel = LogMel(num_mels=40)
    before, after = log_mel(sound)[5:95], log_mel(rebuilt)[5:95]
    assert (before.argmax(dim=1) - after.argmax(dim=1)).abs().float().mean() < 1.5
    assert torch.corrcoef(torch.stack((sound, rebuilt)))[0, 1].abs() < 0.5


def test_variants_differ_but_stay_in_range_and_keep_most_of_the_sound() -> None:
    features = LogMel(num_mels=80)(sweep())
    generator = torch.Generator().manual_seed(0)
    variants = [augment(features, generator) for _ in range(20)]
    assert len({v.shape[0] for v in variants}) > 3
    for variant in variants:
        assert variant.shape[1] == 80
        assert variant.isfinite().all()
        assert float(variant.max()) <= 0.0 and float(variant.min()) >= -1.0
        assert 0.8 < variant.shape[0] / features.shape[0] < 1.25
    repeated = augment(features, torch.Generator().manual_seed(0))
    assert torch.equal(repeated, variants[0])
