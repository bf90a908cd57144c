"""Training of the data set's own lip reader."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn import functional

from hh_train.metrics.lips.augmentation import augment
from hh_train.metrics.lips.lip_network import LipNetwork, LipNetworkConfig, build_vocabulary, normalized
from hh_train.metrics.speech.recognizer_training import TrainingProgress, one_cycle


@dataclass(frozen=True, kw_only=True)
class SpokenMouth:
    """A mouth and what it says."""

    key: str
    crops: UInt8[Tensor, "F 48 48"]
    """25 a second."""
    transcript: str
    language: str


def train(
    mouths: Sequence[SpokenMouth],
    *,
    max_steps: int,
    max_seconds: float | None = None,
    batch_size: int = 24,
    peak_learning_rate: float = 4e-3,
    width: int = 96,
    num_blocks: int = 4,
    seed: int = 0,
    report: Callable[[TrainingProgress], None] | None = None,
) -> LipNetwork:
    """A lip reader trained on the mouths, in evaluation mode.

    AdamW with one learning-rate cycle over `max_steps`, or over `max_seconds` when those end first; a result that must
    repeat exactly leaves `max_seconds` None.

    Args:
        mouths: the training clips.
        report: called after each step.

    Raises:
        ValueError: without mouths, or where no transcript has a unit.
    """
    kind, units, known = build_vocabulary([(m.transcript, m.language) for m in mouths])
    if not units:
        raise ValueError(f"got {len(mouths)} mouths without a single word; give clips with transcripts")
    started = time.monotonic()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LipNetworkConfig(units=units, unit=kind, known=known, width=width, num_blocks=num_blocks)
        network = LipNetwork(config=config)
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.02)
        network.train()
        smoothed, fraction, step = math.nan, 0.0, 0
        batches = _batches(network, mouths, batch_size, generator)
        while fraction < 1:
            for group in optimizer.param_groups:
                group["lr"] = peak_learning_rate * one_cycle(fraction)
            loss = _step(network, optimizer, *next(batches))
            smoothed = loss if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * loss
            step += 1
            seconds = time.monotonic() - started
            fraction = max(step / max_steps, seconds / max_seconds if max_seconds else 0.0)
            if report:
                report(TrainingProgress(step=step, fraction=min(fraction, 1.0), loss=smoothed, seconds=seconds))
    return network.eval()


def _batches(
    network: LipNetwork, mouths: Sequence[SpokenMouth], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Endless batches of items of like length, every item once a pass."""
    items = [(normalized(m.crops), torch.tensor(network.encode_text(m.transcript, m.language))) for m in mouths]
    while True:
        jitter = torch.rand(len(items), generator=generator) * 8
        order = sorted(range(len(items)), key=lambda i: items[i][0].shape[0] + float(jitter[i]))
        groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        for g in torch.randperm(len(groups), generator=generator).tolist():
            yield [augment(items[i][0], generator) for i in groups[g]], [items[i][1] for i in groups[g]]


def _step(network: LipNetwork, optimizer: torch.optim.Optimizer, crops: list[Tensor], targets: list[Tensor]) -> float:
    lengths = torch.tensor([c.shape[0] for c in crops])
    log_probabilities, valid = network(nn.utils.rnn.pad_sequence(crops, batch_first=True), lengths)
    loss = functional.ctc_loss(
        log_probabilities.transpose(0, 1),
        torch.cat(targets),
        valid,
        torch.tensor([len(t) for t in targets]),
        zero_infinity=True,
    )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())
