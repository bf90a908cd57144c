"""`hh-train evaluate`: scores folders of clips beside the real clips of the same prompts, and writes a report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hh_train.data.footage.files import FootageFile, find_footage, hash_order, read_metadata
from hh_train.data.media.files import MediaReader
from hh_train.data.shards.format import read_latent_clips
from hh_train.data.shards.manifest import Manifest
from hh_train.metrics.comparison.bootstrap import NUM_RESAMPLES
from hh_train.metrics.comparison.scoreboard import MEASURES, Spoken, difference, score_system
from hh_train.metrics.measurement import ClipMeasurement, MeasurementLog, failed_measurement, measure_clip
from hh_train.metrics.report.figures import loss_curves_svg, read_curves
from hh_train.metrics.report.page import (
    Exhibit,
    PromptReport,
    SystemReport,
    make_exhibit,
    render_report,
    write_report,
)
from hh_train.metrics.speech.recognizer import SAMPLES_PER_SECOND, Recognizer
from hh_train.metrics.speech.transcripts import normalize
from hh_train.runtime.version import code_version
from hh_train.stages.evaluation_record import ScoredSystem, evaluation_notes, print_evaluation, write_results
from hh_train.types import ClipMetadata

REAL = "real"
PROTOCOL_VERSION = 1
_NUM_WORST, _NUM_DRAWN = 5, 3
_LARGEST_PAGE_BYTES = 7_000_000
_READER = MediaReader(samples_per_second=SAMPLES_PER_SECOND)


def run(
    *,
    systems: dict[str, str],
    reference: str,
    recognizer: str,
    output: str,
    train_logs: dict[str, str],
    max_clips: int | None,
    seed: int,
    shards: str | None = None,
) -> Path:
    """Writes `results.json`, `results.csv` (scores), `clips.csv` (every clip) and `report.html`; returns the report.

    A second run measures only clips that are new or have changed. Clips that cannot be read are counted and listed.

    Args:
        systems: folders of generated clips (`<key>.mp4`, `.txt`, `.json`) by name; the others are compared with the
            first.
        reference: folder of the real clips; their transcripts are what the systems' clips were to say.
        recognizer: folder of the recognizer.
        output: folder of the results.
        train_logs: folders of training runs (or their `metrics.csv`) by name, for the loss curves; missing ones are
            noted.
        max_clips: scores so many prompts, those that most systems have, in a fixed mixed order; null scores all.
        seed: of the bootstrap, and of the prompts that the report shows beside the worst ones.
        shards: latent shards of the same footage, for the real clips' latent statistics; null leaves these out.

    Raises:
        ValueError: no system, a system without a clip of the reference, or a missing or empty folder.
    """
    if not systems or REAL in systems:
        raise ValueError(f"got the systems {list(systems)}; name one or more, and none {REAL!r}: that is the reference")
    if max_clips is not None and max_clips < 1:
        raise ValueError(f"got max_clips {max_clips}; wanted 1 or more, or null for all")
    console = Console(width=max(Console().width, 60 + 22 * len(systems)) if not Console().is_terminal else None)
    heard_by = Recognizer.load(recognizer)
    real = {file.key: file for file in find_footage(reference, held_out_share=0.0)}
    found = {name: _common_files(name, folder, real, reference) for name, folder in systems.items()}
    keys = _choose_keys(found, max_clips)
    found = {name: {k: files[k] for k in keys if k in files} for name, files in found.items()}
    _require_clips(found, max_clips)
    truth = _read_truth({key: real[key] for key in keys})
    spoken = _spoken(truth)
    folder = Path(output)
    measure = _Measuring(truth=truth, recognizer=heard_by, output=folder, real_latents=_real_latents(shards, keys))
    scored = [measure.system(REAL, reference, {key: real[key] for key in keys})]
    scored += [measure.system(name, systems[name], files) for name, files in found.items()]
    reports = _score(scored, spoken, seed)
    base = next(iter(systems))
    notes = evaluation_notes(scored, reports, spoken, base)
    protocol = _protocol(heard_by, keys, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, scored, reports, protocol, notes)
    write_report(
        folder / "report.html",
        render_report(
            title="Evaluation",
            systems=reports,
            base=base,
            prompts=_prompts(scored, truth, seed),
            curves={name: _curves(path) for name, path in train_logs.items()},
            protocol=protocol,
            notes=notes,
        ),
    )
    print_evaluation(console, reports, base, scored, notes)
    console.print(f"report: {folder / 'report.html'}", markup=False)
    return folder / "report.html"


# ------------------------------------------------------------------------------------------------------- which clips


def _common_files(name: str, folder: str, real: Mapping[str, FootageFile], reference: str) -> dict[str, FootageFile]:
    """The system's clips that are in the reference too."""
    try:
        files = {file.key: file for file in find_footage(folder, held_out_share=0.0)}
    except ValueError as error:
        raise ValueError(f"system {name!r}: {error}") from error
    common = {key: file for key, file in files.items() if key in real}
    if not common:
        raise ValueError(
            f"system {name!r}: none of the {len(files)} clips in {folder} (such as {next(iter(files))}) is among the "
            f"{len(real)} of {reference} (such as {next(iter(real))}); generate its prompts, or change `reference`"
        )
    return common


