"""Training of the data set's own lip reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from hh_train.metrics.lips.augmentation import augment
from hh_train.metrics.lips.lip_network import LipNetwork, LipNetworkConfig, build_vocabulary, normalized
from hh_train.metrics.one_cycle import TrainingProgress, batches_of_like_length, ctc_loss, train_one_cycle


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LipNetworkConfig(units=units, unit=kind, known=known, width=width, num_blocks=num_blocks)
        network = LipNetwork(config=config)
        generator = torch.Generator().manual_seed(seed)
        items = [(normalized(m.crops), torch.tensor(network.encode_text(m.transcript, m.language))) for m in mouths]
        batches = batches_of_like_length([len(c) for c, _ in items], batch_size, jitter=8.0, generator=generator)

        def next_loss() -> Tensor:
            chosen = next(batches)
            seen = [augment(items[i][0], generator) for i in chosen]
            return ctc_loss(network, seen, [items[i][1] for i in chosen])

        train_one_cycle(
            network,
            next_loss,
            peak_learning_rate=peak_learning_rate,
            max_steps=max_steps,
            max_seconds=max_seconds,
            report=report,
        )
    return network
