"""`hh-train evaluate compare A B C`: finished evaluations against each other, prompt by prompt, with a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hh_train.metrics.comparison.protocol import EvaluationProtocol, require_same_protocol
from hh_train.metrics.comparison.scoreboard import compare_systems, different_clips, score_system
from hh_train.metrics.measure import Measure
from hh_train.metrics.report.page import SystemReport, scored_measures, write_report
from hh_train.stages.evaluation_page import evaluation_page
from hh_train.stages.evaluation_record import EvaluationRecord, print_evaluation, sampling_notes
from hh_train.stages.measuring import REFERENCES, ScoredSystem, clip_reader
from hh_train.stages.wandb_table import WandbTable

_CLIP_FIELDS = ("clips", "clip keys", "reference set")
"""Fields of the protocol that say which clips were scored: they may differ where only common ones are compared."""


@dataclass(frozen=True, kw_only=True)
class _Contender:
    """A system of an evaluation, under the name that it has in the comparison."""

    name: str
    system: ScoredSystem
    report: SystemReport
    record: EvaluationRecord


def run(
    *,
    evaluations: Sequence[str],
    output: str,
    measurers: Sequence[str] | None = None,
    common_clips: bool = False,
    seed: int = 0,
    wandb: WandbTable | None = None,
) -> Path:
    """Compares systems with the first one and prints the table; writes `report.html`, `results.json`, `results.csv`,
    `differences.csv` and `clips.csv`.

    Args:
        evaluations: output folders of `evaluate`; `FOLDER:SYSTEM` takes one system of it, `FOLDER` all of them.
        output: folder of the results.
        measurers: compares only what these have measured; null compares all that was measured.
        common_clips: compares the prompts that all systems have, where these are not the same; else they must be.
        seed: of the bootstrap, and of the prompts that the report shows.
        wandb: logs the tables to Weights & Biases.

    Returns:
        The report.

    Raises:
        ProtocolMismatchError: evaluations were not made in the same way; the message says in which fields they differ.
        ValueError: fewer than two systems, systems of different prompts, or a folder that holds no evaluation.
    """
    found = _contenders(evaluations)
    if len(found) < 2:
        raise ValueError(f"got {len(found)} system in {list(evaluations)}; a comparison needs two or more")
    keys = _common_keys(found, common_clips)
    require_same_protocol({c.name: _protocol(c.record, measurers, common_clips) for c in found})
    _require_same_words(found, keys)
    first = found[0]
    measures, owners = _measures(found, measurers)
    references = [
        _contender(first.record, s.name, shown_as=s.name) for s in first.record.scored if s.name in REFERENCES
    ]
    shown_systems = [*references, *found]
    scored = [_restricted(c, keys) for c in shown_systems]
    base = scored[len(references)]
    reports = [_report(system, base, c.report, measures, seed) for system, c in zip(scored, shown_systems, strict=True)]
    shown = scored_measures(measures, reports)
    record = EvaluationRecord(
        scored=scored,
        reports=reports,
        measures=shown,
        owners=owners,
        base=first.name,
        protocol=_protocol(first.record, measurers, common_clips),
        notes=_notes(found, scored, keys),
        truth={key: known for key, known in first.record.truth.items() if key in keys},
    )
    folder = Path(output)
    record.write(folder)
    page = folder / "report.html"
    title = f"{first.name} against {', '.join(c.name for c in found[1:])}"
    write_report(page, evaluation_page(record, clip_reader(), title=title, train_logs={}, seed=seed))
    print_evaluation(record)
    print(f"report: {page}")
    if wandb is not None:
        wandb.log(record, page)
    return page


def _contenders(evaluations: Sequence[str]) -> list[_Contender]:
    """The systems in their order, each once; those of several folders that have one name are named after these, too."""
    records: dict[Path, EvaluationRecord] = {}
    chosen: dict[tuple[Path, str], None] = {}
    for text in evaluations:
        folder, system = _split(text)
        if folder not in records:
            records[folder] = EvaluationRecord.load(folder)
        names = [s.name for s in records[folder].scored if s.name not in REFERENCES]
        if system is not None and system not in names:
            raise ValueError(f"{folder} has no system {system!r}, but {', '.join(names)}")
        chosen |= dict.fromkeys((folder, name) for name in ([system] if system else names))
    contenders = []
    for folder, name in chosen:
        others = [other for other, system in chosen if system == name and other != folder]
        contenders.append(_contender(records[folder], name, shown_as=_told_apart(name, folder, others)))
    return contenders


def _contender(record: EvaluationRecord, name: str, *, shown_as: str) -> _Contender:
    return _Contender(
        name=shown_as,
        system=next(system for system in record.scored if system.name == name),
        report=next(report for report in record.reports if report.name == name),
        record=record,
    )


def _split(text: str) -> tuple[Path, str | None]:
    """The folder, and the system behind its last colon, where what stands before is an evaluation."""
    whole = Path(text)
    folder, colon, system = text.rpartition(":")
    if whole.exists() or not colon:
        return whole, None
    return Path(folder), system


def _told_apart(name: str, folder: Path, others: Sequence[Path]) -> str:
    """The name, behind as many parts of the folder's path as tell it from the others."""
    if not others:
        return name
    parts = folder.resolve().parts
    tails = (parts[-count:] for count in range(1, len(parts) + 1))
    tail = next(t for t in tails if all(other.resolve().parts[-len(t) :] != t for other in others))
    return f"{'/'.join(tail)}:{name}"