def _choose_keys(found: Mapping[str, Mapping[str, FootageFile]], max_clips: int | None) -> list[str]:
    """The keys to score: those that most systems have first, in an order that has nothing to do with names."""
    count: dict[str, int] = {}
    for files in found.values():
        for key in files:
            count[key] = count.get(key, 0) + 1
    return sorted(count, key=lambda key: (-count[key], hash_order(key)))[:max_clips]


def _require_clips(found: Mapping[str, Mapping[str, FootageFile]], max_clips: int | None) -> None:
    for name, files in found.items():
        if not files:
            raise ValueError(
                f"none of the {max_clips} prompts that most systems share is in system {name!r}; raise max_clips, or "
                "score it apart"
            )


def _read_truth(files: Mapping[str, FootageFile]) -> dict[str, ClipMetadata | None]:
    """What is known about each real clip; None where that cannot be read."""
    truth: dict[str, ClipMetadata | None] = {}
    for key, file in files.items():
        try:
            truth[key] = read_metadata(file)
        except ValueError:
            truth[key] = None
    return truth


def _spoken(truth: Mapping[str, ClipMetadata | None]) -> dict[str, Spoken]:
    return {
        key: Spoken(transcript=known.transcript, language=known.language)
        for key, known in truth.items()
        if known and known.transcript and known.language and normalize(known.transcript, known.language)
    }


# ------------------------------------------------------------------------------------------------------- measuring


def _real_latents(shards: str | None, keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """The latent statistics of the real clips by key, as `generate` writes those of its own."""
    if shards is None:
        return {}
    splits = [split for split in Manifest.load(shards).splits if split != "train"]
    clips = (clip for split in splits for clip, _ in read_latent_clips(shards, split))
    return {
        clip.key: {
            name: {"mean": float(latent.mean()), "std": float(latent.std())}
            for name, latent in (("video", clip.video), ("audio", clip.audio))
            if latent is not None
        }
        for clip in clips
        if clip.key in keys
    }


@dataclass(frozen=True, kw_only=True)
class _Measuring:
    """Measures the clips of systems, as far as the logs in the output folder do not hold them yet."""

    truth: Mapping[str, ClipMetadata | None]
    recognizer: Recognizer
    output: Path
    real_latents: Mapping[str, Mapping[str, Any]]

    @cached_property
    def protocol(self) -> str:
        return f"{PROTOCOL_VERSION} {code_version()} {self.recognizer.fingerprint()}"

    def system(self, name: str, folder: str, files: Mapping[str, FootageFile]) -> ScoredSystem:
        log = MeasurementLog(path=self.output / "measured" / f"{name}.jsonl")
        measurements: list[ClipMeasurement] = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as progress:
            for key, file in progress.track(files.items(), len(files), description=f"measure {name}"):
                latents = self.real_latents.get(key) if name == REAL else None
                stamp = self._stamp(file, latents)
                measured = log.get(key, stamp)
                if measured is None:
                    measured = self._measure(file, latents)
                    log.add(measured, stamp)
                measurements.append(measured)
        return ScoredSystem(name=name, folder=folder, files=files, measurements=measurements)

    def _stamp(self, file: FootageFile, latents: Mapping[str, Any] | None) -> str:
        """Changes with the clip's files, with what it was to say, and with how it is measured."""
        paths = (file.path, file.path.with_suffix(".json"))
        states = [(p.stat().st_size, p.stat().st_mtime_ns) if p.is_file() else None for p in paths]
        known = self.truth[file.key]
        said = (known.transcript, known.language) if known else None
        text = f"{file.path.resolve()} {states} {said} {latents} {self.protocol}"
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def _measure(self, file: FootageFile, latents: Mapping[str, Any] | None) -> ClipMeasurement:
        known = self.truth[file.key]
        transcript, language = (known.transcript, known.language) if known else (None, None)
        if transcript and language and not normalize(transcript, language):
            transcript = None
        try:
            fields = _json_fields(file)
            own = fields.get("transcript")
            if own and transcript and own != transcript:
                raise ValueError(f"was made to say {own!r}, but the real clip of this key says {transcript!r}")
            return measure_clip(
                file.key,
                _READER.read(file.path),
                transcript=transcript,
                language=language,
                fields=fields if latents is None else {**fields, "latent_statistics": latents},
                recognizer=self.recognizer,
            )
        except (ValueError, OSError) as error:
            return failed_measurement(file.key, str(error), transcript, language)


def _json_fields(file: FootageFile) -> dict[str, Any]:
    path = file.path.with_suffix(".json")
    if not path.is_file():
        return {}
    fields = json.loads(path.read_text(encoding="utf-8"))
    return fields if isinstance(fields, dict) else {}


# ------------------------------------------------------------------------------------------------------- scoring


def _score(scored: Sequence[ScoredSystem], spoken: Mapping[str, Spoken], seed: int) -> list[SystemReport]:
    """Scores of all systems; those after the first generated one with their differences from it."""
    base = scored[1]
    reports = []
    for system in scored:
        is_compared = system.name not in (REAL, base.name)
        names = [m.name for m in MEASURES] if is_compared else []
        differences = {n: difference(n, system.measurements, base.measurements, seed=seed) for n in names}
        reports.append(
            SystemReport(
                name=system.name,
                folder=system.folder,
                scores=score_system(system.measurements, spoken, seed=seed),
                num_clips=len(system.measurements),
                failures=system.failures,
                differences={n: d for n, d in differences.items() if d.num_clips},
            )
        )
    return reports


def _protocol(recognizer: Recognizer, keys: Sequence[str], seed: int) -> dict[str, str]:
    """What a second evaluation must share for its numbers to be compared with these; the fingerprint stands for all."""
    protocol = {
        "protocol": str(PROTOCOL_VERSION),
        "hh_train": code_version(),
        **{name: metadata.version(name) for name in ("torch", "torchmetrics", "jiwer", "av", "opencv-python-headless")},
        "recognizer": recognizer.fingerprint(),
        "prompts": str(len(keys)),
        "prompt keys": hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16],
        "bootstrap": f"{NUM_RESAMPLES} draws of clips, percentile interval, 95 %",
        "seed": str(seed),
    }
    digest = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:16]
    return {"fingerprint": digest, **protocol}


