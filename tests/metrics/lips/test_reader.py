"""Lip readers by path: what they say is spelled by their units, and what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hh_train.metrics.lips.reader import LipReader, TorchScriptLipReader


class Brightness(torch.nn.Module):
    """CTC scores: unit 1 in dark frames, unit 2 in bright ones, the blank in between."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        bright = pictures[0, :, 0].mean(dim=(1, 2))
        return torch.stack((0.5 - bright.abs(), -bright, bright), dim=1)[None]


class Numbers(torch.nn.Module):
    def __init__(self, shape: tuple[int, ...], value: int) -> None:
        super().__init__()
        self.register_buffer("answer", torch.full(shape, value))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.answer


@pytest.fixture
def units(tmp_path: Path) -> Path:
    (tmp_path / "units.txt").write_text("<blank>\n▁hel\nlo\n")
    return tmp_path / "units.txt"


def reader(folder: Path, module: torch.nn.Module, units: Path, **changed: object) -> TorchScriptLipReader:
    torch.jit.script(module).save(str(folder / "reader.pt"))
    return TorchScriptLipReader(path=str(folder / "reader.pt"), units=str(units), mean=0.5, std=0.25, **changed)


def test_scores_are_read_by_the_rule_of_ctc(tmp_path: Path, units: Path) -> None:
    told = reader(tmp_path, Brightness(), units, side=16)
    gray = torch.tensor([127, 0, 0, 255, 127, 255, 127, 0], dtype=torch.uint8)
    crops = gray[:, None, None].expand(-1, 16, 16).contiguous()
    assert told.read(crops, "English") == "hellolo hel"
    assert isinstance(told, LipReader) and (told.languages, told.crop_size) == (("en",), 16)
    with pytest.raises(ValueError, match="does not know 'French' but en"):
        told.read(crops, "French")


def test_numbers_are_spelled(tmp_path: Path, units: Path) -> None:
    crops = torch.zeros(4, 48, 48, dtype=torch.uint8)
    assert reader(tmp_path, Numbers((2,), 1), units, languages=("zh", "en")).read(crops, "cmn") == "hel hel"
    with pytest.raises(ValueError, match="said unit 7 of 3"):
        reader(tmp_path, Numbers((2,), 7), units).read(crops, "en")
    with pytest.raises(ValueError, match=r"neither token numbers \[N\] nor scores"):
        reader(tmp_path, Numbers((2, 2), 1), units).read(crops, "en")


def test_files_are_part_of_the_fingerprint(tmp_path: Path, units: Path) -> None:
    first = reader(tmp_path, Numbers((2,), 1), units).fingerprint()
    assert first == reader(tmp_path, Numbers((2,), 1), units).fingerprint()
    assert first != reader(tmp_path, Numbers((2,), 2), units).fingerprint()
    assert first != reader(tmp_path, Numbers((2,), 1), units, side=96).fingerprint()
    with pytest.raises(ValueError, match=r"none\.pt"):
        TorchScriptLipReader(path=str(tmp_path / "none.pt"), units=str(units))
