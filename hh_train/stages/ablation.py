"""`hh-train evaluate ablation RUNS...`: distillation runs in one table, every row beside a base on the same prompts.

The clips that are missing are generated with each student's own sampler and measured; what is done is not done again.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hh_train.data.footage.clip_folder import is_written
from hh_train.data.footage.files import FootageFile, find_footage, read_metadata
from hh_train.data.shards.manifest import Manifest
from hh_train.flow.guidance import Guidance
from hh_train.metrics.faces.cascade import CascadeFaces
from hh_train.metrics.faces.track import FaceFinder
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import all_measures, measures_of
from hh_train.metrics.measurer import Measurer
from hh_train.metrics.report.ablation import (
    AblationReport,
    RowReport,
    RunLine,
    Verdict,
    render_ablation,
    render_markdown,
)
from hh_train.metrics.report.page import write_report
from hh_train.model.transformer import ComputeDtype
from hh_train.runtime.launcher import launched_process
from hh_train.stages import generate
from hh_train.stages.ablation_published import NAMES_OF_RECIPE, PUBLISHED, judge, rows_at_hand
from hh_train.stages.ablation_runs import (
    DistilledRun,
    are_of_different_teachers,
    central_row,
    command_of,
    read_runs,
    rows_by_name,
)
from hh_train.stages.ablation_scores import RowClips, RowScorer, with_adjusted_p
from hh_train.stages.evaluation_record import sampling_notes
from hh_train.stages.measuring import REAL, Measuring, ScoredSystem, SystemClips, clip_reader
from hh_train.types import ClipMetadata

log = logging.getLogger(__name__)

HEADLINES = (
    "speech_wer", "zero_lag_correlation", "fvd", "fad", "saturation", "video_latent_std", "audio_latent_std", "lufs",
    "num_function_evaluations",
)  # fmt: skip
"""Usual columns of the table, as far as they were measured."""
_GENERATED = "generated"
_WIDTH_OF_FILES = 220


def run(
    *,
    runs: Sequence[str],
    reference: str,
    shards: str,
    measures: Mapping[str, Measurer | None],
    output: str,
    base: str | None = None,
    baselines: dict[str, str] | None = None,
    columns: Sequence[str] | None = None,
    split: str = "test",
    max_clips: int | None = None,
    clips_per_batch: int = 8,
    compute_dtype: ComputeDtype = "bfloat16",
    device: str = "cpu",
    faces: FaceFinder | None = None,
    frames_per_second: float = 25.0,
    seed: int = 0,
) -> Path:
    """Writes `ablation.md`, `ablation.html`, `ablation.csv` and `ablation.json`, and prints the table.

    Runs of one row, which differ in their seed alone, are scored together. A run that has failed or is not finished
    is listed with its reason.

    Args:
        runs: output folders of `distill`, or folders of such.
        reference: folder of the real clips of the prompts.
        shards: latent shards with the prompts, whose codecs decode.
        measures: what measures the clips, by name; null leaves one out.
        output: folder of the results.
        base: the row that the others are compared with; null takes the one that the others are variations of.
        baselines: folders of clips that are rows too, by name, such as the teacher's.
        columns: measures of the table; null takes the usual ones. CSV and JSON hold all.
        split: of the shards, whose prompts are generated.
        max_clips: generates the first so many; null generates all.
        clips_per_batch, compute_dtype, device: of the generation.
        faces: finds the face of a clip; null takes OpenCV's cascades.
        frames_per_second: every clip is read at this rate.
        seed: of the clips' noise, which is the same in all rows, and of the bootstrap.

    Returns:
        The page.

    Raises:
        ValueError: a folder holds no run, rows cannot be told apart, or base, column or baseline are none.
    """
    if launched_process()[1] > 1:
        raise ValueError(f"got {launched_process()[1]} processes; an ablation is collected by one")
    measurers = {name: measurer for name, measurer in measures.items() if measurer is not None}
    table = all_measures(measurers)
    rows = rows_by_name(read_runs(runs))
    base = _chosen_base(base, rows)
    baselines = dict(baselines or {})
    _require_names(rows, baselines, columns, table)
    generation = _Generation(
        shards=shards,
        split=split,
        max_clips=max_clips,
        clips_per_batch=clips_per_batch,
        compute_dtype=compute_dtype,
        device=device,
        seed=seed,
    )
    keys = generation.keys
    folder = Path(output)
    real_files = {file.key: file for file in find_footage(reference, held_out_share=0.0)}
    given = {_label(name): _common(Path(path), real_files, keys) for name, path in baselines.items()}
    made, troubles = generation.of_all(rows)
    systems = {_label(*place): _common(path, real_files, keys) for place, path in made.items()} | given
    scored = _measured(systems, real_files, reference, measurers, folder, faces, frames_per_second)
    real = scored[REAL]
    scorer = RowScorer(measures=table, measurers=measurers, real=real.measurements, seed=seed)
    clips: dict[str, RowClips] = {
        name: {s: scored[_label(name, s)].measurements for s in members if (name, s) in made}
        for name, members in rows.items()
    }
    clips |= {name: {0: scored[_label(name)].measurements} for name in baselines}
    names = _usual_columns(measurers) if columns is None else list(columns)
    reports = [
        _row_report(
            name,
            rows.get(name, {}),
            clips,
            scorer,
            base=base,
            base_runs=rows[base],
            columns=names,
            troubles=troubles,
            folder=baselines.get(name),
        )
        for name in [base, *(name for name in clips if name != base)]
    ]
    shown = [m for m in table if any(m.name in row.scores for row in reports)]
    report = AblationReport(
        title=f"Ablation of {base}",
        command=_command(folder, runs, base=base),
        base=base,
        real=scorer.scores_of_real(),
        rows=reports,
        measures=shown,
        columns=[m for name in names for m in shown if m.name == name],
        verdicts=_verdicts(clips, rows, scorer, reports),
        notes=_notes(rows, real, keys, reports),
    )
    return _write(report, folder)


# ------------------------------------------------------------------------------------------------------------- checks


def _chosen_base(base: str | None, rows: Mapping[str, Mapping[int, DistilledRun]]) -> str:
    if base is None:
        return central_row(rows)
    if base not in rows:
        raise ValueError(f"got the base {base!r}; the rows are {', '.join(rows)}: choose one of these")
    return base


def _require_names(
    rows: Mapping[str, Mapping[int, DistilledRun]],
    baselines: Mapping[str, str],
    columns: Sequence[str] | None,
    table: Sequence[Measure],
) -> None:
    if not table:
        raise ValueError("there is nothing to measure; give at least one of `measures`")
    twice = sorted(rows.keys() & baselines.keys())
    if twice or REAL in baselines:
        raise ValueError(f"got a baseline named {(twice or [REAL])[0]!r}, which is taken: give it another name")
    known = [measure.name for measure in table]
    unknown = [name for name in columns or () if name not in known]
    if unknown:
        raise ValueError(f"got the column {unknown[0]!r}; there are {', '.join(known)}")


def _usual_columns(measurers: Mapping[str, Measurer]) -> list[str]:
    """The headlines, and of a measurer that has none its first measure, if possible one with a better side."""
    names: list[str] = []
    for measurer in measurers.values():
        own = measures_of(measurer)
        first = next((m for m in own if m.better), own[0] if own else None)
        names += [m.name for m in own if m.name in HEADLINES] or ([first.name] if first else [])
    return names


# -------------------------------------------------------------------------------------------------------------- clips


_Place = tuple[str, int]
"""A row and a training seed."""


@dataclass(frozen=True, kw_only=True)
class _Generation:
    """How every run's clips are made."""

    shards: str
    split: str
    max_clips: int | None
    clips_per_batch: int
    compute_dtype: ComputeDtype
    device: str
    seed: int

    @cached_property
    def keys(self) -> list[str]:
        """The prompts, in the order in which `generate` takes them. Raises ValueError when there are none."""
        if self.max_clips is not None and self.max_clips < 1:
            raise ValueError(f"got max_clips {self.max_clips}; wanted 1 or more, or null for all")
        records = Manifest.load(self.shards).shards_of(self.split)
        keys = [sample.key for shard in records for sample in shard.samples]
        if not keys:
            raise ValueError(f"{self.shards} has no clip in its split {self.split!r}; choose another split")
        return keys[: self.max_clips]

    def of_all(self, rows: Mapping[str, Mapping[int, DistilledRun]]) -> tuple[dict[_Place, Path], dict[_Place, str]]:
        """The folders of the clips of every run that is done, and the reasons of those that have none."""
        made: dict[_Place, Path] = {}
        troubles: dict[_Place, str] = {}
        for name, members in rows.items():
            for run_seed, one in members.items():
                if one.is_done:
                    try:
                        made[name, run_seed] = self._of(one)
                    except (ValueError, OSError) as error:
                        log.warning("%s has no clips: %s", one.folder, error)
                        troubles[name, run_seed] = f"its clips could not be generated: {error}"
        return made, troubles

    def _of(self, one: DistilledRun) -> Path:
        """The folder of the run's clips, which are generated as far as they are missing."""
        name = one.clips_name(split=self.split, shards=self.shards, seed=self.seed)
        folder = one.folder / _GENERATED / name
        if all(is_written(folder, key) for key in self.keys):
            return folder
        return generate.run(
            checkpoint=str(one.model),
            shards=self.shards,
            output=str(folder),
            solver=one.sampler,
            guidance=Guidance(),
            split=self.split,
            max_clips=self.max_clips,
            clips_per_batch=self.clips_per_batch,
            compute_dtype=self.compute_dtype,
            device=self.device,
            seed=self.seed,
        )


