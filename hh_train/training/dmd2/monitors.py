"""Limits on what a distillation logs, and what happens beyond them."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from hh_train.runtime.distributed import all_reduce_sum, is_rank_zero
from hh_train.training.dmd2.cadence import Cadence

log = logging.getLogger(__name__)

Action = Literal["log", "stop", "roll_back"]
STEPS = "student_steps"


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Limits of one logged value.

    Args:
        value: its name among those logged.
        lowest, highest: limits; None leaves a side open. A value that is not finite is beyond them.
        relative_to: another logged value, which the first is divided by.
        minus: another logged value, which is taken from the first: for those that may be 0, and for decibels.
        patience: observations in a row beyond the limits until it acts.
        action: log warns; stop ends the training there; roll_back returns to the weights and optimizer states of the
            last observation at which every monitor was within its limits.

    Raises ValueError without limits, and for two other values.
    """

    value: str
    lowest: float | None = None
    highest: float | None = None
    relative_to: str | None = None
    minus: str | None = None
    patience: int = 1
    action: Action = "log"

    def __post_init__(self) -> None:
        if (self.lowest is None and self.highest is None) or self.patience < 1:
            raise ValueError(f"want a lowest or a highest value and a patience of 1 or more, got {self}")
        if self.relative_to is not None and self.minus is not None:
            raise ValueError(f"want one of relative_to and minus, got {self}")

    @property
    def name(self) -> str:
        if self.minus is not None:
            return f"{self.value} - {self.minus}"
        return self.value if self.relative_to is None else f"{self.value} / {self.relative_to}"

    def observe(self, logged: Mapping[str, float]) -> float | None:
        """The value; None as long as it has not been logged."""
        other = self.relative_to or self.minus
        if self.value not in logged or (other is not None and other not in logged):
            return None
        if self.minus is not None:
            return logged[self.value] - logged[self.minus]
        if self.relative_to is not None:
            return logged[self.value] / logged[self.relative_to] if logged[self.relative_to] else math.nan
        return logged[self.value]

    def is_beyond(self, observed: float) -> bool:
        below = self.lowest is not None and observed < self.lowest
        above = self.highest is not None and observed > self.highest
        return below or above or not math.isfinite(observed)


