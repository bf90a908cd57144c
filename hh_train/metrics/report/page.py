"""The evaluation as one HTML page that needs nothing else: tables with intervals, diagrams, frames, playable clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from hh_train.metrics.clip_metric import Score
from hh_train.metrics.comparison.difference import Difference, in_words
from hh_train.metrics.comparison.scoreboard import find_measure
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.report.figures import data_uri, frame_strip, mouth_strip, picture_uri, waveform_svg
from hh_train.types import Clip

_TEMPLATE = "report.html.jinja"
_TILE_HEIGHT = 96
OPENING, BOXES = "mouth_opening", "mouth_boxes"
"""The details that hold the mouth's opening and its window (x0, y0, x1, y1, fractions of the frame) a frame."""


@dataclass(frozen=True, kw_only=True)
class SystemReport:
    """One column of the tables."""

    name: str
    folder: str
    scores: Mapping[str, Score]
    num_clips: int
    """Clips that were to be scored, unreadable ones too."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Reasons by key of the clips that could not be read."""
    differences: Mapping[str, Difference] = field(default_factory=dict)
    """By measure: this system minus the base. Empty for the base itself and for the real clips."""

    @property
    def size(self) -> str:
        """How many clips, and how many of them cannot be read."""
        unreadable = f", {len(self.failures)} unreadable" if self.failures else ""
        return f"{self.num_clips} clips{unreadable}"


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One system's clip for a prompt, ready for the page."""

    system: str
    measurement: ClipMeasurement
    values: Sequence[tuple[str, str]] = ()
    """Titles and printed values of what this clip measures."""
    is_misheard: bool = False
    video: str | None = None
    """Data URI; None where there is no clip, like the pictures."""
    poster: str | None = None
    """What the player shows before it plays."""
    frames: str | None = None
    mouth: str | None = None
    sound: Markup | None = None
    size_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class PromptReport:
    """All systems on one prompt."""

    key: str
    prompt: str
    transcript: str | None
    chosen: str
    """Why this one is shown."""
    exhibits: Sequence[Exhibit]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One clip of a contact sheet."""

    measurement: ClipMeasurement
    frame: str | None = None
    mouth: str | None = None
    sound: Markup | None = None


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """A score, printed."""

    value: str
    interval: str
    """Where there is no value, how many clips have none."""
    clips: str | None
    """How many clips it is over, where these are not all that could be read."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A measure with a cell for each system; None where a system has no score."""

    measure: Measure
    cells: Sequence[TableCell | None]


@dataclass(frozen=True, kw_only=True)
class DifferenceRow:
    """A difference, printed."""

    measure: Measure
    system: str
    value: str
    interval: str
    num_clips: int
    p_value: str
    adjusted_p: str
    detectable: str
    words: str
    is_significant: bool


def make_exhibit(
    system: str,
    measurement: ClipMeasurement,
    clip: Clip | None,
    media: bytes | None,
    *,
    measures: Sequence[Measure] = (),
) -> Exhibit:
    """Pictures, sound and the playable file of one clip; of a clip that could not be read, its reason alone."""
    values = [(m.title, f"{m.text(v)} {m.unit}") for m in measures if (v := measurement.value(m.name)) is not None]
    misheard = bool(measures) and bool(measurement.value(measures[0].name)) and "heard" in measurement.details
    if clip is None or media is None:
        return Exhibit(system=system, measurement=measurement, values=values)
    mouth = _mouth_uri(measurement, clip)
    frames = picture_uri(frame_strip(clip.frames))
    video = data_uri(media, "video/mp4")
    poster = picture_uri(_middle(clip))
    return Exhibit(
        system=system,
        measurement=measurement,
        values=values,
        is_misheard=misheard,
        video=video,
        poster=poster,
        frames=frames,
        mouth=mouth,
        sound=waveform_svg(clip.waveform, measurement.details.get(OPENING) or ()),
        size_bytes=len(video) + len(poster) + len(frames) + len(mouth or ""),
    )


def make_tile(measurement: ClipMeasurement, clip: Clip | None) -> Tile:
    """A frame from the clip's middle, the mouth over time, and the waveform, all small."""
    if clip is None:
        return Tile(measurement=measurement)
    return Tile(
        measurement=measurement,
        frame=picture_uri(_small(_middle(clip))),
        mouth=_mouth_uri(measurement, clip, count=12),
        sound=waveform_svg(clip.waveform, measurement.details.get(OPENING) or (), width=160),
    )


