"""`hh-train evaluate`: scores folders of clips beside the real clips of the same prompts, and writes a report.

Several processes share the work (`accelerate launch --multi_gpu --num_processes 4 -m hh_train.cli evaluate`, `torchrun`
or `srun`); a killed evaluation goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from hh_train.data.footage.files import FootageFile, find_footage, hash_order, read_metadata
from hh_train.metrics.comparison.bootstrap import NUM_RESAMPLES
from hh_train.metrics.comparison.difference import Difference
from hh_train.metrics.comparison.protocol import EvaluationProtocol
from hh_train.metrics.comparison.scoreboard import Spoken, compare_sets, compare_systems, score_sets, score_system
from hh_train.metrics.faces.cascade import CascadeFaces
from hh_train.metrics.faces.track import FaceFinder
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import all_measures, measures_of
from hh_train.metrics.measurer import Measurer
from hh_train.metrics.report.page import SystemReport, scored_measures, write_report
from hh_train.runtime.launcher import launched_process
from hh_train.stages.codec_clips import CodecClips, latent_statistics
from hh_train.stages.evaluation_page import evaluation_page
from hh_train.stages.evaluation_record import EvaluationRecord, evaluation_notes, print_evaluation
from hh_train.stages.measuring import (
    CODEC,
    REAL,
    REFERENCES,
    Measuring,
    ScoredSystem,
    SystemClips,
    clip_reader,
    measuring_code,
)
from hh_train.stages.wandb_table import WandbTable
from hh_train.types import ClipMetadata

PROTOCOL_VERSION = 2
_LIBRARIES = ("torch", "torchmetrics", "av", "numpy", "scipy")


def run(
    *,
    systems: dict[str, str],
    reference: str,
    measures: Mapping[str, Measurer | None],
    output: str,
    train_logs: dict[str, str],
    max_clips: int | None,
    seed: int,
    shards: str | None = None,
    codec_clips: str | None = None,
    frames_per_second: float = 25.0,
    faces: FaceFinder | None = None,
    protocol: str | None = None,
    wandb: WandbTable | None = None,
) -> Path | None:
    """Writes `results.json`, `results.csv` (scores), `clips.csv` and `clips.jsonl` (every clip) and `report.html`.

    A second run measures only what is new or has changed. Clips that cannot be read are counted and listed. Of several
    processes the last one to end writes the results.

    Args:
        systems: folders of generated clips (`<key>.mp4`, `.txt`, `.json`) by name; the others are compared with the
            first.
        reference: folder of the real clips; their transcripts are what the systems' clips were to say.
        measures: what measures the clips, by name, in the order of the table; null leaves one out.
        output: folder of the results.
        train_logs: folders of training runs (or their `metrics.csv`) by name, for the loss curves; missing ones are
            noted.
        max_clips: scores so many prompts, those that most systems have, in a fixed mixed order; null scores all.
        seed: of the bootstrap, and of the prompts that the report shows beside the worst ones.
        shards: latent shards of the same footage, for the real clips' latent statistics; null leaves these out.
        codec_clips: folder for the real clips decoded from the shards' latents, measured as `codec` beside the real
            ones: no generated clip can be better than what the codecs give back. Null leaves them out.
        frames_per_second: every clip is read at this rate.
        faces: finds the face of a clip, once for all measures; null takes OpenCV's cascades.
        protocol: name of a protocol that others use too, where the measures are set to it.
        wandb: logs the tables to Weights & Biases.

    Returns:
        The report; None in a process that others outlast.

    Raises:
        ValueError: no system, no measure, a system without a clip of the reference, or a missing or empty folder.
    """
    _require_arguments(systems, max_clips)
    latents = None if shards is None else CodecClips(shards=shards, folder=codec_clips or "")
    measurers = {name: measurer for name, measurer in measures.items() if measurer is not None}
    table = all_measures(measurers)
    if not table:
        raise ValueError("there is nothing to measure; give at least one of `measures`")
    real = {file.key: file for file in find_footage(reference, held_out_share=0.0)}
    found = {name: _common_files(name, folder, real, reference) for name, folder in systems.items()}
    keys = _choose_keys(found, max_clips)
    found = {name: {k: files[k] for k in keys if k in files} for name, files in found.items()}
    _require_clips(found, max_clips)
    truth = _read_truth({key: real[key] for key in keys})
    process, num_processes = launched_process()
    folder, reader, faces = Path(output), clip_reader(frames_per_second), faces or CascadeFaces()
    measuring = Measuring(
        truth=truth,
        measurers=measurers,
        output=folder,
        real_latents={} if latents is None else {c.key: latent_statistics(c) for c, _ in latents.held_out(keys)},
        process=process,
        num_processes=num_processes,
        reader=reader,
        faces=faces,
    )
    every = [SystemClips(name=REAL, folder=reference, files={key: real[key] for key in keys})]
    if latents is not None and codec_clips is not None:
        decoded = latents.write(every[0].files, share=set(keys[process::num_processes]))
        every += [SystemClips(name=CODEC, folder=codec_clips, files=decoded)] if decoded else []
    every += [SystemClips(name=name, folder=systems[name], files=files) for name, files in found.items()]
    scored = measuring.measure(every)
    if scored is None:
        print(f"process {process} of {num_processes} is done; the last one to end writes the report")
        return None
    base = next(iter(systems))
    reports = _score(scored, table, measurers, base, seed)
    shown = scored_measures(table, reports)
    used = EvaluationProtocol(
        name=protocol,
        shared=_shared_protocol(every[0], truth, {"reading": str(reader), "faces": faces.fingerprint()}),
        measurers={name: dict(measurer.protocol()) for name, measurer in measurers.items()},
    )
    record = EvaluationRecord(
        scored=scored,
        reports=reports,
        measures=shown,
        base=base,
        protocol=used,
        notes=evaluation_notes(scored, reports, shown, truth, base),
        owners={m.name: name for name, measurer in measurers.items() for m in measures_of(measurer)},
        truth=truth,
    )
    record.write(folder)
    page = folder / "report.html"
    write_report(page, evaluation_page(record, reader, title="Evaluation", train_logs=train_logs, seed=seed))
    print_evaluation(record)
    print(f"report: {page}")
    if wandb is not None:
        wandb.log(record, page)
    return page


# ------------------------------------------------------------------------------------------------------- which clips


def _require_arguments(systems: Mapping[str, str], max_clips: int | None) -> None:
    taken = [name for name in REFERENCES if name in systems]
    if not systems or taken:
        raise ValueError(
            f"got the systems {list(systems)}; name one or more, and none {' or '.join(map(repr, REFERENCES))}: these "
            "are the real clips, and the same through the codecs"
        )
    odd = [name for name in systems if "/" in name or name.startswith(".")]
    if odd:
        raise ValueError(f"got the system {odd[0]!r}; names are names of files too: without a slash or a leading dot")
    if max_clips is not None and max_clips < 1:
        raise ValueError(f"got max_clips {max_clips}; wanted 1 or more, or null for all")


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


# ------------------------------------------------------------------------------------------------------- scoring


def _score(
    scored: Sequence[ScoredSystem],
    measures: Sequence[Measure],
    measurers: Mapping[str, Measurer],
    base_name: str,
    seed: int,
) -> list[SystemReport]:
    """Scores of all systems; those of generated clips with their differences from the base."""
    real, base = scored[0], next(system for system in scored if system.name == base_name)
    prompts = set.intersection(*(s.readable_keys for s in scored if s.name not in REFERENCES))
    reports = []
    for system in scored:
        is_compared = system.name not in (*REFERENCES, base.name)
        clips = system.measurements
        scores = score_system(clips, measures, seed=seed)
        scores |= score_sets(clips, real.measurements, measurers, seed=seed, prompts=prompts)
        differences: dict[str, Difference] = {}
        if is_compared:
            differences |= compare_systems(clips, base.measurements, measures, seed=seed)
            differences |= compare_sets(clips, base.measurements, real.measurements, measurers)
        reports.append(
            SystemReport(
                name=system.name,
                folder=system.folder,
                scores=scores,
                num_clips=len(clips),
                failures=system.failures,
                differences=differences,
            )
        )
    return reports


def _shared_protocol(
    real: SystemClips, truth: Mapping[str, ClipMetadata | None], ways: Mapping[str, str]
) -> dict[str, str]:
    """What every measure depends on, beside its own settings."""
    keys = sorted(real.files)
    reference = hashlib.sha256()
    for key in keys:
        spoken = Spoken.of(truth[key])
        reference.update(f"{key}\0{spoken}\0".encode() + hashlib.sha256(real.files[key].path.read_bytes()).digest())
    return {
        "protocol version": str(PROTOCOL_VERSION),
        "measuring code": measuring_code(),
        **{name: metadata.version(name) for name in _LIBRARIES},
        **ways,
        "clips": str(len(keys)),
        "clip keys": hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16],
        "reference set": reference.hexdigest()[:16],
        "intervals": f"{NUM_RESAMPLES} draws of speakers, else of clips; percentiles, 95 %",
    }
