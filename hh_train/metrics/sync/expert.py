"""A small sync expert of one's own: mouth crops and log-mel sound, embedded on one clock, near where they belong
together.

The idea is SyncNet's; the towers are a few convolutions wide, look at the mouth alone, and are trained in a minute or
two on one data set's footage (`expert_training.train`). The expert judges clips of that data set only, and its error on
known shifts of real clips is printed beside what it says.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from hh_train.metrics.sound.tracks import SAMPLES_PER_SECOND
from hh_train.metrics.speech.recognizer import LogMel

FRAMES_PER_SECOND = 25.0
STEPS_PER_FRAME = 4
"""Log-mel frames a video frame."""
_SAMPLES_PER_FRAME = SAMPLES_PER_SECOND // 25
_WEIGHTS, _CONFIG = "model.safetensors", "expert.json"


@dataclass(frozen=True, kw_only=True)
class SyncExpertConfig:
    """Sizes: all that is needed to rebuild the network."""

    side: int = 32
    """Of a mouth crop in pixels, a multiple of 8."""
    width: int = 64
    """Channels of both towers."""
    embedding_size: int = 64
    num_mels: int = 40
    least_confidence: float = 0.0
    """An LSE-C that the sound of another clip rarely reaches: below it, an offset is chance. Set after training."""


class SyncExpert(nn.Module):
    """Two towers that give a unit embedding a video frame each, from about 0.3 s around the frame.

    Args:
        config: sizes.
    """

    def __init__(self, *, config: SyncExpertConfig) -> None:
        super().__init__()
        if config.side % 8:
            raise ValueError(f"got crops of {config.side} pixels; wanted a multiple of 8")
        self.config = config
        width = config.width
        self.log_mel = LogMel(num_mels=config.num_mels)
        self.picture = nn.Sequential(
            *_picture_layer(1, width // 4),
            *_picture_layer(width // 4, width // 2),
            *_picture_layer(width // 2, width),
            nn.Flatten(),
            nn.Linear(width * (config.side // 8) ** 2, width),
        )
        self.motion = nn.Sequential(
            *_time_layer(width, width, 3), *_time_layer(width, width, 3), nn.Conv1d(width, config.embedding_size, 1)
        )
        self.sound = nn.Sequential(
            *_time_layer(config.num_mels, width, 5, stride=2),
            *_time_layer(width, width, 5, stride=2),
            *_time_layer(width, width, 3),
            nn.Conv1d(width, config.embedding_size, 1),
        )

    def embed_video(self, crops: Float[Tensor, "B F side side"]) -> Float[Tensor, "B F D"]:
        """Unit embeddings of gray mouth crops (`normalize_crops`)."""
        batch, frames = crops.shape[:2]
        pictures = self.picture(crops.flatten(0, 1)[:, None]).view(batch, frames, -1)
        return functional.normalize(self.motion(pictures.transpose(1, 2)).transpose(1, 2), dim=-1)

    def embed_audio(self, log_mel: Float[Tensor, "B steps mels"]) -> Float[Tensor, "B F D"]:
        """Unit embeddings of four log-mel frames a video frame."""
        return functional.normalize(self.sound(log_mel.transpose(1, 2) + 0.5).transpose(1, 2), dim=-1)

    def features(self, waveform: Float[Tensor, " S"], num_frames: int) -> Float[Tensor, "steps mels"]:
        """The log-mel frames under `num_frames` video frames; silence where the sound ends before."""
        missing = max(num_frames * _SAMPLES_PER_FRAME - waveform.shape[0], 0)
        steps: Tensor = self.log_mel(functional.pad(waveform, (0, missing)))
        return steps[: num_frames * STEPS_PER_FRAME]

    @torch.inference_mode()
    def embed(
        self, crops: UInt8[Tensor, "F side side"], waveform: Float[Tensor, " S"]
    ) -> tuple[Float[Tensor, "F D"], Float[Tensor, "F D"]]:
        """Embeddings of one clip's mouth crops at 25 frames a second and of its sound at 16 kHz, in evaluation mode."""
        device = next(self.parameters()).device
        was_training = self.training
        self.eval()
        seen = self.embed_video(normalize_crops(crops.to(device))[None])[0]
        heard = self.embed_audio(self.features(waveform.to(device, torch.float32), crops.shape[0])[None])[0]
        self.train(was_training)
        return seen.cpu(), heard.cpu()

    def fingerprint(self) -> str:
        """Hash of configuration and weights: equal fingerprints, equal embeddings."""
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path | str) -> None:
        """Writes `model.safetensors` and `expert.json` into the folder, which is made."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / _WEIGHTS)
        (folder / _CONFIG).write_text(json.dumps(asdict(self.config), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> SyncExpert:
        """Reads what `save` wrote, in evaluation mode.

        Raises:
            ValueError: when the folder holds no sync expert.
        """
        folder = Path(folder)
        if not (folder / _CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
            raise ValueError(
                f"{folder} holds no sync expert ({_CONFIG}, {_WEIGHTS}); run `hh-train train_sync_expert` first"
            )
        expert = cls(config=SyncExpertConfig(**json.loads((folder / _CONFIG).read_text(encoding="utf-8"))))
        expert.load_state_dict(load_file(folder / _WEIGHTS))
        return expert.eval()


def normalize_crops(crops: UInt8[Tensor, "F side side"]) -> Float[Tensor, "F side side"]:
    """Mean 0 and deviation 1 over all frames of the clip, so that light and skin do not matter."""
    values = crops.float()
    return (values - values.mean()) / values.std().clamp(min=1.0)


def _picture_layer(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


def _time_layer(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    return [convolution, nn.BatchNorm1d(outputs), nn.ReLU()]
