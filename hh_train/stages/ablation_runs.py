"""What runs of `distill` have left behind: their settings, how far they came and what they cost, by row and seed."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from hh_train.flow.solvers import RenoiseSolver
from hh_train.metrics.report.figures import Curve, read_curves
from hh_train.training.checkpoints import Provenance

_STAGE = "hh_train.stages.distill.run"
_CONFIG, _TRAINED_CONFIG = "config.yaml", "training_config.yaml"
_OF_NO_ROW = re.compile(r"(seed|output|paths\.\w+|hydra[/.].*|trainer|trainer\..*)$")
"""Overrides that make no other row."""
_OF_NO_SETTING = re.compile(r"(.*\.)?seed$")
_LOSS = re.compile(r"(student|critic)/(video|audio|gradient_norm)")
_ENDS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class DistilledRun:
    """The output folder of one `distill`."""

    folder: Path
    config: Mapping[str, Any]
    """What the stage was called with."""
    command: tuple[str, ...] = ()
    """The command line, where it is known."""

    @property
    def seed(self) -> int:
        return int(self.config.get("seed") or 0)

    @property
    def model(self) -> Path:
        """The student's checkpoint folder; there is one when the training has ended."""
        return self.folder / "model"

    @property
    def is_done(self) -> bool:
        return self.model.is_dir()

    @property
    def sampler(self) -> RenoiseSolver:
        """The one that the student was trained for. Raises ValueError where the settings name none."""
        try:
            settings = dict(self.config["module"]["rollout"]["sampler"])
            settings.pop("_target_", None)
            return RenoiseSolver(**settings)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.folder}: its {_CONFIG} names no sampler at module.rollout.sampler") from error

    @property
    def settings(self) -> dict[str, str]:
        """What decides on the student, by key, without seeds; values as text."""
        parts = {name: self.config.get(name) for name in ("module", "datamodule")}
        found = {key: json.dumps(value, sort_keys=True) for key, value in _flat(parts)}
        return {key: value for key, value in found.items() if not _OF_NO_SETTING.fullmatch(key)}

    @property
    def overrides(self) -> dict[str, str]:
        """Those of the command that make it a row of its own, by key, as text; a row of an experiment by its name."""
        found: dict[str, str] = {}
        for argument in self.command:
            key, equals, value = argument.partition("=")
            key = key.lstrip("+~")
            if not equals or argument.startswith("-") or _OF_NO_ROW.match(key):
                continue
            is_experiment = key == "experiment" or key.startswith("experiment/")
            found[key] = value.rpartition("/")[2] if is_experiment else f"{key}={value}"
        return found

    # ------------------------------------------------------------------------------------------------------ progress

    @cached_property
    def _curves(self) -> Mapping[str, Curve]:
        try:
            return read_curves(self.folder / "logs")
        except ValueError:  # nothing was logged
            return {}

    @property
    def planned_steps(self) -> int:
        """Student steps that were wanted."""
        return int(self._module.get("num_student_steps") or 0)

    @cached_property
    def _provenance(self) -> Provenance | None:
        return Provenance.read(self.model) if self.is_done else None

    @property
    def teacher(self) -> str | None:
        """Fingerprint of the teacher's weights; None where there is no student, or it does not say."""
        return None if self._provenance is None else self._provenance.teacher

    @property
    def student_steps(self) -> int:
        """Of the student that is there; else those that were logged."""
        if self._provenance is not None:
            return self._provenance.num_steps
        return int(max(self._curves.get("student_steps", ([], [0.0]))[1]))

    @property
    def critic_steps(self) -> int:
        """0 where nothing trains a critic."""
        has_critic = self._module.get("critic_flow") is not None or self._module.get("adversarial") is not None
        return self._turns if has_critic else 0

    @property
    def _turns(self) -> int:
        if self.is_done:
            return self.student_steps * int(self._module.get("critic_steps_per_student_step") or 1)
        return int(max(self._curves.get("critic_steps", ([], [0.0]))[1]))

    @property
    def _module(self) -> Mapping[str, Any]:
        module = self.config.get("module")
        return module if isinstance(module, Mapping) else {}

    @property
    def trouble(self) -> str | None:
        """Why there is no student, or one of fewer steps than wanted; None when all went as planned."""
        steps = f"{self.student_steps} of {self.planned_steps} student steps"
        if self.is_done:
            return None if self.student_steps >= self.planned_steps else f"stopped after {steps}{self._alarm}"
        if not self._curves and not self._not_finite:
            return "failed at its start, or has not begun: nothing is logged"
        return f"unfinished or failed: {steps} are logged, and there is no model{self._alarm}{self._not_finite}"

    @property
    def _alarm(self) -> str:
        """What the monitors said last."""
        file = self.folder / "monitors.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        for line in reversed(lines):
            try:
                record = json.loads(line)
                return f"; monitor {record['monitor']}: {record['observed']:.4g} at step {record['student_steps']}"
            except (ValueError, KeyError, TypeError):  # torn, or of a rollback
                continue
        return ""

    @property
    def _not_finite(self) -> str:
        """Which losses were no numbers any more, and since when."""
        since = _first_not_finite(self.folder / "logs")
        return "".join(f"; {name} is not finite since batch {step:.0f}" for name, step in since.items())

    # ---------------------------------------------------------------------------------------------------------- cost

    @property
    def num_devices(self) -> int | None:
        """None where the trainer took what there was."""
        trainer = self.config.get("trainer")
        devices, nodes = (trainer or {}).get("devices", 1), (trainer or {}).get("num_nodes", 1)
        if isinstance(devices, str) and devices.isdigit():
            devices = int(devices)
        if isinstance(devices, list):
            devices = len(devices)
        return devices * nodes if isinstance(devices, int) and isinstance(nodes, int) and devices > 0 else None

    @property
    def accelerator(self) -> str:
        """What the trainer was asked for."""
        return str((self.config.get("trainer") or {}).get("accelerator", "auto"))

    @property
    def _num_batches(self) -> int:
        return self._turns * int(self._module.get("batches_per_turn") or 1)

    @property
    def seconds(self) -> float | None:
        """Of training: logged seconds a batch times batches; None where the speed was never logged."""
        per_batch = _mean(_once_each(self._curves.get("speed/seconds_per_step")))
        return None if per_batch is None else per_batch * self._num_batches

    @property
    def flops(self) -> float | None:
        """Counted operations of training on each device, from what the module counts; None where never logged."""
        seconds = _once_each(self._curves.get("speed/seconds_per_step"))
        teraflops = _once_each(self._curves.get("speed/teraflops"))
        if len(seconds) != len(teraflops):
            return None
        per_batch = _mean([s * rate * 1e12 for s, rate in zip(seconds, teraflops, strict=True)])
        return None if per_batch is None else per_batch * self._num_batches

    # --------------------------------------------------------------------------------------------------------- clips

    def clips_name(self, *, split: str, shards: str, seed: int) -> str:
        """Name of the folder of its clips: another student, sampler, noise or split has another one."""
        digest = hashlib.sha256(f"{self.sampler} {Path(shards).resolve()}".encode())
        for file in sorted(path for path in self.model.iterdir() if path.is_file()):
            digest.update(f"{file.name} {file.stat().st_size}".encode() + _ends(file))
        return f"{split}-seed-{seed}-{digest.hexdigest()[:10]}"