def _protocol(record: EvaluationRecord, measurers: Sequence[str] | None, common_clips: bool) -> EvaluationProtocol:
    """What has to agree with the others, once the clips are the same."""
    protocol = record.protocol
    chosen = list(protocol.measurers) if measurers is None else list(measurers)
    unknown = [name for name in chosen if name not in protocol.measurers]
    if unknown:
        raise ValueError(
            f"got the measurer {unknown[0]!r}; an evaluation has {', '.join(protocol.measurers)}: choose among these, "
            "or evaluate again"
        )
    return protocol.restricted(measurers=chosen, without=_CLIP_FIELDS if common_clips else ())


def _common_keys(found: Sequence[_Contender], common_clips: bool) -> set[str]:
    clips = {c.name: [m.key for m in c.system.measurements] for c in found}
    unequal = different_clips(clips)
    common = set.intersection(*(set(keys) for keys in clips.values()))
    if not common:
        raise ValueError(f"the systems share no prompt: {unequal}; evaluate them on the same ones")
    if unequal and not common_clips:
        raise ValueError(
            f"the systems were scored on different prompts: {unequal}. Generate the missing clips and evaluate again, "
            f"or compare the {len(common)} that all have with common_clips=true"
        )
    return common


def _measures(found: Sequence[_Contender], measurers: Sequence[str] | None) -> tuple[list[Measure], dict[str, str]]:
    """What is compared, in the order of the table, and the measurer of each."""
    owners = {name: owner for c in found for name, owner in c.record.owners.items()}
    listed = {m.name: m for c in found for m in c.record.measures}
    return [m for m in listed.values() if measurers is None or owners[m.name] in measurers], owners


def _restricted(contender: _Contender, keys: set[str]) -> ScoredSystem:
    """The system under its name in the comparison, with these prompts alone."""
    system = contender.system
    kept = [m for m in system.measurements if m.key in keys]
    return ScoredSystem(name=contender.name, folder=system.folder, paths=system.paths, measurements=kept)


def _require_same_words(found: Sequence[_Contender], keys: set[str]) -> None:
    """Raises ValueError when prompts of one key have different words."""
    for key in sorted(keys):
        said = {c.name: known.transcript if (known := c.record.truth.get(key)) else None for c in found}
        if len(set(said.values())) > 1:
            told = "; ".join(f"{text!r} in {name}" for name, text in said.items())
            raise ValueError(f"the prompt {key} is not the same everywhere: {told}; evaluate on one reference")


def _report(
    system: ScoredSystem, base: ScoredSystem, evaluated: SystemReport, measures: Sequence[Measure], seed: int
) -> SystemReport:
    """Scores over the common prompts. What was measured of all clips together stands as long as these are all."""
    scores = score_system(system.measurements, measures, seed=seed)
    if len(system.measurements) == evaluated.num_clips:
        together = {m.name for m in measures} - {name for m in system.measurements for name in m.values}
        scores |= {name: score for name, score in evaluated.scores.items() if name in together}
    is_compared = system.name not in (*REFERENCES, base.name)
    return SystemReport(
        name=system.name,
        folder=system.folder,
        scores=scores,
        num_clips=len(system.measurements),
        failures=system.failures,
        differences=compare_systems(system.measurements, base.measurements, measures, seed=seed) if is_compared else {},
    )


def _notes(found: Sequence[_Contender], scored: Sequence[ScoredSystem], keys: set[str]) -> list[str]:
    notes = [f"{system.name} lacks {len(system.failures)} clips that could not be read: they count as saying nothing."
             for system in scored if system.failures]  # fmt: skip
    dropped = {c.name: len(c.system.measurements) - len(keys) for c in found}
    left_out = ", ".join(f"{count} of {name}" for name, count in dropped.items() if count)
    if left_out:
        notes.append(f"Only the {len(keys)} prompts that all systems have are compared; left out: {left_out}.")
    return notes + sampling_notes(scored[0].measurements, len(keys))