def _common(folder: Path, real: Mapping[str, FootageFile], keys: Sequence[str]) -> SystemClips:
    """The clips of a folder whose prompts are wanted and among the real clips."""
    files = {file.key: file for file in find_footage(str(folder), held_out_share=0.0)}
    common = {key: files[key] for key in keys if key in files and key in real}
    if not common:
        raise ValueError(
            f"none of the {len(files)} clips in {folder} is a prompt of the shards and one of the {len(real)} real "
            "ones; change `shards`, `split` or `reference`"
        )
    return SystemClips(name=REAL, folder=str(folder), files=common)


def _label(name: str, seed: int | None = None) -> str:
    """Name of a system: it is a file's name too."""
    plain = re.sub(r"[^\w.,=+-]+", "_", name).lstrip(".")
    return plain if seed is None else f"{plain},seed={seed}"


def _measured(
    systems: Mapping[str, SystemClips],
    real_files: Mapping[str, FootageFile],
    reference: str,
    measurers: Mapping[str, Measurer],
    folder: Path,
    faces: FaceFinder | None,
    frames_per_second: float,
) -> dict[str, ScoredSystem]:
    """Everything measured, by system; the real clips are those of all prompts that any system has."""
    keys = list(dict.fromkeys(key for system in systems.values() for key in system.files))
    real = SystemClips(name=REAL, folder=reference, files={key: real_files[key] for key in keys})
    measuring = Measuring(
        truth={key: _known(real_files[key]) for key in keys},
        measurers=measurers,
        output=folder,
        reader=clip_reader(frames_per_second),
        faces=faces or CascadeFaces(),
    )
    every = [real, *(replace(system, name=label) for label, system in systems.items())]
    scored = measuring.measure(every)
    assert scored is not None, "one process finishes all"
    return {system.name: system for system in scored}


