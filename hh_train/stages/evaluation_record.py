"""What an evaluation leaves behind: JSON, CSV and the printed tables, and what limits the numbers."""

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

from hh_train.metrics.clip_metric import Score
from hh_train.metrics.comparison.bootstrap import LEAST_BLOCKS
from hh_train.metrics.comparison.protocol import EvaluationProtocol
from hh_train.metrics.comparison.scoreboard import Spoken, different_clips
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.report.page import SystemReport, TableRow, difference_rows, slice_rows, table_rows
from hh_train.metrics.sound.tracks import LARGEST_DIFFERENCE_SECONDS
from hh_train.stages.measuring import CODEC, REFERENCES, ScoredSystem
from hh_train.types import ClipMetadata

RESULTS_FILE, CLIPS_FILE = "results.json", "clips.jsonl"
_MANY_CLIPS = 100
_DISTANCES = ("fvd", "kvd", "fad", "kad")
_WIDTH_OF_FILES = 160


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """Everything that was found out about systems."""

    scored: Sequence[ScoredSystem]
    reports: Sequence[SystemReport]
    measures: Sequence[Measure]
    """Those that have a score, in the order of the table."""
    owners: Mapping[str, str]
    """The measurer of each measure."""
    base: str
    protocol: EvaluationProtocol
    notes: Sequence[str]
    truth: Mapping[str, ClipMetadata | None]
    """What is known about the real clips, by key."""

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of scores, of differences and of clips, as they are written to CSV."""
        scores = [
            {"system": r.name, "measure": name, **score._asdict()}
            for r in self.reports
            for name, score in r.scores.items()
        ]
        differences = [
            {
                "system": r.name,
                "base": self.base,
                "measure": name,
                **asdict(found),
                "is_significant": found.is_significant,
            }
            for r in self.reports
            for name, found in r.differences.items()
        ]
        clips = [self._clip_row(system.name, m) for system in self.scored for m in system.measurements]
        return {"scores": scores, "differences": differences, "clips": clips}

    def _clip_row(self, system: str, measured: ClipMeasurement) -> dict[str, Any]:
        plain = {name: value for name, value in measured.details.items() if isinstance(value, str | int | float)}
        return {
            "system": system,
            "key": measured.key,
            "speaker": measured.speaker,
            "failure": measured.failure,
            **plain,
            **{m.name: measured.value(m.name) for m in self.measures if m.name in measured.values},
            "notes": "; ".join(measured.notes),
        }

    def write(self, folder: Path) -> None:
        """`results.json`, `results.csv`, `differences.csv`, `clips.csv` and `clips.jsonl`, each under its name when it
        is complete.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tables = self.tables()
        _write_csv(folder / "results.csv", tables["scores"])
        _write_csv(folder / "differences.csv", tables["differences"])
        _write_csv(folder / "clips.csv", tables["clips"])
        lines = [
            {"system": system.name, "path": str(system.paths[m.key].resolve()), **m.to_json()}
            for system in self.scored
            for m in system.measurements
        ]
        _replace(folder / CLIPS_FILE, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        _replace(folder / RESULTS_FILE, json.dumps(self._to_json(), ensure_ascii=False, indent=1) + "\n")

    def _to_json(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol.to_json(),
            "base": self.base,
            "notes": list(self.notes),
            "measures": [{**asdict(measure), "measurer": self.owners[measure.name]} for measure in self.measures],
            "prompts": {key: None if known is None else known.to_json() for key, known in self.truth.items()},
            "systems": {
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
                for report in self.reports
            },
        }

    @classmethod
    def load(cls, folder: Path | str) -> EvaluationRecord:
        """Reads what `write` wrote, without the differences.

        Raises:
            ValueError: the folder holds no results, or those of another version.
        """
        folder = Path(folder)
        results_file, clips_file = folder / RESULTS_FILE, folder / CLIPS_FILE
        if not results_file.is_file() or not clips_file.is_file():
            raise ValueError(
                f"{folder} holds no evaluation ({RESULTS_FILE}, {CLIPS_FILE}); run `hh-train evaluate` first"
            )
        try:
            results = json.loads(results_file.read_text(encoding="utf-8"))
            lines = [json.loads(line) for line in clips_file.read_text(encoding="utf-8").splitlines()]
            return cls._from_json(results, lines)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"the evaluation in {folder} is of another version or damaged: evaluate again") from error

    @classmethod
    def _from_json(cls, results: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> EvaluationRecord:
        measures = [dict(measure) for measure in results["measures"]]
        owners = {measure["name"]: measure.pop("measurer") for measure in measures}
        scored, reports = [], []
        for name, system in results["systems"].items():
            own = [line for line in lines if line["system"] == name]
            clips = [ClipMeasurement.from_json(line) for line in own]
            paths = {line["key"]: Path(line["path"]) for line in own}
            scored.append(ScoredSystem(name=name, folder=system["folder"], paths=paths, measurements=clips))
            reports.append(
                SystemReport(
                    name=name,
                    folder=system["folder"],
                    num_clips=system["num_clips"],
                    failures=system["failures"],
                    scores={measure: Score(**score) for measure, score in system["scores"].items()},
                )
            )
        return cls(
            scored=scored,
            reports=reports,
            measures=[Measure(**measure) for measure in measures],
            owners=owners,
            base=results["base"],
            protocol=EvaluationProtocol.from_json(results["protocol"]),
            notes=results["notes"],
            truth={k: None if f is None else ClipMetadata.from_json(f) for k, f in results["prompts"].items()},
        )


def evaluation_notes(
    scored: Sequence[ScoredSystem],
    reports: Sequence[SystemReport],
    measures: Sequence[Measure],
    truth: Mapping[str, ClipMetadata | None],
    base: str,
) -> list[str]:
    """What limits the numbers, in sentences."""
    real, generated = scored[0], [system for system in scored if system.name not in REFERENCES]
    keys = {system.name: [m.key for m in system.measurements] for system in generated}
    notes = []
    unequal = different_clips(keys)
    if unequal:
        notes.append(
            f"The systems have different prompts: {unequal}. Each is scored on its own: the columns are over different "
            f"clips; differences are over the clips that a system shares with {base}."
        )
    readable = [system.readable_keys for system in generated]
    common = set.intersection(*readable)
    if any(keys != common for keys in readable) and any(m.name in _DISTANCES for m in measures):
        notes.append(
            f"Distances between sets are over the {len(common)} prompts of all systems: a distance depends on the "
            "number of clips."
        )
    for system in scored:
        if system.failures:
            notes.append(
                f"{len(system.failures)} of {len(system.measurements)} clips of {system.name} could not be read. They "
                "count as saying nothing, and are in no other mean."
            )
    notes += [note for system in scored if (note := _track_note(system)) is not None]
    notes += [note for system in scored if (note := _codec_note(system, real)) is not None]
    notes += _speech_notes(reports[0], measures, truth)
    notes += sampling_notes(real.measurements, max(len(system.measurements) for system in scored))
    return notes


def _codec_note(system: ScoredSystem, real: ScoredSystem) -> str | None:
    if system.name != CODEC:
        return None
    missing = len(real.measurements) - len(system.measurements)
    lacks = f" {missing} real clips are not in the shards." if missing else ""
    return (
        f"{CODEC} is the real clips through the codecs and back, without a model: what the codecs cost, and the best "
        f"that generated clips can be.{lacks}"
    )


def _track_note(system: ScoredSystem) -> str | None:
    """About clips whose sound and picture are not of one length."""
    lengths = {m.key: m.value("duration_difference") for m in system.measurements}
    odd = [key for key, seconds in lengths.items() if seconds is not None and seconds > LARGEST_DIFFERENCE_SECONDS]
    if not odd:
        return None
    return (
        f"In {len(odd)} of {len(lengths)} clips of {system.name} (such as {odd[0]}) the sound does not end with the "
        "picture: its track is truncated, or was written at another sample rate than its own. clips.csv says by how "
        "much. Where that is a tenth of the clip, it counts as saying nothing."
    )


def _speech_notes(
    real: SystemReport, measures: Sequence[Measure], truth: Mapping[str, ClipMetadata | None]
) -> list[str]:
    notes = []
    spoken = [found for found in map(Spoken.of, truth.values()) if found is not None]
    rates = [m for m in measures if m.name in ("error_rate", "speech_wer")]
    floor = real.scores.get(rates[0].name) if rates else None
    if floor and floor.mean is not None:
        notes.append(
            f"The recognizer mishears {floor.mean:.1%} on the real clips ({floor.low:.1%} to {floor.high:.1%}, "
            f"n = {floor.num_clips}): the floor under every other score. A recognizer that was trained on this data "
            "set compares systems of this data set, and nothing else. Speech error looks at no pixel."
        )
    if rates and {"zh", "yue", "ja", "ko"} & {found.slices[0] for found in spoken}:
        notes.append(
            "Mandarin, Cantonese, Japanese and Korean are counted in characters, the other languages in words."
        )
    if len(spoken) < len(truth):
        notes.append(f"{len(truth) - len(spoken)} clips have no transcript with its language, so no speech error.")
    return notes


def sampling_notes(clips: Sequence[ClipMeasurement], num_clips: int) -> list[str]:
    """What the intervals are over, and what they leave out."""
    speakers = {clip.speaker for clip in clips if clip.speaker is not None}
    notes = []
    if len(speakers) >= LEAST_BLOCKS:
        notes.append(
            f"All clips of a speaker are drawn together for the intervals: there are {len(speakers)} speakers."
        )
    elif speakers:
        notes.append(
            f"There are {len(speakers)} speakers, too few to be drawn as such: the intervals are over clips, and say "
            "nothing about other speakers."
        )
    if num_clips < _MANY_CLIPS:
        notes.append(
            f"Below {_MANY_CLIPS} clips a bootstrap interval is a little too narrow: it holds the truth in some 90 % "
            "of cases."
        )
    notes.append(
        "The intervals are over prompts. How much another training seed would change is not in them: one training run "
        "has no error bar for that."
    )
    return notes


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


def print_evaluation(record: EvaluationRecord) -> None:
    """The tables on the console; wide ones where the output is a file."""
    reports, base = record.reports, record.base
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(_WIDTH_OF_FILES, 60 + 24 * len(reports)))
    _print_scores(console, "Scores, with 95 % intervals", reports, table_rows(reports, record.measures))
    first = [row for row in slice_rows(reports, record.measures) if row.measure.name.startswith(_first_name(record))]
    if first:
        _print_scores(console, "By language and kind of text", reports, first)
    differences = [line for line in difference_rows(reports, record.measures, base) if line.measure.better]
    if differences:
        compared = Table(title=f"Differences from {base} on the same clips", title_justify="left")
        for column in (
            "measure",
            "system",
            "difference",
            "95 % interval",
            "n",
            "p",
            "p (Holm)",
            "detectable",
            "in words",
        ):
            compared.add_column(column, justify="left" if column in ("measure", "system", "in words") else "right")
        for line in differences:
            compared.add_row(
                line.measure.title,
                escape(line.system),
                line.value,
                line.interval,
                str(line.num_clips),
                line.p_value,
                line.adjusted_p,
                line.detectable,
                escape(line.words),
            )
        console.print(compared)
        console.print(
            "detectable: a true difference of this size would be found in 80 % of such comparisons", soft_wrap=True
        )
    for system in record.scored:
        for key, reason in system.failures.items():
            console.print(f"unreadable {system.name}/{key}: {reason}", markup=False, soft_wrap=True)
    for note in record.notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)
    console.print(f"protocol {record.protocol.fingerprint}", markup=False)


def _first_name(record: EvaluationRecord) -> str:
    return f"{record.measures[0].name}/" if record.measures else "/"


def _print_scores(console: Console, title: str, reports: Sequence[SystemReport], rows: Sequence[TableRow]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    for report in reports:
        table.add_column(f"{escape(report.name)}\n{report.size}", justify="right")
    for row in rows:
        cells = [
            "–" if cell is None else f"{cell.value} ({cell.interval})" + (f"\n{cell.clips}" if cell.clips else "")
            for cell in row.cells
        ]
        unit = f" [dim]{row.measure.unit}[/dim]" if row.measure.unit else ""
        table.add_row(f"{row.measure.title}{unit}", *cells)
    console.print(table)
