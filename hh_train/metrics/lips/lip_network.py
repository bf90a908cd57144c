"""A small lip reader: mouth crops, convolutions over the picture, then over time, CTC over the data set's units.

It is trained on one data set (`lips.training.train`) and reads that data set only: its error on real clips is the floor
that every generated clip's error stands on. Where a data set says few different words, as digit strings do, the units
are words, otherwise characters: lips show less than sound, and a spelling is hardly ever read without a fault.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from hh_train.metrics.faces.crops import CROP_SIZE
from hh_train.metrics.lips.reader import known_lips_language
from hh_train.metrics.networks import weights_fingerprint
from hh_train.metrics.speech import transcripts

BLANK = 0
STRETCH = 2
"""CTC frames a picture: words of few frames need room for their units."""
FLOOR_FILE = "floor.json"
_COARSER = 2
"""A mouth of a head of 64 pixels has no more detail."""
_PICTURE_WIDTH = 16
_MOST_WORDS, _LEAST_REPEATS = 100, 8
_WEIGHTS, _CONFIG = "model.safetensors", "lip_reader.json"


@dataclass(frozen=True, kw_only=True)
class LipNetworkConfig:
    """Sizes and vocabulary: all that is needed to rebuild the network."""

    units: tuple[str, ...]
    """The vocabulary, characters or words; number i + 1 is `units[i]` and number 0 is CTC's blank."""
    unit: str
    """"character" or "word"."""
    known: Mapping[str, tuple[int, ...]]
    """The numbers that each language's transcripts use."""
    width: int = 96
    num_blocks: int = 4
    kernel_size: int = 7


