"""Clips to one vector each that says who is seen, or who is heard, and as little else as can be.

The weight-free ones were chosen on the validation speakers of the rendered data set, for real clips and for clips that
have been through its codecs (`scripts/validate_likeness.py` prints how well they tell its people apart). They compare
clips of one data set; for people at large give networks that were trained to know them.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.fft import dct
from torch import Tensor

from hh_train.metrics.distribution.extractors import ClipFeatures
from hh_train.metrics.faces.head import cut_head
from hh_train.metrics.measurer import Sample
from hh_train.metrics.motion.frame_features import FrameFeatures
from hh_train.metrics.sound.tracks import require_sound
from hh_train.metrics.speech.recognizer import LogMel

_CELLS = 8
_CENTER, _RADII = (0.5, 0.48), (0.4, 0.46)
"""The oval of the head's window that holds face and hair, and hardly any clothes or background."""
_BANDS, _CEPSTRA = 40, 30
_HEARD = -3 / 7
"""Log-mel frames count as speech whose loudest band is within three decades of the clip's loudest: of seven."""


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


class LongTermSpectrum:
    """The long-term average spectrum of speech: cepstra of the mean log-mel frame, without loudness.

    It hears the timbre of a voice through whatever words are said. The pitch is left out: Griffin-Lim does not bring it
    back, so that it parts generated clips from real ones rather than people from people.
    """

    def __init__(self) -> None:
        self._mel = LogMel(num_mels=_BANDS)

    def fingerprint(self) -> str:
        return f"long-term spectrum {_BANDS} {_CEPSTRA} {_HEARD:.4f}"

    @torch.no_grad()
    def embed(self, sample: Sample) -> Float[Tensor, " D"]:
        """Raises ValueError for silence too."""
        waveform = require_sound(sample.clip)
        if not bool((waveform != 0).any()):
            raise ValueError("its sound is silent")
        frames = self._mel(waveform).double()
        mean = frames[frames.amax(dim=1) > _HEARD].mean(dim=0)
        cepstra = dct(mean.numpy(), type=2, norm="ortho")
        return torch.from_numpy(np.ascontiguousarray(cepstra[1 : 1 + _CEPSTRA]))


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