class Monitors(Callback):
    """Looks at the monitors every so many student steps, and acts on each that has been beyond its limits too long.

    A value `group/...` beside which `group/student_steps` is logged is looked at once for each of these: samples that
    are made seldom count once. Weights are kept to roll back to when no monitor is beyond its limits, and every one
    that rolls back has just been looked at (those whose value has never been logged left aside).

    Everything seen beyond its limits is written to `output`, a line of JSON each. What is rolled back to is held in
    memory: a run that is resumed has its first observation as the earliest.

    Args:
        monitors: what to look at.
        every_student_steps: how often.
        output: file for what was seen, or None.
        max_roll_backs: the next one stops the training.
    """

    def __init__(
        self,
        *,
        monitors: Sequence[Monitor],
        every_student_steps: int = 1,
        output: str | None = None,
        max_roll_backs: int = 3,
    ) -> None:
        if every_student_steps < 1:
            raise ValueError(f"got every_student_steps {every_student_steps}, wanted 1 or more")
        self.monitors = tuple(monitors)
        self.every_student_steps = every_student_steps
        self.output = None if output is None else Path(output)
        self.max_roll_backs = max_roll_backs
        self.num_roll_backs = 0
        self._beyond = [0] * len(self.monitors)
        self._seen_at = 0
        self._seen_groups: dict[str, float] = {}
        self._ever_seen: set[Monitor] = set()
        self._snapshot: Snapshot | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._seen_at = _cadence(pl_module).student_steps

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        cadence = _cadence(pl_module)
        steps = cadence.student_steps
        if not cadence.is_between_turns or steps == self._seen_at or steps % self.every_student_steps:
            return
        self._seen_at = steps
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        means = self._means(logged)
        acting = self._acting(means, steps)
        for monitor, observed in acting:
            log.warning("%s is %.4g at student step %d: %s", monitor.name, observed, steps, monitor.action)
        actions = {monitor.action for monitor, _ in acting}
        if "stop" in actions:
            trainer.should_stop = True
        elif "roll_back" in actions:
            self._roll_back(trainer, pl_module)
        elif not any(self._beyond) and self._has_seen_all_that_roll_back(means):
            self._snapshot = Snapshot.take(pl_module, trainer.optimizers)

    def state_dict(self) -> dict[str, Any]:
        return {"beyond": list(self._beyond), "num_roll_backs": self.num_roll_backs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if len(state_dict["beyond"]) == len(self.monitors):  # other monitors start anew
            self._beyond = list(state_dict["beyond"])
        self.num_roll_backs = state_dict["num_roll_backs"]

    def _has_seen_all_that_roll_back(self, means: Sequence[float | None]) -> bool:
        seen = {one for x, one in zip(means, self.monitors, strict=True) if x is not None and one.action == "roll_back"}
        self._ever_seen |= seen
        return bool(seen) and seen == self._ever_seen

    def _acting(self, means: Sequence[float | None], steps: int) -> list[tuple[Monitor, float]]:
        """The monitors whose patience has come to its end, with what they saw: the same on every rank."""
        acting = []
        for index, (monitor, observed) in enumerate(zip(self.monitors, means, strict=True)):
            if observed is None:
                continue
            self._beyond[index] = self._beyond[index] + 1 if monitor.is_beyond(observed) else 0
            if self._beyond[index]:
                self._write({"student_steps": steps, "monitor": monitor.name, "observed": observed})
            if self._beyond[index] >= monitor.patience:
                acting.append((monitor, observed))
        return acting

    def _means(self, logged: Mapping[str, float]) -> list[float | None]:
        """What each monitor sees, as the mean over the ranks that have logged it; None where there is nothing new."""
        groups = {monitor.value.partition("/")[0] for monitor in self.monitors}
        counters = {group: logged[name] for group in groups if (name := f"{group}/{STEPS}") in logged}
        old = {group for group, steps in counters.items() if self._seen_groups.get(group) == steps}
        self._seen_groups |= counters
        own = [None if m.value.partition("/")[0] in old else m.observe(logged) for m in self.monitors]
        device = "cuda" if torch.distributed.is_initialized() and torch.distributed.get_backend() == "nccl" else "cpu"
        sums = torch.tensor([0.0 if x is None else x for x in own], dtype=torch.float64, device=device)
        counts = torch.tensor([float(x is not None) for x in own], dtype=torch.float64, device=device)
        totals = zip(all_reduce_sum(sums).tolist(), all_reduce_sum(counts).tolist(), strict=True)
        return [total / count if count else None for total, count in totals]

    def _roll_back(self, trainer: Trainer, module: LightningModule) -> None:
        self._beyond = [0] * len(self.monitors)
        if self._snapshot is None or self.num_roll_backs >= self.max_roll_backs:
            log.warning("nothing to roll back to, or too often already (%d times): stopping", self.num_roll_backs)
            trainer.should_stop = True
            return
        self.num_roll_backs += 1
        self._snapshot.restore(module, trainer.optimizers)
        self._write({"student_steps": _cadence(module).student_steps, "rolled_back_to": self._snapshot.student_steps})

    def _write(self, record: Mapping[str, Any]) -> None:
        if self.output is None or not is_rank_zero():
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with self.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


@dataclass(frozen=True)
class Snapshot:
    """Weights and optimizer states, on the CPU. Counters, schedules and the place in the data go on."""

    weights: Mapping[str, Tensor]
    optimizers: Sequence[Mapping[str, Any]]
    student_steps: int

    @classmethod
    def take(cls, module: LightningModule, optimizers: Sequence[Optimizer]) -> Snapshot:
        return cls(
            weights={name: _copied(tensor) for name, tensor in module.state_dict().items()},
            optimizers=[_moments(optimizer) for optimizer in optimizers],
            student_steps=_cadence(module).student_steps,
        )

    @torch.no_grad()
    def restore(self, module: LightningModule, optimizers: Sequence[Optimizer]) -> None:
        """In place, so that nothing that refers to the tensors goes astray."""
        for name, tensor in module.state_dict().items():
            _local(tensor).copy_(self.weights[name])
        for optimizer, moments in zip(optimizers, self.optimizers, strict=True):
            for parameter, kept in zip(_parameters(optimizer), moments["state"], strict=True):
                for name, value in optimizer.state.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        _local(value).copy_(kept[name] if name in kept else torch.zeros_like(_local(value)))


def _moments(optimizer: Optimizer) -> dict[str, Any]:
    states = [optimizer.state.get(parameter, {}) for parameter in _parameters(optimizer)]
    return {"state": [{n: _copied(v) for n, v in state.items() if isinstance(v, Tensor)} for state in states]}


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _copied(tensor: Tensor) -> Tensor:
    return _local(tensor).detach().clone().cpu()


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _cadence(module: LightningModule) -> Cadence:
    cadence = getattr(module, "cadence", None)
    if not isinstance(cadence, Cadence):
        raise TypeError(f"got a {type(module).__name__}, wanted a module with a cadence")
    return cadence
