"""The table of an ablation, rows of training runs beside a base: Markdown, an HTML page with plots, CSV and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from hh_train.metrics.clip_metric import Score
from hh_train.metrics.comparison.difference import in_words
from hh_train.metrics.comparison.pooled import PooledDifference, PooledScore
from hh_train.metrics.measure import Measure
from hh_train.metrics.report.charts import PALETTE, drawn

_TEMPLATE = "ablation.html.jinja"
_MOST_PANEL_COLUMNS = 3
NONE = "–"


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """One training run."""

    folder: str
    seed: int
    student_steps: int
    critic_steps: int
    trouble: str | None = None
    """Why it is not in the scores, or came less far than wanted."""
    is_scored: bool = True
    flops: float | None = None
    """Counted operations of the training, on all devices."""
    seconds: float | None = None
    device_hours: float | None = None
    accelerator: str = ""
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class RowReport:
    """All runs of one row; of a baseline, which is no run, none."""

    name: str
    runs: Sequence[RunLine] = ()
    folder: str | None = None
    """Of a baseline, the clips."""
    scores: Mapping[str, PooledScore] = field(default_factory=dict)
    differences: Mapping[str, PooledDifference] = field(default_factory=dict)
    """From the base, by measure."""
    remark: str | None = None
    """Why there are no scores, or no differences."""

    @property
    def state(self) -> str:
        """Whether all of its runs are as wanted, and if not, which are not and why."""
        troubles = [f"seed {run.seed}: {run.trouble}" for run in self.runs if run.trouble]
        return "; ".join(troubles) or ("done" if self.runs else "clips")

    def mean_of(self, quantity: str) -> float | None:
        """The mean over the scored runs of one of their numbers; None where any is not known."""
        values = [getattr(run, quantity) for run in self.runs if run.is_scored]
        return None if not values or None in values else math.fsum(values) / len(values)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A published row beside ours."""

    finding: str
    """What was published, with its numbers."""
    source: str
    row: str
    against: str
    measure: str
    """The measure that stands for the published one."""
    expected: str
    observed: str
    verdict: str
    """agree, disagree or cannot tell."""


