"""The pictures of the report, as strings that stand in the page itself: data URIs and SVG. Nothing is fetched."""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

_PALETTE = ("#2563a8", "#c4622d", "#3b8a5a", "#8a4fa3", "#a38a2f", "#4b8f9c", "#b04a6a", "#666666")
_PANEL = re.compile(r"(loss|video|audio|total)(_std|_mean)?")
_BUCKET = re.compile(r"(?P<name>.+)_t(?P<low>[\d.]+)-(?P<high>[\d.]+)")
_LARGEST_PNG_PIXELS = 16_000
_WAVEFORM_GAIN = 2.5
_STRIP_FRAMES, _MOUTH_FRAMES = 8, 50

Curve = tuple[list[float], list[float]]


def data_uri(content: bytes, mime: str) -> str:
    """The bytes as an address that holds them."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def picture_uri(pixels: UInt8[Tensor, "H W 3"]) -> str:
    """An RGB picture as PNG, or as JPEG when it is large."""
    image: NDArray[np.uint8] = np.ascontiguousarray(pixels.cpu().numpy()[..., ::-1])
    if image.shape[0] * image.shape[1] <= _LARGEST_PNG_PIXELS:
        _, encoded = cv2.imencode(".png", image)
        return data_uri(encoded.tobytes(), "image/png")
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return data_uri(encoded.tobytes(), "image/jpeg")


def frame_strip(frames: UInt8[Tensor, "F H W 3"], *, count: int = _STRIP_FRAMES) -> UInt8[Tensor, "tall wide 3"]:
    """Frames of equal distance, first and last among them, side by side."""
    chosen = torch.linspace(0, frames.shape[0] - 1, min(count, frames.shape[0])).round().long()
    return torch.cat(list(frames[chosen]), dim=1)


def mouth_strip(
    frames: UInt8[Tensor, "F H W 3"], boxes: Float[Tensor, "F 4"], *, height: int = 32
) -> UInt8[Tensor, "tall wide 3"]:
    """The mouth window of every frame (of 50 at the most), scaled to one height, side by side."""
    chosen = torch.linspace(0, frames.shape[0] - 1, min(_MOUTH_FRAMES, frames.shape[0])).round().long()
    rows, columns = frames.shape[1:3]
    crops = []
    for frame, box in zip(frames[chosen], boxes[chosen], strict=True):
        x0, y0, x1, y1 = (box * torch.tensor([columns, rows, columns, rows])).round().long().tolist()
        crop = frame[max(y0, 0) : max(y1, y0 + 1), max(x0, 0) : max(x1, x0 + 1)].cpu().numpy()
        width = max(round(height * crop.shape[1] / crop.shape[0]), 1)
        crops.append(cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=cv2.INTER_CUBIC))
    widest = max(crop.shape[1] for crop in crops)
    padded = [np.pad(crop, ((0, 0), (0, widest + 1 - crop.shape[1]), (0, 0)), constant_values=255) for crop in crops]
    return torch.from_numpy(np.concatenate(padded, axis=1))


def waveform_svg(waveform: Float[Tensor, " S"] | None, opening: Sequence[float], *, width: int = 320) -> Markup:
    """The waveform's outline, 2.5 times its height, and over it the mouth's opening, scaled to its own range."""
    height = 44
    middle = height / 2
    shapes = [f'<line x1="0" x2="{width}" y1="{middle}" y2="{middle}" class="axis"/>']
    if waveform is not None and waveform.numel() >= width:
        drawn = (waveform * _WAVEFORM_GAIN).clamp(-1, 1)
        blocks = drawn[: drawn.shape[0] // width * width].reshape(width, -1)
        tops = [f"{x},{middle - middle * v:.1f}" for x, v in enumerate(blocks.amax(dim=1).tolist())]
        bottoms = [f"{x},{middle - middle * v:.1f}" for x, v in enumerate(blocks.amin(dim=1).tolist())]
        shapes.append(f'<polygon points="{" ".join([*tops, *reversed(bottoms)])}" class="wave"/>')
    low, high = (min(opening), max(opening)) if opening else (0.0, 0.0)
    if high > low:
        step = width / len(opening)
        points = [
            f"{(i + 0.5) * step:.1f},{height - 3 - (height - 6) * (v - low) / (high - low):.1f}"
            for i, v in enumerate(opening)
        ]
        shapes.append(f'<polyline points="{" ".join(points)}" class="mouth"/>')
    box = f'viewBox="0 0 {width} {height}" preserveAspectRatio="none"'
    return Markup(f'<svg class="sound" {box} role="img">{"".join(shapes)}</svg>')


def read_curves(path: Path | str) -> dict[str, Curve]:
    """(steps, values) by column of a CSV log, or of all `metrics.csv` below a folder, in the order of the steps.

    Logs are sparse: a row holds the columns that were logged together. Columns that are not numbers are left out.

    Raises:
        ValueError: when there is no log.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.rglob("metrics.csv"))
    if not files:
        raise ValueError(f"{path} holds no metrics.csv; give the folder of a training run or its log")
    points: dict[str, dict[float, float]] = {}
    for file in files:
        with file.open(encoding="utf-8", newline="") as opened:
            for row in csv.DictReader(opened):
                step = _number(row.get("step"))
                if step is None:
                    continue
                for name, text in row.items():
                    value = _number(text) if name not in ("step", "epoch") else None
                    if value is not None:
                        points.setdefault(name, {})[step] = value
    return {name: (sorted(found), [found[s] for s in sorted(found)]) for name, found in points.items()}


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def loss_curves_svg(curves: Mapping[str, Curve]) -> Markup | None:
    """Losses by what they are of (loss, video, audio, and their noise levels), one panel each; None without any.

    Statistics that end in `_std` or `_mean` get panels too: there the student should stay near the data.
    """
    panels: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        group, _, quantity = name.rpartition("/")
        bucket = _BUCKET.fullmatch(quantity)
        if bucket and group != "validation":
            panels.setdefault(f"{group or 'loss'} {bucket['name']} by noise level", {})[
                f"{bucket['low']} to {bucket['high']}"
            ] = curve
        elif not bucket and (_PANEL.fullmatch(quantity) or "loss" in quantity):
            panels.setdefault(quantity.replace("_", " "), {})[group or name] = curve
    panels = {title: lines for title, lines in panels.items() if any(len(steps) > 1 for steps, _ in lines.values())}
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.9 * columns, 2.5 * rows), layout="constrained")
    for i, (title, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        for color, (label, (steps, values)) in zip(_PALETTE * 9, lines.items(), strict=False):
            noisy = len(steps) > 60
            axes.plot(steps, values, color=color, linewidth=0.7 if noisy else 1.4, alpha=0.3 if noisy else 1.0,
                      label=None if noisy else label)  # fmt: skip
            if noisy:
                axes.plot(
                    steps, smoothed(values, span=max(len(values) // 30, 3)), color=color, linewidth=1.4, label=label
                )
        if _spans_decades([v for _, values in lines.values() for v in values]):
            axes.set_yscale("log")
        axes.set_title(title, fontsize=9, loc="left")
        axes.tick_params(which="both", labelsize=7)
        axes.set_xlabel("step", fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=6, frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def _spans_decades(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > 30 * min(values)


def smoothed(values: Sequence[float], *, span: int) -> list[float]:
    """Running mean over `span` values, shorter at the ends."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    low = np.maximum(np.arange(len(values)) - span // 2, 0)
    high = np.minimum(np.arange(len(values)) + span // 2 + 1, len(values))
    return [float(v) for v in (sums[high] - sums[low]) / (high - low)]