def _known(file: FootageFile) -> ClipMetadata | None:
    try:
        return read_metadata(file)
    except ValueError:
        return None


# ------------------------------------------------------------------------------------------------------------- scores


def _row_report(
    name: str,
    members: Mapping[int, DistilledRun],
    clips: Mapping[str, RowClips],
    scorer: RowScorer,
    *,
    base: str,
    base_runs: Mapping[int, DistilledRun],
    columns: Sequence[str],
    troubles: Mapping[_Place, str],
    folder: str | None,
) -> RowReport:
    own, others = clips[name], clips[base]
    differences = {}
    remark = None
    if not own:
        remark = "no run of this row has a student that could be scored"
    elif name != base:
        compared = _repeated(own, others) if not members else own
        differences = with_adjusted_p(scorer.differences(compared, others), scorer.measures, shown=columns)
        if not differences:
            seeds = ", ".join(map(str, others)) or "none"
            remark = f"not compared: no training seed and prompt in common with {base} (which has the seeds {seeds})"
        elif any(
            are_of_different_teachers(one, base_run) for one in members.values() for base_run in base_runs.values()
        ):
            remark = f"distilled from another teacher than {base}: the differences are those of the teachers too"
    return RowReport(
        name=name,
        runs=[_run_line(one, troubles.get((name, s))) for s, one in sorted(members.items())],
        folder=folder,
        scores=scorer.scores(own),
        differences=differences,
        remark=remark,
    )


def _repeated(own: RowClips, others: RowClips) -> RowClips:
    """The clips of a baseline, which has no training seed, for every seed of a row."""
    (clips,) = own.values()
    return dict.fromkeys(others, clips)


