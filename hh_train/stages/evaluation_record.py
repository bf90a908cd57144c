"""What `evaluate` writes and prints beside the report: JSON, CSV, tables, and what limits the numbers."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hh_train.data.footage.files import FootageFile
from hh_train.metrics.comparison.scoreboard import MEASURES, SPEECH, Spoken
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.report.page import SystemReport, difference_rows, table_rows


@dataclass(frozen=True, kw_only=True)
class ScoredSystem:
    """A system with everything measured on it."""

    name: str
    folder: str
    files: Mapping[str, FootageFile]
    measurements: Sequence[ClipMeasurement]

    @property
    def failures(self) -> dict[str, str]:
        return {m.key: m.failure for m in self.measurements if m.failure is not None}


def evaluation_notes(
    scored: Sequence[ScoredSystem], reports: Sequence[SystemReport], spoken: Mapping[str, Spoken], base: str
) -> list[str]:
    """What limits the numbers, in sentences."""
    notes = []
    real, *generated = scored
    keys = {system.name: {m.key for m in system.measurements} for system in generated}
    if len({frozenset(k) for k in keys.values()}) > 1:
        sizes = ", ".join(f"{name} {len(k)}" for name, k in keys.items())
        notes.append(
            f"The systems have different prompts ({sizes} of {len(real.measurements)}). Each is scored on its own: the "
            f"columns are over different clips; differences are over the clips that a system shares with {base}."
        )
    for system in scored:
        if system.failures:
            notes.append(
                f"{len(system.failures)} of {len(system.measurements)} clips of {system.name} could not be read. They "
                "count as saying nothing, and are in no other mean."
            )
    floor = reports[0].scores.get(SPEECH)
    if floor and floor.mean is not None:
        notes.append(
            f"The recognizer mishears {floor.mean:.1%} on the real clips ({floor.low:.1%} to {floor.high:.1%}, "
            f"n = {floor.num_clips}). It was trained on this data set: its errors compare systems "
            "of this data set, and nothing else. Speech error looks at no pixel."
        )
    languages = sorted({item.language for item in spoken.values()})
    if {"zh", "yue", "ja", "ko"} & set(languages):
        notes.append(
            "Mandarin, Cantonese, Japanese and Korean are counted in characters, the other languages in words."
        )
    if len(spoken) < len(real.measurements):
        notes.append(
            f"{len(real.measurements) - len(spoken)} clips have no transcript with its language, so no speech error."
        )
    if max(len(system.measurements) for system in scored) < 100:
        notes.append(
            "Below 100 clips a bootstrap interval is a little too narrow: it holds the truth in some 90 % of cases."
        )
    notes.append(
        "The intervals are over clips. How much another training seed would change is not in them: one training run "
        "has no error bar for that."
    )
    notes.append(
        "Sync compares the measured opening of the mouth with the sound's loudness. The row below it, with the sound "
        "of another clip, is what chance gives. Clips with a still mouth or without sound are undefined and counted."
    )
    return notes


def write_results(
    folder: Path,
    scored: Sequence[ScoredSystem],
    reports: Sequence[SystemReport],
    protocol: Mapping[str, str],
    notes: Sequence[str],
) -> None:
    systems = {
        report.name: {
            "folder": report.folder,
            "num_clips": report.num_clips,
            "failures": dict(report.failures),
            "scores": {name: score._asdict() for name, score in report.scores.items()},
            "differences": {
                name: {**asdict(found), "is_significant": found.is_significant}
                for name, found in report.differences.items()
            },
        }
        for report in reports
    }
    results = {"protocol": dict(protocol), "base": reports[1].name, "notes": list(notes), "systems": systems}
    _replace(folder / "results.json", json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    scores = [
        {"system": r.name, "measure": name, **score._asdict()} for r in reports for name, score in r.scores.items()
    ]
    _write_csv(folder / "results.csv", scores)
    _write_csv(folder / "clips.csv", [_clip_row(system.name, m) for system in scored for m in system.measurements])


def _clip_row(system: str, measured: ClipMeasurement) -> dict[str, Any]:
    errors = measured.errors
    return {
        "system": system,
        "key": measured.key,
        "failure": measured.failure,
        "heard": measured.heard,
        "errors": errors.total if errors else None,
        "reference_units": errors.reference_units if errors else None,
        **{m.name: measured.values[m.name] for m in MEASURES if m.name in measured.values},
        "notes": "; ".join(measured.notes),
    }


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    unfinished.replace(path)


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def print_evaluation(
    console: Console, reports: Sequence[SystemReport], base: str, scored: Sequence[ScoredSystem], notes: Sequence[str]
) -> None:
    table = Table(title="Scores, with 95 % intervals over clips", title_justify="left")
    table.add_column("measure")
    for report in reports:
        table.add_column(f"{escape(report.name)}\n{report.size}", justify="right")
    for row in table_rows(reports):
        cells = [
            "–" if cell is None else f"{cell.value} ({cell.interval})" + (f"\n{cell.clips}" if cell.clips else "")
            for cell in row.cells
        ]
        unit = f" [dim]{row.measure.unit}[/dim]" if row.measure.unit else ""
        table.add_row(f"{row.measure.title}{unit}", *cells)
    console.print(table)
    differences = [line for line in difference_rows(reports, base) if line.measure.better]
    if differences:
        compared = Table(title=f"Differences from {base} on the same clips", title_justify="left")
        for column in ("measure", "system", "difference", "95 % interval", "n", "in words"):
            compared.add_column(column, justify="left" if column in ("measure", "system", "in words") else "right")
        for line in differences:
            words = escape(line.words)
            compared.add_row(
                line.measure.title, escape(line.system), line.value, line.interval, str(line.num_clips), words
            )
        console.print(compared)
    for system in scored:
        for key, reason in system.failures.items():
            console.print(f"unreadable {system.name}/{key}: {reason}", markup=False, soft_wrap=True)
    for note in notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)