# ------------------------------------------------------------------------------------------------------- the report


def _prompts(scored: Sequence[ScoredSystem], truth: Mapping[str, ClipMetadata | None], seed: int) -> list[PromptReport]:
    """The worst prompts, then some drawn at random, as many as the page can hold."""
    generated = scored[1:]
    keys = {m.key for system in generated for m in system.measurements}
    worst = sorted(keys, key=lambda key: _badness(key, generated), reverse=True)
    drawn = sorted(worst[_NUM_WORST:], key=lambda key: hash_order(f"{seed} {key}"))[:_NUM_DRAWN]
    prompts: list[PromptReport] = []
    size = 0
    for key in [*worst[:_NUM_WORST], *drawn]:
        exhibits = list(_exhibits(key, scored))
        size += sum(exhibit.size_bytes for exhibit in exhibits)
        if size > _LARGEST_PAGE_BYTES and prompts:
            break
        known = truth[key]
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


def _badness(key: str, systems: Sequence[ScoredSystem]) -> tuple[float, float]:
    """Speech error rate over the systems, then how badly mouth and sound go together."""
    mine = [m for system in systems for m in system.measurements if m.key == key]
    rates = [m.errors.total / m.errors.reference_units for m in mine if m.errors]
    sync = [m.values.get("zero_lag_correlation") for m in mine]
    defined = [v for v in sync if v is not None]
    return (
        sum(rates) / len(rates) if rates else sum(m.failure is not None for m in mine) / len(mine),
        -sum(defined) / len(defined) if defined else 0.0,
    )


def _exhibits(key: str, scored: Sequence[ScoredSystem]) -> Iterator[Exhibit]:
    for system in scored:
        measured = next((m for m in system.measurements if m.key == key), None)
        if measured is None:
            continue
        if measured.failure is not None:
            yield make_exhibit(system.name, measured, None, None)
            continue
        path = system.files[key].path
        yield make_exhibit(system.name, measured, _READER.read(path), path.read_bytes())


def _curves(path: str) -> Any:
    try:
        return loss_curves_svg(read_curves(path)) or f"{path} holds no loss with two points or more."
    except (ValueError, OSError) as error:
        return str(error)