def _run_line(one: DistilledRun, trouble: str | None) -> RunLine:
    flops, seconds, devices = one.flops, one.seconds, one.num_devices
    return RunLine(
        folder=str(one.folder),
        seed=one.seed,
        student_steps=one.student_steps,
        critic_steps=one.critic_steps,
        trouble=trouble or one.trouble,
        is_scored=one.is_done and trouble is None,
        flops=None if flops is None or devices is None else flops * devices,
        seconds=seconds,
        device_hours=None if seconds is None or devices is None else seconds * devices / 3600,
        accelerator=one.accelerator,
        command=shlex.join(one.command),
    )


def _verdicts(
    clips: Mapping[str, RowClips],
    rows: Mapping[str, Mapping[int, DistilledRun]],
    scorer: RowScorer,
    reports: Sequence[RowReport],
) -> list[Verdict]:
    scores = {row.name: {name: found.score.mean for name, found in row.scores.items()} for row in reports}
    verdicts = []
    for one in rows_at_hand(clips.keys()):
        first, second = clips[one.row], clips[one.against]
        if one.against not in rows and second:
            second = _repeated(second, first)
        found = scorer.differences(first, second, names=one.measures)
        verdicts.append(judge(one, found, scorer.measures, other_scores=scores[one.against]))
    return verdicts


def _notes(
    rows: Mapping[str, Mapping[int, DistilledRun]],
    real: ScoredSystem,
    keys: Sequence[str],
    reports: Sequence[RowReport],
) -> list[str]:
    notes = [
        "Rows are compared on the same prompts, noise and training seeds. The intervals draw speakers (prompts, where "
        "there are few speakers) and training seeds anew; those of distances between sets (FVD, FAD and the like) are "
        "the mean of the seeds' intervals, wide enough to hold the value of every seed.",
        "p-values are adjusted for the table's measures (Holm; those with a better side apart from the others), not "
        "for the number of rows: of twenty rows that do nothing, one may look as if it did.",
    ]
    most = max((sum(run.is_scored for run in row.runs) for row in reports), default=0)
    if most < 2:
        notes.append("One training seed a row: how much another one would change cannot be seen.")
    elif most < 5:
        notes.append(f"{most} training seeds a row say little about others: a difference that only just shows may go.")
    accelerators = sorted({run.accelerator for row in reports for run in row.runs})
    notes.append(
        "Training FLOPs are those that the module counts (forward and backward passes, without recomputation), hours "
        f"and seconds those logged while training (accelerator: {', '.join(accelerators)}), without samples and start."
    )
    stopped = sum(not one.is_done for members in rows.values() for one in members.values())
    if stopped:
        notes.append(f"{stopped} runs have no student; they are listed and in no score.")
    missing = sorted({one.row for one in PUBLISHED} - {row.name for row in reports} - set(NAMES_OF_RECIPE))
    if missing:
        notes.append(f"Published rows that are not here: {', '.join(missing)}.")
    return notes + sampling_notes(real.measurements, len(keys))[:-1]  # the last one is about single runs


# -------------------------------------------------------------------------------------------------------------- files


def _command(folder: Path, runs: Sequence[str], *, base: str) -> str:
    """The command line that the results are made with, where it was written down; else the gist of it."""
    record = folder / "config.yaml"
    found = command_of(record.read_text(encoding="utf-8")) if record.is_file() else ()
    return shlex.join(found or ("hh-train", "evaluate", "ablation", *runs, f"base={base}", f"output={folder}"))


def _write(report: AblationReport, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = report.flat()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)))
    writer.writeheader()
    writer.writerows(lines)
    write_report(folder / "ablation.csv", text.getvalue())
    write_report(folder / "ablation.json", json.dumps(report.to_json(), ensure_ascii=False, indent=1) + "\n")
    write_report(folder / "ablation.md", render_markdown(report))
    page = folder / "ablation.html"
    write_report(page, render_ablation(report))
    _print(report)
    print(f"report: {page}")
    return page


def _print(report: AblationReport) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_FILES)
    tables = {
        report.title: report.overview(),
        f"Differences from {report.base}": report.compared(),
        "Beside what is published": report.beside_published(),
    }
    for title, (heading, lines) in tables.items():
        if not lines:
            continue
        printed = Table(*map(escape, heading), title=escape(title), title_justify="left")
        for line in lines:
            printed.add_row(*map(escape, line))
        console.print(printed)
    for sentence in [*report.troubles(), *report.notes]:
        console.print(f"- {sentence}", markup=False, soft_wrap=True)
