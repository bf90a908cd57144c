"""The diagrams of the report, as SVG: scores by language, and where the sound stands against the picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hh_train.metrics.clip_metric import Score
from hh_train.metrics.measure import Measure

PALETTE = ("#8b97a5", "#2563a8", "#c4622d", "#3b8a5a", "#8a4fa3", "#a38a2f", "#4b8f9c", "#b04a6a")
"""The real clips are gray."""
_LARGEST_OFFSET = 15.5


def drawn(figure: Figure) -> Markup:
    """The figure as SVG that stands in the page; its texts stay texts."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def language_bars(
    scores: Mapping[str, Mapping[str, Score]], measures: Sequence[Measure], *, most_panels: int = 6
) -> Markup | None:
    """Bars with 95 % intervals by language, one panel a measure; None where no measure has scores by language.

    Args:
        scores: by system, then by name; those of languages are `measure/language`.
        measures: what may be drawn, the first ones first.
        most_panels: how many are.
    """
    panels = []
    for measure in measures:
        languages = sorted(
            {
                name.partition("/")[2]
                for found in scores.values()
                for name in found
                if name.startswith(f"{measure.name}/") and " " not in name
            }
        )
        if languages:
            panels.append((measure, languages))
    panels = panels[:most_panels]
    if not panels:
        return None
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.8 * columns, 2.4 * rows), layout="constrained")
    width = 0.8 / len(scores)
    for i, (measure, languages) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        for j, (system, found) in enumerate(scores.items()):
            for k, language in enumerate(languages):
                score = found.get(f"{measure.name}/{language}")
                if score is None or score.mean is None or score.low is None or score.high is None:
                    continue
                value, low, high = (v * measure.scale for v in (score.mean, score.low, score.high))
                axes.bar(
                    k + (j - (len(scores) - 1) / 2) * width,
                    value,
                    width * 0.92,
                    color=PALETTE[j % len(PALETTE)],
                    yerr=[[max(value - low, 0.0)], [max(high - value, 0.0)]],
                    error_kw={"elinewidth": 0.9, "ecolor": "#333"},
                    label=system if k == 0 else None,
                )
        axes.set_xticks(range(len(languages)), languages, fontsize=8)
        axes.tick_params(labelsize=8)
        arrow = {"lower": " ↓", "higher": " ↑"}.get(measure.better or "", "")
        axes.set_title(f"{measure.title}{arrow}", fontsize=9, loc="left")
        axes.set_ylabel(measure.unit, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    return drawn(figure)


def offset_histogram(offsets: Mapping[str, Sequence[float]]) -> Markup | None:
    """How many clips of each system are how many frames out of step, by whole frames; None without an offset.

    Args:
        offsets: frames by system; positive where the sound leads.
    """
    known = {name: values for name, values in offsets.items() if values}
    if not known:
        return None
    farthest = max(abs(value) for values in known.values() for value in values)
    reach = min(max(farthest, 3.0), _LARGEST_OFFSET)
    edge = int(reach) + 1
    figure = Figure(figsize=(9.2, 1.15 * len(known) + 0.5), layout="constrained")
    for i, (name, values) in enumerate(known.items()):
        axes = figure.add_subplot(len(known), 1, i + 1)
        counts = [0] * (2 * edge + 1)
        for value in values:
            counts[min(max(round(value), -edge), edge) + edge] += 1
        places = range(-edge, edge + 1)
        color = PALETTE[list(offsets).index(name) % len(PALETTE)]
        axes.bar(places, [count / len(values) * 100 for count in counts], 0.9, color=color)
        axes.axvline(0, color="#999", linewidth=0.7, zorder=0)
        axes.set_ylabel("% of clips", fontsize=7)
        axes.set_title(f"{name} (n = {len(values)})", fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
        axes.set_xlim(-edge - 0.6, edge + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[-1].set_xlabel("frames; positive: the sound leads", fontsize=8)
    return drawn(figure)