def _middle(clip: Clip) -> UInt8[Tensor, "H W 3"]:
    return clip.frames[clip.frames.shape[0] // 2]


def _small(frame: UInt8[Tensor, "H W 3"]) -> UInt8[Tensor, "h w 3"]:
    height, width = frame.shape[:2]
    if height <= _TILE_HEIGHT:
        return frame
    size = (max(round(width * _TILE_HEIGHT / height), 1), _TILE_HEIGHT)
    scaled = cv2.resize(np.ascontiguousarray(frame.cpu().numpy()), size, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.asarray(scaled, dtype=np.uint8))


def _mouth_uri(measurement: ClipMeasurement, clip: Clip, *, count: int | None = None) -> str | None:
    """None where no mouth was found, or none was looked for."""
    boxes, frames = torch.tensor(measurement.details.get(BOXES) or []), clip.frames
    if boxes.shape != (frames.shape[0], 4):
        return None
    if count is not None:
        chosen = torch.linspace(0, frames.shape[0] - 1, min(count, frames.shape[0])).round().long()
        boxes, frames = boxes[chosen], frames[chosen]
    return picture_uri(mouth_strip(frames, boxes))


def scored_measures(measures: Sequence[Measure], systems: Sequence[SystemReport]) -> list[Measure]:
    """The measures that say something of a system; of those with a better side it is enough to be undefined."""

    def says(measure: Measure, system: SystemReport) -> bool:
        score = system.scores.get(measure.name)
        return score is not None and (score.mean is not None or measure.better is not None)

    return [m for m in measures if any(says(m, system) for system in systems)]


def table_rows(systems: Sequence[SystemReport], measures: Sequence[Measure]) -> list[TableRow]:
    """The score table in the order of the measures, without empty rows."""
    present = {name for system in systems for name in system.scores}
    return [TableRow(measure=m, cells=[_cell(m, s) for s in systems]) for m in measures if m.name in present]


def slice_rows(systems: Sequence[SystemReport], measures: Sequence[Measure]) -> list[TableRow]:
    """The scores of languages and kinds of text, those of one measure together."""
    present = sorted({name for system in systems for name in system.scores if "/" in name})
    order = [m.name for m in measures]
    names = sorted(present, key=lambda name: (order.index(name.partition("/")[0]), name))
    found = [find_measure(name, measures) for name in names]
    return [TableRow(measure=measure, cells=[_cell(measure, s) for s in systems]) for measure in found]


def _cell(measure: Measure, system: SystemReport) -> TableCell | None:
    score = system.scores.get(measure.name)
    if score is None:
        return None
    if score.mean is None:
        counts = {"undefined": score.num_undefined, "unreadable": score.num_failed}
        return TableCell(value="–", interval=", ".join(f"{n} {what}" for what, n in counts.items() if n), clips=None)
    readable = system.num_clips - len(system.failures)
    whole = score.num_clips in (readable, system.num_clips) and not score.num_undefined
    undefined = f", {score.num_undefined} undefined" if score.num_undefined else ""
    has_interval = score.low is not None and score.high is not None
    return TableCell(
        value=measure.text(score.mean),
        interval=f"{measure.text(score.low)} to {measure.text(score.high)}" if has_interval else "no interval",
        clips=None if whole else f"n = {score.num_clips}{undefined}",
    )


def difference_rows(systems: Sequence[SystemReport], measures: Sequence[Measure], base: str) -> list[DifferenceRow]:
    """The paired differences from the base, by measure and then by system."""
    rows = []
    for measure in measures:
        for system in systems:
            found = system.differences.get(measure.name)
            if found is None or found.mean is None:
                continue
            rows.append(
                DifferenceRow(
                    measure=measure,
                    system=system.name,
                    value=_signed(measure, found.mean),
                    interval=f"{_signed(measure, found.low)} to {_signed(measure, found.high)}",
                    num_clips=found.num_clips,
                    p_value=_p_text(found.p_value),
                    adjusted_p=_p_text(found.adjusted_p),
                    detectable="–" if found.detectable is None else f"±{measure.text(found.detectable)}",
                    words=in_words(found, measure, system=system.name, base=base),
                    is_significant=found.is_significant,
                )
            )
    return rows


def _p_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def group_differences(rows: Sequence[DifferenceRow]) -> dict[str, list[DifferenceRow]]:
    """The measures that have a better side, and those that only describe."""
    groups = {"where one side is better": [r for r in rows if r.measure.better]}
    groups["where nearer to the real clips is better"] = [r for r in rows if not r.measure.better]
    return {title: members for title, members in groups.items() if members}


def _signed(measure: Measure, value: float | None) -> str:
    text = measure.text(value)
    return text if value is None or value < 0 else f"+{text}"


def render_report(
    *,
    title: str,
    systems: Sequence[SystemReport],
    measures: Sequence[Measure],
    base: str,
    prompts: Sequence[PromptReport],
    sheets: Mapping[str, Sequence[Tile]],
    diagrams: Mapping[str, Markup],
    curves: Mapping[str, Markup | str],
    protocol: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    """The page.

    Args:
        title: its heading.
        systems: the real clips first.
        measures: in the order of the table.
        base: the system that the others are compared with.
        prompts: the prompts that are shown, in the order of the page.
        sheets: contact sheets by system.
        diagrams: by heading.
        curves: by training run an SVG, or a sentence that says why there is none.
        protocol: what a second evaluation must share to be compared, by name.
        notes: what a reader must know before believing the numbers.
    """
    environment = Environment(
        loader=PackageLoader("hh_train.metrics.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        title=title,
        systems=systems,
        base=base,
        rows=table_rows(systems, measures),
        slices=slice_rows(systems, measures),
        differences=group_differences(difference_rows(systems, measures, base)),
        prompts=prompts,
        sheets=sheets,
        diagrams=diagrams,
        curves=curves,
        protocol=protocol,
        notes=notes,
        is_picture=lambda curve: isinstance(curve, Markup),
    )


def write_report(path: Path, page: str) -> None:
    """Writes the page under its name when it is complete."""
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(path)
