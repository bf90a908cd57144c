"""The pictures of the report hold what they show."""

from __future__ import annotations

import base64
import csv
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch

from hh_train.metrics.report.figures import (
    frame_strip,
    loss_curves_svg,
    mouth_strip,
    picture_uri,
    read_curves,
    smoothed,
    waveform_svg,
)


def decoded(uri: str) -> np.ndarray:
    mime, _, content = uri.partition(",")
    assert mime in ("data:image/png;base64", "data:image/jpeg;base64")
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels[..., ::-1]


def test_a_picture_comes_back() -> None:
    pixels = torch.randint(0, 256, (10, 20, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert np.array_equal(decoded(picture_uri(pixels)), pixels.numpy())
    large = torch.full((500, 600, 3), 90, dtype=torch.uint8)
    assert picture_uri(large).startswith("data:image/jpeg")
    assert abs(int(decoded(picture_uri(large))[3, 3, 1]) - 90) < 3


def test_a_strip_has_the_first_and_the_last_frame() -> None:
    frames = torch.arange(30, dtype=torch.uint8)[:, None, None, None].expand(-1, 4, 6, 3).contiguous()
    strip = frame_strip(frames, count=5)
    assert strip.shape == (4, 30, 3)
    assert strip[0, ::6, 0].tolist() == [0, 7, 14, 22, 29]
    assert frame_strip(frames[:2]).shape == (4, 12, 3)


def test_mouths_are_cut_from_their_boxes() -> None:
    frames = torch.zeros(3, 40, 40, 3, dtype=torch.uint8)
    frames[:, 20:30, 10:30] = 200
    boxes = torch.tensor([[0.25, 0.5, 0.75, 0.75]]).expand(3, -1)
    strip = mouth_strip(frames, boxes, height=20)
    assert strip.shape == (20, 3 * 41, 3)
    assert set(strip[:, :40].unique().tolist()) == {200}


def test_a_waveform_and_a_mouth_in_one_drawing() -> None:
    wave = torch.linspace(-1, 1, 16_000)
    root = ElementTree.fromstring(waveform_svg(wave, [0.1, 0.5, 0.3], width=100))
    outline = next(e for e in root if e.tag.endswith("polygon")).attrib["points"].split()
    assert len(outline) == 200
    heights = [float(point.split(",")[1]) for point in outline[:100]]
    assert heights == sorted(heights, reverse=True) and heights[0] > 40 and heights[-1] < 1
    mouth = next(e for e in root if e.tag.endswith("polyline")).attrib["points"].split()
    assert [float(p.split(",")[1]) for p in mouth] == [41.0, 3.0, 22.0]
    assert len(ElementTree.fromstring(waveform_svg(None, []))) == 1


def write_log(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def test_sparse_logs_of_a_resumed_run_are_one_curve(tmp_path: Path) -> None:
    first = [{"step": s, "train/loss": 10.0 - s, "epoch": 0} for s in range(3)] + [{"step": 2, "validation/video": 7.5}]
    write_log(tmp_path / "logs" / "version_0" / "metrics.csv", first)
    write_log(
        tmp_path / "logs" / "version_1" / "metrics.csv",
        [{"step": 3, "train/loss": 5.0}, {"step": 2, "train/loss": "nan"}],
    )
    curves = read_curves(tmp_path)
    assert curves == {"train/loss": ([0, 1, 2, 3], [10, 9, 8, 5]), "validation/video": ([2], [7.5])}
    with pytest.raises(ValueError, match=r"holds no metrics\.csv"):
        read_curves(tmp_path / "nothing")


def test_losses_are_drawn_by_what_they_are_of() -> None:
    steps = [float(s) for s in range(5)]
    curves = {
        name: (steps, [1.0 + s for s in steps])
        for name in ("train/video", "validation/video", "train/video_t0.00-0.25", "train/gradient_norm", "lr-AdamW")
    }
    drawing = loss_curves_svg(curves)
    assert drawing is not None
    root = ElementTree.fromstring(drawing)
    assert len([e for e in root.iter() if e.attrib.get("id", "").startswith("axes_")]) == 2
    assert loss_curves_svg({"lr-AdamW": (steps, steps)}) is None
    assert loss_curves_svg({"train/video": ([1.0], [1.0])}) is None


def test_smoothing_keeps_a_line_and_the_mean_of_noise() -> None:
    line = [float(i) for i in range(20)]
    assert smoothed(line, span=5)[2:18] == pytest.approx(line[2:18])
    assert smoothed([0.0, 1.0] * 20, span=10)[10:30] == pytest.approx([0.5] * 20, abs=0.06)
