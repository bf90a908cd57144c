"""Clips to one vector each that says who is seen, or who is heard, and as little else as can be.

The weight-free ones were chosen on the validation speakers of the rendered data set, for real clips and for clips that
have been through its codecs (`scripts/validate_likeness.py` prints how well they tell its people apart). They compare
clips of one data set; for people at large give networks that were trained to know them.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.fft import dct
from torch import Tensor
from torch.nn import functional

from hh_train.metrics.distribution.extractors import ClipFeatures
from hh_train.metrics.faces.head import cut_head
from hh_train.metrics.measurer import Sample
from hh_train.metrics.motion.frame_features import FrameFeatures
from hh_train.metrics.sound.tracks import SAMPLES_PER_SECOND, require_sound
from hh_train.metrics.speech.recognizer import LogMel

_CELLS = 8
_CENTER, _RADII = (0.5, 0.48), (0.4, 0.46)
"""The oval of the head's window that holds face and hair, and hardly any clothes or background."""
_BANDS, _CEPSTRA = 40, 30
_HEARD = -3 / 7
"""Log-mel frames count as speech whose loudest band is within three decades of the clip's loudest."""
_PITCHES_HZ, _NUM_LAGS = (65, 320), 25
_WINDOW, _HOP = 1024, 160
_LOUD = 0.01
"""Share of the loudest window's power that a window must have."""


@runtime_checkable
class Embedder(Protocol):
    """One vector a clip. Its arguments are keyword-only and typed: a configuration builds it."""

    def embed(self, sample: Sample) -> Float[Tensor, " D"]:
        """Of a clip. Raises ValueError for one without a face, or without sound."""
        ...

    def fingerprint(self) -> str:
        """Changes with the weights and with how media are prepared."""
        ...


def _still_head(sample: Sample) -> UInt8[Tensor, "F S S 3"]:
    """The head in the frames that show it. Raises NoFaceError (a ValueError)."""
    face = sample.face
    return cut_head(sample.clip.frames, face).frames[face.is_seen]


class FaceLayout:
    """Where which color is in a face: Lab colors of the cells of a grid, of the median over the clip's frames.

    The head is cut out by the box of the face and stands still; the median takes mouth and blinks away. It sees skin,
    hair, eyes, beard and glasses. Its colors are those of the picture: light that changes from clip to clip is beyond
    it.
    """

    def fingerprint(self) -> str:
        return f"face layout {_CELLS} {_CENTER} {_RADII} opencv-{cv2.__version__}"

    def embed(self, sample: Sample) -> Float[Tensor, " D"]:
        middle = np.median(_still_head(sample).numpy(), axis=0).astype(np.uint8)
        lab = cv2.cvtColor(middle, cv2.COLOR_RGB2Lab).astype(np.float32) / 255
        cells = cv2.resize(lab, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
        y, x = (np.mgrid[0:_CELLS, 0:_CELLS] + 0.5) / _CELLS
        is_inside = ((x - _CENTER[0]) / _RADII[0]) ** 2 + ((y - _CENTER[1]) / _RADII[1]) ** 2 < 1
        return torch.from_numpy(cells[is_inside].reshape(-1)).double()


class NetworkFace:
    """A picture network on the head, averaged over the frames.

    Args:
        network: such as `DinoFeatures`, or `TorchScriptFrameFeatures` with a network that knows faces.
    """

    def __init__(self, *, network: FrameFeatures) -> None:
        self.network = network

    def fingerprint(self) -> str:
        return f"head {self.network.fingerprint()}"

    def embed(self, sample: Sample) -> Float[Tensor, " D"]:
        return self.network.features(_still_head(sample)).double().mean(dim=0)


class VoiceProfile:
    """What a voice is like on the average of its speech, at any loudness: timbre and pitch.

    The cepstra of the mean log-mel frame hold the timbre, the mean autocorrelation at the lags of pitches from 65 to
    320 Hz the pitch. The median of a pitch per frame was tried in its place, and parted clips that have been through
    the codecs from real ones.
    """

    def __init__(self) -> None:
        self._mel = LogMel(num_mels=_BANDS)

    def fingerprint(self) -> str:
        return f"voice profile {_BANDS} {_CEPSTRA} {_HEARD:.4f} {_PITCHES_HZ} {_NUM_LAGS} {_WINDOW} {_HOP} {_LOUD}"

    @torch.no_grad()
    def embed(self, sample: Sample) -> Float[Tensor, " D"]:
        """Raises ValueError for silence too."""
        waveform = require_sound(sample.clip)
        if not bool((waveform != 0).any()):
            raise ValueError("its sound is silent")
        frames = self._mel(waveform).double()
        mean = frames[frames.amax(dim=1) > _HEARD].mean(dim=0)
        cepstra = torch.from_numpy(dct(mean.numpy(), type=2, norm="ortho")[1 : 1 + _CEPSTRA])
        return torch.cat((cepstra, _periodicity(waveform.double())))


def _periodicity(waveform: Float[Tensor, " S"]) -> Float[Tensor, " lags"]:
    """Mean over the loud windows of the autocorrelation, over that at lag zero, of the magnitude spectrum: its power's
    would follow the strongest formant.
    """
    windows = functional.pad(waveform, (_WINDOW // 2, _WINDOW // 2)).unfold(0, _WINDOW, _HOP)
    power = windows.square().mean(dim=1)
    loud = windows[power > _LOUD * power.max()]
    taper = torch.hann_window(_WINDOW, dtype=torch.float64)
    total = torch.zeros(_WINDOW, dtype=torch.float64)
    for some in loud.split(1000):
        spectrum = torch.fft.rfft((some - some.mean(dim=1, keepdim=True)) * taper, 2 * _WINDOW).abs()
        correlation = torch.fft.irfft(spectrum)[:, :_WINDOW]
        total += (correlation / correlation[:, :1].clamp(min=1e-12)).sum(dim=0)
    low, high = _PITCHES_HZ
    lags = torch.logspace(
        math.log10(SAMPLES_PER_SECOND / high), math.log10(SAMPLES_PER_SECOND / low), _NUM_LAGS, dtype=torch.float64
    ).long()
    return torch.stack([total[lags + step] for step in (-1, 0, 1)]).mean(dim=0) / len(loud)


class NetworkVoice:
    """A sound network, averaged over its windows.

    Args:
        network: such as `TorchScriptSoundFeatures` with a network that was trained to know speakers.
    """

    def __init__(self, *, network: ClipFeatures) -> None:
        self.network = network

    def fingerprint(self) -> str:
        return f"voice {self.network.fingerprint()}"

    def embed(self, sample: Sample) -> Float[Tensor, " D"]:
        return self.network.features(sample.clip).double().mean(dim=0)
