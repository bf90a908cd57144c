"""The evaluation as one HTML page that needs nothing else: tables with intervals, curves, frames, playable clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hh_train.metrics.clip_metric import Score
from hh_train.metrics.comparison.bootstrap import Difference
from hh_train.metrics.comparison.scoreboard import MEASURES, SPEECH, find_measure, in_words
from hh_train.metrics.faces.mouth import track_mouth
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.report.figures import data_uri, frame_strip, mouth_strip, picture_uri, waveform_svg
from hh_train.types import Clip

_TEMPLATE = "report.html.jinja"


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
    video: str | None = None
    """Data URI; None where there is no clip, like the pictures."""
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
class TableCell:
    """A score, printed."""

    value: str
    interval: str
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
    words: str
    is_significant: bool


def make_exhibit(system: str, measurement: ClipMeasurement, clip: Clip | None, media: bytes | None) -> Exhibit:
    """Pictures, sound and the playable file of one clip; of a clip that could not be read, its reason alone."""
    if clip is None or media is None:
        return Exhibit(system=system, measurement=measurement)
    try:
        mouth = picture_uri(mouth_strip(clip.frames, track_mouth(clip.frames).boxes))
    except ValueError:  # too small or too short for a mouth
        mouth = None
    frames = picture_uri(frame_strip(clip.frames))
    video = data_uri(media, "video/mp4")
    return Exhibit(
        system=system,
        measurement=measurement,
        video=video,
        frames=frames,
        mouth=mouth,
        sound=waveform_svg(clip.waveform, measurement.opening),
        size_bytes=len(video) + len(frames) + len(mouth or ""),
    )


def table_rows(systems: Sequence[SystemReport]) -> list[TableRow]:
    """The score table in the order of `MEASURES`, slices of the speech error below their whole, without empty rows."""
    present = {name for system in systems for name in system.scores}
    slices = sorted(name for name in present if name.startswith(f"{SPEECH}/"))
    names = [m.name for m in MEASURES]
    names[1:1] = slices if len(slices) > 1 else []
    rows = []
    for name in names:
        if name in present:
            measure = find_measure(name)
            rows.append(TableRow(measure=measure, cells=[_cell(measure, s) for s in systems]))
    return rows


def _cell(measure: Measure, system: SystemReport) -> TableCell | None:
    score = system.scores.get(measure.name)
    if score is None or score.mean is None:
        return None
    readable = system.num_clips - len(system.failures)
    whole = score.num_clips in (readable, system.num_clips) and not score.num_undefined
    undefined = f", {score.num_undefined} undefined" if score.num_undefined else ""
    return TableCell(
        value=measure.text(score.mean),
        interval=f"{measure.text(score.low)} to {measure.text(score.high)}",
        clips=None if whole else f"n = {score.num_clips}{undefined}",
    )


def difference_rows(systems: Sequence[SystemReport], base: str) -> list[DifferenceRow]:
    """The paired differences from the base, by measure and then by system."""
    rows = []
    for measure in MEASURES:
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
                    words=in_words(found, measure, system=system.name, base=base),
                    is_significant=found.is_significant,
                )
            )
    return rows


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
    base: str,
    prompts: Sequence[PromptReport],
    curves: Mapping[str, Markup | str],
    protocol: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    """The page.

    Args:
        title: its heading.
        systems: the real clips first.
        base: the system that the others are compared with.
        prompts: the prompts that are shown, in the order of the page.
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
        rows=table_rows(systems),
        differences=group_differences(difference_rows(systems, base)),
        prompts=prompts,
        curves=curves,
        protocol=protocol,
        notes=notes,
        is_picture=lambda curve: isinstance(curve, Markup),
        correlation=find_measure("zero_lag_correlation"),
    )


def write_report(path: Path, page: str) -> None:
    """Writes the page under its name when it is complete."""
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(path)