class _TimeBlock(nn.Module):
    """x + pointwise(glu(pointwise(norm(depthwise(x))))), over time."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2, groups=width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.expand = nn.Conv1d(width, 2 * width, 1)
        self.contract = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout1d(0.1)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        update = self.contract(functional.glu(self.expand(self.norm(self.depthwise(hidden))), dim=1))
        result: Tensor = (hidden + self.dropout(update)) * mask
        return result


class LipNetwork(nn.Module):
    """Mouths to text for the languages that it was trained on; a `LipReader`.

    Args:
        config: sizes and vocabulary.

    Attributes:
        floor: its error on real held-out clips, as the training measured it; None where nothing did.
    """

    def __init__(self, *, config: LipNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.floor: float | None = None
        self.picture = nn.Sequential(
            nn.Conv2d(3, _PICTURE_WIDTH, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(_PICTURE_WIDTH),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(_PICTURE_WIDTH * (CROP_SIZE // _COARSER // 4) ** 2, config.width),
            nn.BatchNorm1d(config.width),
        )
        self.blocks = nn.ModuleList(_TimeBlock(config.width, config.kernel_size) for _ in range(config.num_blocks))
        self.norm = nn.BatchNorm1d(config.width)
        self.head = nn.Conv1d(config.width, len(config.units) + 1, 1)

    @property
    def languages(self) -> Sequence[str]:
        return tuple(self.config.known)

    @property
    def crop_size(self) -> int:
        return CROP_SIZE

    def forward(
        self, crops: Float[Tensor, "B F 48 48"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B T units"], Int[Tensor, " B"]]:
        """Log probabilities of the units, and how many CTC frames of each item are valid. Padding changes
        nothing.

        Args:
            crops: as `normalized` makes them, padded to the longest.
            lengths: valid frames of each item.
        """
        crops = functional.avg_pool2d(crops, _COARSER)
        at = torch.arange(crops.shape[1], device=lengths.device)[None]
        valid = at < lengths[:, None]
        before = torch.cat((crops[:, :1], crops[:, :-1]), dim=1)
        after = torch.cat((crops[:, 1:], crops[:, -1:]), dim=1)
        after = torch.where((at == lengths[:, None] - 1)[..., None, None], crops, after)
        seen = torch.stack((crops, crops - before, after - crops), dim=2)[valid]
        pictures = self.picture(seen)
        hidden = pictures.new_zeros(*crops.shape[:2], pictures.shape[1]).index_put((valid,), pictures).transpose(1, 2)
        hidden = hidden.repeat_interleave(STRETCH, dim=2)
        mask = valid.repeat_interleave(STRETCH, dim=1)[:, None].to(hidden.dtype)
        lengths = lengths * STRETCH
        for block in self.blocks:
            hidden = block(hidden, mask)
        logits = self.head(functional.gelu(self.norm(hidden)))
        return logits.transpose(1, 2).float().log_softmax(dim=-1), lengths

    @torch.inference_mode()
    def read(self, crops: UInt8[Tensor, "F 48 48"], language: str) -> str:
        """The words of a mouth, in the units of its language. Raises ValueError for a language without training."""
        code = known_lips_language(language, self.languages)
        was_training = self.training
        self.eval()
        device = self.head.weight.device
        found, _ = self(normalized(crops).to(device)[None], torch.tensor([crops.shape[0]], device=device))
        self.train(was_training)
        mask = torch.ones(found.shape[2], dtype=torch.bool)
        mask[[BLANK, *self.config.known[code]]] = False
        best = found[0].cpu().masked_fill(mask, -torch.inf).argmax(dim=-1).tolist()
        kept = [u for i, u in enumerate(best) if u != BLANK and (i == 0 or u != best[i - 1])]
        joined = (" " if self.config.unit == "word" else "").join(self.config.units[u - 1] for u in kept)
        return " ".join(joined.split())

    def encode_text(self, text: str, language: str) -> list[int]:
        """The numbers of a transcript's units; units outside the vocabulary are left out."""
        index = {unit: i + 1 for i, unit in enumerate(self.config.units)}
        return [index[unit] for unit in split_units(text, language, self.config.unit) if unit in index]

    def fingerprint(self) -> str:
        """Of configuration and weights."""
        return f"{weights_fingerprint(self)} {len(self.config.units)} {self.config.unit}s"

    def save(self, folder: Path | str) -> None:
        """Writes `model.safetensors` and `lip_reader.json` into the folder, which is made."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / _WEIGHTS)
        text = json.dumps(asdict(self.config), ensure_ascii=False, indent=1, default=dict)
        (folder / _CONFIG).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> LipNetwork:
        """Reads what `save` wrote, in evaluation mode. Raises ValueError when the folder holds no lip reader."""
        folder = Path(folder)
        if not (folder / _CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
            raise ValueError(
                f"{folder} holds no lip reader ({_CONFIG}, {_WEIGHTS}); run `hh-train train_lip_reader` first"
            )
        fields: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        fields["units"] = tuple(fields["units"])
        fields["known"] = {code: tuple(numbers) for code, numbers in fields["known"].items()}
        network = cls(config=LipNetworkConfig(**fields))
        network.load_state_dict(load_file(folder / _WEIGHTS))
        if (folder / FLOOR_FILE).is_file():
            floor = json.loads((folder / FLOOR_FILE).read_text(encoding="utf-8"))
            known = (floor[split].get("all", {}).get("mean") for split in ("test", "validation"))
            network.floor = next((mean for mean in known if mean is not None), None)
        return network.eval()


def normalized(crops: UInt8[Tensor, "F S S"]) -> Float[Tensor, "F S S"]:
    """Gray values of a clip with mean 0 and deviation 1: light and skin do not count."""
    values = crops.float()
    return (values - values.mean()) / values.std().clamp(min=4.0)


def split_units(text: str, language: str, unit: str) -> list[str]:
    """A transcript's characters (spaces among them, where the language has any) or words, normalized."""
    plain = transcripts.normalize(text, language)
    if unit == "character" or transcripts.error_unit(language) == "character":
        return list(plain)
    return plain.split()


def build_vocabulary(spoken: Sequence[tuple[str, str]]) -> tuple[str, tuple[str, ...], dict[str, tuple[int, ...]]]:
    """`LipNetworkConfig`'s unit, units and known, from (transcript, language) pairs.

    Words are the unit where there are at most 100 and each is said eight times or more.
    """
    counts = Counter(unit for text, language in spoken for unit in split_units(text, language, "word"))
    kind = "word" if counts and len(counts) <= _MOST_WORDS and min(counts.values()) >= _LEAST_REPEATS else "character"
    used: dict[str, set[str]] = {}
    for text, language in spoken:
        code = transcripts.language_code(language)
        used.setdefault(code, set()).update(split_units(text, language, kind))
    units = tuple(sorted(set().union(*used.values())))
    index = {unit: i + 1 for i, unit in enumerate(units)}
    return kind, units, {code: tuple(sorted(index[u] for u in own)) for code, own in sorted(used.items())}