@dataclass(frozen=True, kw_only=True)
class AblationReport:
    """Everything that the files say."""

    title: str
    command: str
    """That makes them anew."""
    base: str
    real: Mapping[str, Score]
    """The real clips' scores."""
    rows: Sequence[RowReport]
    """The base first."""
    measures: Sequence[Measure]
    """All that have a score."""
    columns: Sequence[Measure]
    """Those of the table."""
    verdicts: Sequence[Verdict]
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of all of it."""
        return {
            "command": self.command,
            "base": self.base,
            "notes": list(self.notes),
            "measures": [asdict(measure) for measure in self.measures],
            "real": {name: score._asdict() for name, score in self.real.items()},
            "rows": {
                row.name: {
                    "folder": row.folder,
                    "remark": row.remark,
                    "runs": [asdict(run) for run in row.runs],
                    "scores": {
                        name: {**found.score._asdict(), "by_seed": dict(found.by_seed), "spread": found.spread}
                        for name, found in row.scores.items()
                    },
                    "differences": {
                        name: {
                            **asdict(found.difference),
                            "by_seed": dict(found.by_seed),
                            "spread": found.spread,
                            "is_significant": found.difference.is_significant,
                            "words": self.words(row, name),
                        }
                        for name, found in row.differences.items()
                    },
                }
                for row in self.rows
            },
            "published": [asdict(verdict) for verdict in self.verdicts],
        }

    def flat(self) -> list[dict[str, Any]]:
        """One line a row and measure, and one for each row without scores."""
        lines = []
        for row in self.rows:
            about = {
                "row": row.name,
                "seeds": " ".join(str(run.seed) for run in row.runs if run.is_scored),
                **{name: row.mean_of(name) for name in ("student_steps", "critic_steps", "flops", "seconds")},
                "device_hours": row.mean_of("device_hours"),
                "remark": row.remark or "; ".join(run.trouble for run in row.runs if run.trouble),
            }
            lines += [{**about, **self._flat_cell(row, name)} for name in row.scores] or [about]
        return lines

    def _flat_cell(self, row: RowReport, name: str) -> dict[str, Any]:
        score, found = row.scores[name], row.differences.get(name)
        cell = {
            "measure": name,
            **{key: value for key, value in score.score._asdict().items() if key != "num_undefined"},
            "spread": score.spread,
            "by_seed": " ".join(f"{seed}:{value:.6g}" for seed, value in score.by_seed.items()),
        }
        if found is None:
            return cell
        own = found.difference
        return {
            **cell,
            "difference": own.mean,
            "difference_low": own.low,
            "difference_high": own.high,
            "difference_spread": found.spread,
            "difference_by_seed": " ".join(f"{seed}:{value:.6g}" for seed, value in found.by_seed.items()),
            "p_value": own.p_value,
            "adjusted_p": own.adjusted_p,
            "words": self.words(row, name),
        }

    def words(self, row: RowReport, measure: str) -> str:
        """What the difference from the base allows to say."""
        known = next(m for m in self.measures if m.name == measure)
        return in_words(row.differences[measure].difference, known, system=row.name, base=self.base)

    # -------------------------------------------------------------------------------------------------------- printed

    def overview(self) -> tuple[list[str], list[list[str]]]:
        """Heading and cells of the table of rows."""
        heading = [
            "row",
            "seeds",
            "state",
            "student steps",
            "critic steps",
            "training FLOPs",
            "device hours",
            "seconds",
        ]
        heading += [column_title(measure) for measure in self.columns]
        real = [score_text(measure, self.real.get(measure.name)) for measure in self.columns]
        return heading, [["real clips", *[NONE] * 7, *real], *(self._overview_row(row) for row in self.rows)]

    def _overview_row(self, row: RowReport) -> list[str]:
        scored = [run for run in row.runs if run.is_scored]
        cells = [f"{row.name} (base)" if row.name == self.base else row.name]
        cells += [", ".join(str(run.seed) for run in scored) or NONE, row.state]
        cells += [_number(row.mean_of(name), "{:,.0f}") for name in ("student_steps", "critic_steps")]
        cells += [_number(row.mean_of("flops"), "{:.3g}"), _number(row.mean_of("device_hours"), "{:.3g}")]
        cells += [_number(row.mean_of("seconds"), "{:,.0f}")]
        return cells + [self._cell(measure, row.scores.get(measure.name)) for measure in self.columns]

    @staticmethod
    def _cell(measure: Measure, found: PooledScore | None) -> str:
        if found is None:
            return NONE
        spread = "" if found.spread is None else f"; seeds ±{measure.text(found.spread)}"
        return score_text(measure, found.score, more=spread)

    def listed(self) -> list[tuple[Measure, RowReport, PooledDifference]]:
        """The differences from the base, for the measures of the table."""
        return [
            (measure, row, row.differences[measure.name])
            for measure in self.columns
            for row in self.rows
            if measure.name in row.differences
        ]

    def compared(self) -> tuple[list[str], list[list[str]]]:
        """Heading and cells of `listed`."""
        heading = ["measure", "row", "difference", "95 % interval", "by seed", "n", "p (Holm)", "in words"]
        rows = []
        for measure, row, found in self.listed():
            own = found.difference
            p_value = own.p_value if own.adjusted_p is None else own.adjusted_p
            rows.append(
                [
                    column_title(measure),
                    row.name,
                    signed(measure, own.mean),
                    f"{signed(measure, own.low)} to {signed(measure, own.high)}",
                    ", ".join(signed(measure, value) for value in found.by_seed.values()),
                    str(own.num_clips),
                    NONE if p_value is None else f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001",
                    self.words(row, measure.name),
                ]
            )
        return heading, rows

    def beside_published(self) -> tuple[list[str], list[list[str]]]:
        """Heading and cells of the published rows."""
        heading = ["published", "source", "here", "measure", "expected", "observed", "verdict"]
        return heading, [
            [v.finding, v.source, f"{v.row} − {v.against}", v.measure, v.expected, v.observed, v.verdict]
            for v in self.verdicts
        ]

    def troubles(self) -> list[str]:
        """A sentence for each row or run that is not all that was wanted."""
        runs = [f"{row.name}, seed {run.seed}: {run.trouble}" for row in self.rows for run in row.runs if run.trouble]
        return runs + [f"{row.name}: {row.remark}" for row in self.rows if row.remark]


def column_title(measure: Measure) -> str:
    """The measure with its unit and its better side."""
    arrow = {"lower": " ↓", "higher": " ↑"}.get(measure.better or "", "")
    return f"{measure.title}{f', {measure.unit}' if measure.unit else ''}{arrow}"


def score_text(measure: Measure, score: Score | None, *, more: str = "") -> str:
    """A score with its interval."""
    if score is None or score.mean is None:
        return NONE
    interval = f" ({measure.text(score.low)} to {measure.text(score.high)}{more})" if score.low is not None else ""
    return f"{measure.text(score.mean)}{interval}"


def signed(measure: Measure, value: float | None) -> str:
    """A difference, with its sign."""
    text = measure.text(value)
    return text if value is None or value < 0 else f"+{text}"


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)


def render_markdown(report: AblationReport) -> str:
    """The tables as Markdown."""
    parts = [f"# {report.title}", "", f"    {report.command}", ""]
    parts += _markdown_table(*report.overview())
    parts += ["", f"## Differences from {report.base}", "", "On the same prompts and training seeds.", ""]
    parts += _markdown_table(*report.compared())
    if report.verdicts:
        parts += ["", "## Beside what is published", "", *_markdown_table(*report.beside_published())]
    if report.troubles():
        parts += ["", "## Not as planned", "", *(f"- {sentence}" for sentence in report.troubles())]
    parts += ["", "## Notes", "", *(f"- {note}" for note in report.notes)]
    commands = [f"    {run.command}" for row in report.rows for run in row.runs if run.command]
    return "\n".join([*parts, "", "## Runs", "", *commands, ""])


def _markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def render_ablation(report: AblationReport) -> str:
    """The page, which needs nothing else."""
    environment = Environment(
        loader=PackageLoader("hh_train.metrics.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        report=report,
        scores=score_plot(report),
        differences=difference_plot(report),
        is_sure=[found.difference.is_significant for _, _, found in report.listed()],
    )


def score_plot(report: AblationReport) -> Markup | None:
    """Scores of all rows with their intervals and single seeds, one panel a measure; None without any."""
    return _panels(report, [row.name for row in report.rows if row.scores], differences=False)


def difference_plot(report: AblationReport) -> Markup | None:
    """Differences from the base likewise."""
    return _panels(report, [row.name for row in report.rows if row.differences], differences=True)


def _panels(report: AblationReport, names: Sequence[str], *, differences: bool) -> Markup | None:
    rows = {row.name: row for row in report.rows if row.name in names}
    shown = [m for m in report.columns if any(_point(row, m, differences) for row in rows.values())]
    if not rows or not shown:
        return None
    columns = min(_MOST_PANEL_COLUMNS, len(shown))
    height = (0.9 + 0.24 * len(rows)) * math.ceil(len(shown) / columns)
    figure = Figure(figsize=(1.6 + 3.3 * columns, height), layout="constrained")
    for i, measure in enumerate(shown):
        axes = figure.add_subplot(math.ceil(len(shown) / columns), columns, i + 1)
        for place, row in enumerate(rows.values()):
            _draw_point(axes, place, _point(row, measure, differences), measure)
        real = report.real.get(measure.name)
        if differences:
            axes.axvline(0, color="#999", linewidth=0.8, zorder=0)
        elif real is not None and real.mean is not None:
            axes.axvline(real.mean * measure.scale, color=PALETTE[0], linewidth=1, linestyle="--", zorder=0)
        axes.set_yticks(range(len(rows)), list(rows) if i % columns == 0 else [""] * len(rows), fontsize=7)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(labelsize=7)
        axes.set_title(column_title(measure), fontsize=8, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    return drawn(figure)


_Point = tuple[float, float | None, float | None, Sequence[float], bool]


def _point(row: RowReport, measure: Measure, differences: bool) -> _Point | None:
    """Mean, interval, seeds, and whether to draw it as sure."""
    if differences:
        found = row.differences.get(measure.name)
        if found is None or found.difference.mean is None:
            return None
        own = found.difference
        return own.mean or 0.0, own.low, own.high, list(found.by_seed.values()), own.is_significant
    scored = row.scores.get(measure.name)
    if scored is None or scored.score.mean is None:
        return None
    return scored.score.mean, scored.score.low, scored.score.high, list(scored.by_seed.values()), True


def _draw_point(axes: Any, place: int, point: _Point | None, measure: Measure) -> None:
    if point is None:
        return
    mean, low, high, seeds, is_sure = point
    color = PALETTE[1] if is_sure else PALETTE[0]
    if low is not None and high is not None:
        axes.plot([low * measure.scale, high * measure.scale], [place, place], color=color, linewidth=1.4)
    axes.plot([mean * measure.scale], [place], "o", color=color, markersize=4)
    if len(seeds) > 1:
        scaled = [value * measure.scale for value in seeds]
        axes.plot(scaled, [place + 0.22] * len(seeds), "|", color="#333", markersize=4)
