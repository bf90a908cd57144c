"""SyncNet (Chung and Zisserman, "Out of time: automated lip sync in the wild", 2016) for weights trained elsewhere.

Two convolutional towers look at five frames of a face and at 0.2 s of cepstra, and give embeddings that are near when
both belong together. The layers stand in the order and under the names of the published `syncnet_v2` weights, so that
these load as they are. Weights have licences of their own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from scipy.signal import medfilt
from torch import Tensor, nn

from hh_train.metrics.sound.tracks import SAMPLES_PER_SECOND
from hh_train.metrics.sync.mfcc import mfcc

FRAMES_PER_SECOND = 25.0
FACE_SIDE = 224
EMBEDDING_SIZE = 1024
_WINDOW_FRAMES = 5
_STEPS_PER_FRAME = 4
_BATCH = 20
_CROP_SCALE = 0.4
_MEDIAN_FRAMES = 13
_OUTSIDE_GRAY = 110


class SyncNet(nn.Module):
    """The two towers. `load` gives one with weights; a fresh one has random weights and measures nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_heard(1, 64, 3, padding=1),
            nn.MaxPool2d(1, stride=1),
            *_heard(64, 192, 3, padding=1),
            nn.MaxPool2d(3, stride=(1, 2)),
            *_heard(192, 384, 3, padding=1),
            *_heard(384, 256, 3, padding=1),
            *_heard(256, 256, 3, padding=1),
            nn.MaxPool2d(3, stride=2),
            *_heard(256, 512, (5, 4)),
        )
        self.netfcaud = _projection()
        self.netfclip = _projection()
        self.netcnnlip = nn.Sequential(
            *_seen(3, 96, (_WINDOW_FRAMES, 7, 7), stride=2),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            *_seen(96, 256, (1, 5, 5), stride=2, padding=1),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            *_seen(256, 256, (1, 3, 3), padding=1),
            *_seen(256, 256, (1, 3, 3), padding=1),
            *_seen(256, 256, (1, 3, 3), padding=1),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            *_seen(256, 512, (1, 6, 6)),
        )

    @classmethod
    def load(cls, path: Path | str) -> SyncNet:
        """Reads weights (`.safetensors`, or a state saved by torch), in evaluation mode.

        Raises:
            ValueError: when the file is missing or holds other tensors.
        """
        file = Path(path)
        if not file.is_file():
            raise ValueError(f"there is no file {file}; give the path of SyncNet's weights, or null to leave it out")
        network = cls()
        try:
            state = (
                load_file(file)
                if file.suffix == ".safetensors"
                else torch.load(file, map_location="cpu", weights_only=True)
            )
            found = network.load_state_dict(state, strict=False)
        except Exception as error:  # a file of another kind fails in many ways
            raise ValueError(f"{file} holds no weights of SyncNet: {error}") from error
        missing = [name for name in found.missing_keys if not name.endswith("num_batches_tracked")]
        if missing or found.unexpected_keys:
            raise ValueError(
                f"{file} holds no weights of SyncNet: it lacks {missing[:3]} ({len(missing)} in all) and has "
                f"{found.unexpected_keys[:3]} ({len(found.unexpected_keys)} in all) beyond them"
            )
        return network.eval()

    def fingerprint(self) -> str:
        """Hash of the weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            if not name.endswith("num_batches_tracked"):
                digest.update(name.encode() + value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def forward_lip(self, faces: Float[Tensor, "N 3 5 224 224"]) -> Float[Tensor, "N D"]:
        """Embeddings of windows of five faces, blue before green before red, from 0 to 255."""
        embedding: Tensor = self.netfclip(self.netcnnlip(faces).flatten(1))
        return embedding

    def forward_aud(self, cepstra: Float[Tensor, "N 1 13 20"]) -> Float[Tensor, "N D"]:
        """Embeddings of 0.2 s of cepstra (`mfcc`)."""
        embedding: Tensor = self.netfcaud(self.netcnnaud(cepstra).flatten(1))
        return embedding

    @torch.inference_mode()
    def embed(
        self, faces: UInt8[Tensor, "F 224 224 3"], waveform: Float[Tensor, " S"]
    ) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]]:
        """Embeddings of the windows of a clip at 25 frames a second and of its sound at 16 kHz.

        Window t begins at frame t. There are T = min(F, S / 640) - 5 of them, one fewer than would fit: the protocol.

        Raises:
            ValueError: for a clip of fewer than six frames.
        """
        count = min(faces.shape[0], int(waveform.shape[0] * FRAMES_PER_SECOND / SAMPLES_PER_SECOND)) - _WINDOW_FRAMES
        if count < 1:
            raise ValueError(f"got {faces.shape[0]} frames; wanted {_WINDOW_FRAMES + 1} or more with sound")
        device = next(self.parameters()).device
        cepstra = mfcc(waveform).to(device)
        pictures = faces.flip(-1).permute(3, 0, 1, 2)
        seen, heard = [], []
        for first in range(0, count, _BATCH):
            windows = range(first, min(first + _BATCH, count))
            batch = torch.stack([pictures[:, t : t + _WINDOW_FRAMES] for t in windows]).to(device).float()
            seen.append(self.forward_lip(batch))
            steps = [cepstra[:, t * _STEPS_PER_FRAME : (t + _WINDOW_FRAMES) * _STEPS_PER_FRAME] for t in windows]
            heard.append(self.forward_aud(torch.stack(steps)[:, None]))
        return torch.cat(seen).cpu(), torch.cat(heard).cpu()


def crop_faces(
    frames: UInt8[Tensor, "F H W 3"], boxes: Float[Tensor, "F 4"], *, side: int = FACE_SIDE
) -> UInt8[Tensor, "F side side 3"]:
    """Square crops of a tracked face as the protocol's pipeline makes them, scaled to one size.

    The box's place and half side are median-filtered over 13 frames; the crop is 1.4 times as wide as the box and
    reaches from its top to 0.8 of a half side below it. What lies outside the picture is gray.

    Args:
        frames: of the clip.
        boxes: x0, y0, x1, y1 of the face, as fractions of the frame.
        side: in pixels.
    """
    _, height, width, _ = frames.shape
    pixels = boxes.double().cpu().numpy() * np.array([width, height, width, height])
    x0, y0, x1, y1 = pixels.round(3).T  # fractions are in single precision, and edges are rounded down below
    tracks = (np.maximum(x1 - x0, y1 - y0).clip(min=4) / 2, (x0 + x1) / 2, (y0 + y1) / 2)
    kernel = min(_MEDIAN_FRAMES, 2 * ((len(x0) - 1) // 2) + 1)
    halves, centers_x, centers_y = (_filtered(track, kernel) for track in tracks)
    crops = []
    for frame, half, x, y in zip(frames.cpu().numpy(), halves, centers_x, centers_y, strict=True):
        border = int(half * (1 + 2 * _CROP_SCALE))
        padded = np.pad(frame, ((border, border), (border, border), (0, 0)), constant_values=_OUTSIDE_GRAY)
        middle_x, middle_y = x + border, y + border
        top, bottom = int(middle_y - half), int(middle_y + half * (1 + 2 * _CROP_SCALE))
        left, right = int(middle_x - half * (1 + _CROP_SCALE)), int(middle_x + half * (1 + _CROP_SCALE))
        crops.append(cv2.resize(padded[top:bottom, left:right], (side, side)))
    return torch.from_numpy(np.stack(crops))


def _filtered(track: np.ndarray, kernel: int) -> np.ndarray:
    """Median over a window; the ends are repeated, where zeros would pull the track to a corner."""
    reach = kernel // 2
    filtered: np.ndarray = medfilt(np.pad(track, reach, mode="edge"), kernel)[reach : reach + len(track)]
    return filtered


def _heard(inputs: int, outputs: int, kernel: int | tuple[int, int], *, padding: int = 0) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.BatchNorm2d(outputs), nn.ReLU()]


def _seen(
    inputs: int, outputs: int, kernel: tuple[int, int, int], *, stride: int = 1, padding: int = 0
) -> list[nn.Module]:
    """Stride and padding are over height and width only."""
    convolution = nn.Conv3d(inputs, outputs, kernel, stride=(1, stride, stride), padding=(0, padding, padding))
    return [convolution, nn.BatchNorm3d(outputs), nn.ReLU()]


def _projection() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING_SIZE))
