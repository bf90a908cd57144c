"""The report of an evaluation or of a comparison: which clips it shows, and their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hh_train.data.footage.files import hash_order
from hh_train.data.media.files import MediaReader
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.report.charts import language_bars, offset_histogram
from hh_train.metrics.report.figures import loss_curves_svg, read_curves
from hh_train.metrics.report.page import Exhibit, PromptReport, Tile, make_exhibit, make_tile, render_report
from hh_train.stages.evaluation_record import EvaluationRecord
from hh_train.stages.measuring import REFERENCES, ScoredSystem
from hh_train.types import Clip

OFFSET = "offset_frames"
"""The measure or detail that holds a clip's offset, positive where the sound leads."""
_HEADLINES = ("speech_wer", "lipread_wer", "av_wer", "zero_lag_correlation", "expert_best_within_one_frame", "lse_c")
_OF_NO_CLIP = ("seconds",)
"""Measures whose values say nothing about how good a clip is."""
_NUM_WORST, _NUM_DRAWN, _NUM_TILES = 5, 3, 18
_LARGEST_PAGE_BYTES = 7_000_000


def evaluation_page(
    record: EvaluationRecord, reader: MediaReader, *, title: str, train_logs: Mapping[str, str], seed: int
) -> str:
    """The page as HTML.

    Args:
        record: what was found out.
        reader: of the clips that are shown; those whose files are gone are left out.
        title: heading of the page.
        train_logs: folders of training runs, or their logs, by name.
        seed: of the prompts that are shown beside the worst ones.
    """
    diagrams = {
        "By language": language_bars({r.name: r.scores for r in record.reports}, _headlines(record)),
        "Where the sound stands": offset_histogram(
            {s.name: [v for m in s.measurements if (v := _offset(m)) is not None] for s in record.scored}
        ),
    }
    return render_report(
        title=title,
        systems=record.reports,
        measures=record.measures,
        base=record.base,
        prompts=_prompts(record, reader, seed),
        sheets=_sheets(record, reader),
        diagrams={heading: drawing for heading, drawing in diagrams.items() if drawing is not None},
        curves={name: _curves(path) for name, path in train_logs.items()},
        protocol={"fingerprint": record.protocol.fingerprint, **record.protocol.fields},
        notes=record.notes,
    )


def _offset(measured: ClipMeasurement) -> float | None:
    found = measured.value(OFFSET)
    detail = measured.details.get(OFFSET)
    return found if found is not None else float(detail) if isinstance(detail, int | float) else None


def _prompts(record: EvaluationRecord, reader: MediaReader, seed: int) -> list[PromptReport]:
    """The worst prompts, then some drawn at random, as many as the page can hold."""
    generated = [system for system in record.scored if system.name not in REFERENCES]
    keys = {m.key for system in generated for m in system.measurements}
    judged = _headlines(record)
    worst = sorted(keys, key=lambda key: _badness(key, generated, judged), reverse=True)
    drawn = sorted(worst[_NUM_WORST:], key=lambda key: hash_order(f"{seed} {key}"))[:_NUM_DRAWN]
    prompts: list[PromptReport] = []
    size = 0
    for key in [*worst[:_NUM_WORST], *drawn]:
        exhibits = list(_exhibits(key, record.scored, reader, judged))
        size += sum(exhibit.size_bytes for exhibit in exhibits)
        if size > _LARGEST_PAGE_BYTES and prompts:
            break
        known = record.truth.get(key)
        prompts.append(
            PromptReport(
                key=key,
                prompt=known.prompt.compose() if known else "",
                transcript=known.transcript if known else None,
                chosen="drawn at random" if key in drawn else "among the worst",
                exhibits=exhibits,
            )
        )
    return prompts


def _headlines(record: EvaluationRecord) -> list[Measure]:
    """What is drawn and printed for single clips, and tells good ones from bad ones: of each measurer the first measure
    with a better side, and those that are known by name.
    """
    firsts: dict[str, str] = {}
    for measure in record.measures:
        if measure.better and measure.name not in _OF_NO_CLIP:
            firsts.setdefault(record.owners[measure.name], measure.name)
    return [m for m in record.measures if m.name in _HEADLINES or m.name in firsts.values()]


def _badness(key: str, systems: Sequence[ScoredSystem], judged: Sequence[Measure]) -> tuple[float, ...]:
    """Unreadable clips first, then by the measures in their order, each averaged over the systems."""
    mine = [system.by_key[key] for system in systems if key in system.by_key]
    ranks = [sum(m.failure is not None for m in mine) / len(mine)]
    for measure in judged:
        defined = [v for m in mine if (v := m.value(measure.name)) is not None]
        sign = 1.0 if measure.better == "lower" else -1.0
        ranks.append(sign * sum(defined) / len(defined) if defined else float("-inf"))
    return tuple(ranks)


def _exhibits(
    key: str, scored: Sequence[ScoredSystem], reader: MediaReader, judged: Sequence[Measure]
) -> Iterator[Exhibit]:
    for system in scored:
        measured = system.by_key.get(key)
        if measured is None:
            continue
        clip = _clip(system, measured, reader)
        media = None if clip is None else system.paths[key].read_bytes()
        yield make_exhibit(system.name, measured, clip, media, measures=judged)


def _sheets(record: EvaluationRecord, reader: MediaReader) -> dict[str, list[Tile]]:
    """The same clips of every system, in an order that has nothing to do with how good they are."""
    sheets: dict[str, list[Tile]] = {}
    for system in record.scored:
        chosen = sorted(system.measurements, key=lambda m: hash_order(m.key))[:_NUM_TILES]
        sheets[system.name] = [make_tile(measured, _clip(system, measured, reader)) for measured in chosen]
    return sheets


def _clip(system: ScoredSystem, measured: ClipMeasurement, reader: MediaReader) -> Clip | None:
    """The clip once more; None where it cannot be read, or is gone."""
    if measured.failure is not None:
        return None
    try:
        return reader.read(system.paths[measured.key])
    except (ValueError, OSError):
        return None


def _curves(path: str) -> Any:
    try:
        return loss_curves_svg(read_curves(path)) or f"{path} holds no loss with two points or more."
    except (ValueError, OSError) as error:
        return str(error)
