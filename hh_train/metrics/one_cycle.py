"""How the small networks that judge clips are trained: AdamW over one learning-rate cycle, in steps or seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_WARM_UP = 0.2


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """What the training tells after each step."""

    step: int
    fraction: float
    """Of the step or time budget, whichever is further."""
    loss: float
    """Smoothed."""
    seconds: float


def one_cycle(fraction: float) -> float:
    """Learning rate relative to its peak: a rise over a fifth, then a cosine to zero (Smith and Topin, 2017)."""
    if fraction < _WARM_UP:
        return 0.04 + 0.96 * fraction / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min((fraction - _WARM_UP) / (1 - _WARM_UP), 1.0)))


def train_one_cycle(
    network: nn.Module,
    next_loss: Callable[[], Tensor],
    *,
    beside: Iterable[nn.Parameter] = (),
    peak_learning_rate: float,
    max_steps: int,
    max_seconds: float | None,
    report: Callable[[TrainingProgress], None] | None,
) -> None:
    """Trains a network in place, and leaves it in evaluation mode.

    Args:
        next_loss: the loss of the next batch.
        beside: parameters that learn along and are not the network's.
        max_steps: of the cycle.
        max_seconds: ends the cycle when it comes first; None repeats exactly.
        report: called after each step.
    """
    started = time.monotonic()
    optimizer = torch.optim.AdamW([*network.parameters(), *beside], lr=0.0, betas=(0.9, 0.98), weight_decay=0.02)
    network.train()
    smoothed, fraction, step = math.nan, 0.0, 0
    while fraction < 1:
        for group in optimizer.param_groups:
            group["lr"] = peak_learning_rate * one_cycle(fraction)
        loss = next_loss()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        value = float(loss.detach())
        smoothed = value if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * value
        step += 1
        seconds = time.monotonic() - started
        fraction = max(step / max_steps, seconds / max_seconds if max_seconds else 0.0)
        if report:
            report(TrainingProgress(step=step, fraction=min(fraction, 1.0), loss=smoothed, seconds=seconds))
    network.eval()


def batches_of_like_length(
    lengths: Sequence[int], batch_size: int, *, jitter: float, generator: torch.Generator
) -> Iterator[list[int]]:
    """Endless batches of indices, every index once a pass; lengths that differ by less than `jitter` mix."""
    while True:
        moved = torch.rand(len(lengths), generator=generator) * jitter
        order = sorted(range(len(lengths)), key=lambda i: lengths[i] + float(moved[i]))
        groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        for group in torch.randperm(len(groups), generator=generator).tolist():
            yield groups[group]


def ctc_loss(
    network: nn.Module, inputs: Sequence[Tensor], targets: Sequence[Tensor], *, padding_value: float = 0.0
) -> Tensor:
    """Negative log likelihood of the units (Graves et al., ICML 2006).

    Args:
        network: of padded inputs and their lengths; gives log probabilities [B T units], and how many of T are valid.
        inputs: one a clip, of any length.
        targets: its units.
    """
    lengths = torch.tensor([len(item) for item in inputs])
    padded = nn.utils.rnn.pad_sequence(list(inputs), batch_first=True, padding_value=padding_value)
    log_probabilities, valid = network(padded, lengths)
    return functional.ctc_loss(
        log_probabilities.transpose(0, 1),
        torch.cat(list(targets)),
        valid,
        torch.tensor([len(target) for target in targets]),
        zero_infinity=True,
    )
