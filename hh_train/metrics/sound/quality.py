"""How good speech sounds, by estimators of listeners' scores and by distance from a clean reference.

All of them come through torchmetrics. DNSMOS and NISQA need no reference; their weights lie in a folder, and nothing is
downloaded. PESQ and STOI compare with the same utterance, aligned: a codec's input, or the teacher's clip of the same
noise; a generated clip alone has none.
"""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.clip_metric import ClipMetric
from hh_train.metrics.comparison.bootstrap import NUM_RESAMPLES
from hh_train.metrics.measure import Measure
from hh_train.metrics.networks import file_fingerprint
from hh_train.metrics.sound.tracks import SAMPLES_PER_SECOND

_SHORTEST_SECONDS = 0.25


@runtime_checkable
class SpeechQuality(Protocol):
    """Estimates how listeners would judge speech."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What is estimated, in the order of the table."""
        ...

    def score(self, waveform: Float[Tensor, " S"]) -> dict[str, float]:
        """By measure's name, of mono sound at 16 kHz. Raises ValueError for sound that is too short."""
        ...

    def fingerprint(self) -> str:
        """Changes with the weights."""
        ...


class Dnsmos:
    """DNSMOS P.835 (Reddy et al., ICASSP 2022): speech, background and overall quality, each 1 to 5.

    Args:
        folder: that has `sig_bak_ovr.onnx` and `model_v8.onnx`, as published by the DNS challenge; null takes those in
            the package speechmos.
    """

    measures: ClassVar[tuple[Measure, ...]] = (
        Measure(name="dnsmos_overall", title="DNSMOS overall", better="higher"),
        Measure(name="dnsmos_speech", title="DNSMOS speech", better="higher"),
        Measure(name="dnsmos_background", title="DNSMOS background", better="higher"),
        Measure(name="dnsmos_p808", title="DNSMOS P.808", better="higher"),
    )
    _FILES = ("sig_bak_ovr.onnx", "model_v8.onnx")

    def __init__(self, *, folder: str | None = None) -> None:
        _require_modules("DNSMOS", "librosa", "onnxruntime", "requests")
        self.folder = _speechmos_folder() if folder is None else Path(folder).resolve()
        _require_files(self.folder, self._FILES)

    @cached_property
    def _fingerprint(self) -> str:
        return " ".join(["dnsmos", *(file_fingerprint(self.folder / name) for name in self._FILES)])

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _linked(self) -> TemporaryDirectory[str]:
        """A folder in which the weights lie where torchmetrics looks for them."""
        folder: TemporaryDirectory[str] = TemporaryDirectory(prefix="dnsmos-")
        Path(folder.name, "DNSMOS").symlink_to(self.folder, target_is_directory=True)
        return folder

    def score(self, waveform: Float[Tensor, " S"]) -> dict[str, float]:
        """1 to 5 each. Sound shorter than 9 s is repeated, as published."""
        from torchmetrics.functional.audio import dnsmos

        _require_length(waveform)
        dnsmos.DNSMOS_DIR = self._linked.name  # the only way to say where the weights are
        p808, speech, background, overall = dnsmos.deep_noise_suppression_mean_opinion_score(
            waveform.cpu(), SAMPLES_PER_SECOND, personalized=False, num_threads=1
        ).tolist()
        return {
            "dnsmos_overall": overall,
            "dnsmos_speech": speech,
            "dnsmos_background": background,
            "dnsmos_p808": p808,
        }


class Nisqa:
    """NISQA 2.0 (Mittag et al., Interspeech 2021): overall quality and its four dimensions, each 1 to 5.

    Args:
        folder: that has `nisqa.tar`, as published.
    """

    measures: ClassVar[tuple[Measure, ...]] = (
        Measure(name="nisqa_overall", title="NISQA overall", better="higher"),
        Measure(name="nisqa_noisiness", title="NISQA noisiness", better="higher"),
        Measure(name="nisqa_discontinuity", title="NISQA discontinuity", better="higher"),
        Measure(name="nisqa_coloration", title="NISQA coloration", better="higher"),
        Measure(name="nisqa_loudness", title="NISQA loudness", better="higher"),
    )
    _FILES = ("nisqa.tar",)

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)
        _require_modules("NISQA", "librosa", "requests")
        _require_files(self.folder, self._FILES)

    @cached_property
    def _fingerprint(self) -> str:
        return f"nisqa {file_fingerprint(self.folder / self._FILES[0])}"

    def fingerprint(self) -> str:
        return self._fingerprint

    def score(self, waveform: Float[Tensor, " S"]) -> dict[str, float]:
        """1 to 5 each."""
        from torchmetrics.functional.audio import nisqa

        _require_length(waveform)
        nisqa.NISQA_DIR = str(self.folder)  # the only way to say where the weights are
        found = nisqa.non_intrusive_speech_quality_assessment(waveform.cpu(), SAMPLES_PER_SECOND).tolist()
        return dict(zip((measure.name for measure in self.measures), found, strict=True))


class ReferenceQuality(ClipMetric):
    """PESQ (wide band, ITU-T P.862.2) and STOI (Taal et al., 2011) of sound against the same utterance, clean."""

    names: ClassVar[tuple[str, ...]] = ("pesq", "stoi")

    def __init__(self, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> None:
        super().__init__(num_resamples=num_resamples, seed=seed)
        _require_modules("PESQ and STOI", "pesq", "pystoi")

    def update(
        self, key: str, waveform: Float[Tensor, " S"], reference: Float[Tensor, " S"], *, samples_per_second: int
    ) -> None:
        """Measures a pair and adds it.

        Raises:
            ValueError: for sound that is not at 16 kHz, or too short.
        """
        from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality
        from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility

        if samples_per_second != SAMPLES_PER_SECOND:
            raise ValueError(f"got sound at {samples_per_second} Hz; PESQ's wide band takes {SAMPLES_PER_SECOND} Hz")
        _require_length(waveform)
        if float(reference.abs().max()) == 0.0 or float(waveform.abs().max()) == 0.0:
            self.record(key, {})
            return
        pesq = perceptual_evaluation_speech_quality(waveform, reference, SAMPLES_PER_SECOND, "wb")
        stoi = short_time_objective_intelligibility(waveform, reference, SAMPLES_PER_SECOND)
        self.record(key, {"pesq": float(pesq), "stoi": float(stoi)})


def _require_modules(what: str, *names: str) -> None:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ValueError(f"{what} needs {', '.join(missing)}, which is not installed: pip install 'hh-train[quality]'")


def _speechmos_folder() -> Path:
    found = find_spec("speechmos")
    if found is None or found.origin is None:
        raise ValueError("DNSMOS needs weights: give the folder that has them, or pip install 'hh-train[quality]'")
    return Path(found.origin).parent / "dnsmos_models"


def _require_files(folder: Path, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; put the published weights there, or leave this out")


def _require_length(waveform: Float[Tensor, " S"]) -> None:
    if waveform.shape[0] < _SHORTEST_SECONDS * SAMPLES_PER_SECOND:
        raise ValueError(f"got {waveform.shape[0] / SAMPLES_PER_SECOND:.2f} s of sound; wanted {_SHORTEST_SECONDS} s")
    if not bool(torch.isfinite(waveform).all()):
        raise ValueError("the sound has samples that are not finite")