def _ends(file: Path) -> bytes:
    """Enough of a file to know it again, however large it is."""
    with file.open("rb") as opened:
        head = opened.read(_ENDS)
        opened.seek(max(file.stat().st_size - _ENDS, 0))
        return head + opened.read(_ENDS)


def _flat(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def _once_each(curve: Curve | None) -> list[float]:
    """A value is logged anew until the next one is there."""
    values = [] if curve is None else curve[1]
    return [v for i, v in enumerate(values) if not i or v != values[i - 1]]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _first_not_finite(logs: Path) -> dict[str, float]:
    """The step at which a loss was first logged that is no finite number, by the loss."""
    since: dict[str, float] = {}
    for file in sorted(logs.rglob("metrics.csv")):
        with file.open(encoding="utf-8", newline="") as opened:
            for row in csv.DictReader(opened):
                for name, text in row.items():
                    if _LOSS.fullmatch(name or "") and (text or "").lower() in ("nan", "inf", "-inf"):
                        since.setdefault(name, float(row.get("step") or 0))
    return since


# ---------------------------------------------------------------------------------------------------------- reading


def read_runs(folders: Sequence[str]) -> list[DistilledRun]:
    """The runs in the folders, each once: a folder with runs in it (of a multirun) stands for these.

    Raises:
        ValueError: a folder is missing, or holds no run of `distill`.
    """
    found: dict[Path, DistilledRun] = {}
    for text in folders:
        folder = Path(text).expanduser()
        inner = sorted(path.parent for path in folder.glob(f"*/{_CONFIG}"))
        runs = [run for run in map(_read_run, inner) if run is not None]
        own = _read_run(folder) if not runs else None
        runs = runs or ([own] if own is not None else [])
        if not runs:
            raise ValueError(
                f"{text} holds no run of `hh-train distill` ({_CONFIG}), and neither do the folders in it; give the "
                "output folder of a run or of a multirun"
            )
        found |= {run.folder.resolve(): run for run in runs}
    return list(found.values())


def _read_run(folder: Path) -> DistilledRun | None:
    """None for a folder of something else. What the student was trained with counts, not a later call."""
    candidates = (folder / "model" / _TRAINED_CONFIG, folder / _CONFIG)
    file = next((path for path in candidates if path.is_file()), None)
    if file is None:
        return None
    text = file.read_text(encoding="utf-8")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    if not isinstance(config, Mapping) or config.get("_target_") != _STAGE:
        return None
    return DistilledRun(folder=folder, config=config, command=command_of(text))


def command_of(record: str) -> tuple[str, ...]:
    """The command line at the head of a run's recorded configuration; nothing where there is none."""
    found = re.search(r"^# (hh-train .*)$", record, flags=re.MULTILINE)
    return tuple(shlex.split(found[1])) if found else ()


def rows_by_name(runs: Sequence[DistilledRun]) -> dict[str, dict[int, DistilledRun]]:
    """The runs of each row by seed. A row is named by what sets its command apart from the others'.

    Raises:
        ValueError: two runs are of one row and seed, or of one name and different settings.
    """
    shared = set.intersection(*(set(run.overrides.values()) for run in runs)) if runs else set()
    rows: dict[str, dict[int, DistilledRun]] = {}
    for run in runs:
        members = rows.setdefault(_row_name(run, shared), {})
        if run.seed in members:
            raise ValueError(
                f"two runs are of one row and seed {run.seed}: {members[run.seed].folder} and {run.folder}; give one"
            )
        members[run.seed] = run
    for name, members in rows.items():
        first, *others = members.values()
        for other in others:
            differing = differing_settings(first, other)
            if differing:
                raise ValueError(
                    f"{first.folder} and {other.folder} are both called {name!r}, but differ in {differing[0]}; give "
                    "runs that differ in their seed alone, or start them with the difference on the command line"
                )
            if are_of_different_teachers(first, other):
                raise ValueError(
                    f"{first.folder} and {other.folder} are both called {name!r}, but the weights of their teachers "
                    f"differ: the checkpoint {teacher_folder(other)} was another one between the two; train the older "
                    "run again (remove its folder)"
                )
    return rows


def _row_name(run: DistilledRun, shared: set[str]) -> str:
    own = [value for value in run.overrides.values() if value not in shared]
    if own:
        return ", ".join(own)
    experiments = [value for key, value in run.overrides.items() if key.startswith("experiment")]
    if experiments:
        return experiments[-1]
    return re.sub(r",?\bseed=\d+", "", run.folder.name) if not run.command else "default"


def differing_settings(first: DistilledRun, second: DistilledRun) -> list[str]:
    """The keys in which two runs differ, but for seeds."""
    ours, theirs = first.settings, second.settings
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


def are_of_different_teachers(first: DistilledRun, second: DistilledRun) -> bool:
    """By the teachers' weights; where a run does not know these, by their folders."""
    if first.teacher is not None and second.teacher is not None:
        return first.teacher != second.teacher
    return teacher_folder(first) != teacher_folder(second)


def teacher_folder(run: DistilledRun) -> str:
    """What the settings name; nothing where they name none."""
    teacher = (run.config.get("module") or {}).get("teacher")
    return str(teacher.get("folder", "")) if isinstance(teacher, Mapping) else ""


def central_row(rows: Mapping[str, Mapping[int, DistilledRun]]) -> str:
    """The row that differs from the others in the fewest settings: that which they are variations of.

    Raises:
        ValueError: several do.
    """
    members = {name: next(iter(runs.values())) for name, runs in rows.items()}
    distances = {
        name: sum(len(differing_settings(run, other)) for other in members.values()) for name, run in members.items()
    }
    least = min(distances.values())
    central = [name for name, distance in distances.items() if distance == least]
    if len(central) > 1:
        raise ValueError(
            f"{', '.join(central)} are equally near to the other rows: say with base=NAME which one these are compared "
            "with"
        )
    return central[0]
