"""Training of the data set's own speech recognizer, and its error on real clips: the floor under every score."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from hh_train.metrics.speech.augmentation import augment, vocode
from hh_train.metrics.speech.recognizer import Recognizer, RecognizerConfig, build_vocabulary

_WARM_UP = 0.2


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """A recording and what is said in it."""

    key: str
    waveform: Float[Tensor, " S"]
    """Mono, 16 kHz."""
    transcript: str
    language: str


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """What the training tells after each step."""

    step: int
    fraction: float
    """Of the step or time budget, whichever is further."""
    loss: float
    """Mean negative log likelihood a character, smoothed."""
    seconds: float


def train(
    utterances: Sequence[Utterance],
    *,
    max_steps: int,
    max_seconds: float | None = None,
    batch_size: int = 24,
    peak_learning_rate: float = 4e-3,
    vocoded_share: float = 0.5,
    width: int = 128,
    num_blocks: int = 6,
    stride: int = 4,
    seed: int = 0,
    report: Callable[[TrainingProgress], None] | None = None,
) -> Recognizer:
    """A recognizer trained on the utterances, in evaluation mode.

    AdamW with one learning-rate cycle (rise over a fifth, cosine fall) over `max_steps`, or over `max_seconds` when
    those end first; a result that must repeat exactly leaves `max_seconds` None.

    Args:
        utterances: the training recordings; silent or empty ones have no place here.
        vocoded_share: share of the recordings that are also heard through a mel vocoder.
        report: called after each step.

    Raises:
        ValueError: without utterances, or where no transcript has a character.
    """
    characters, languages = build_vocabulary([(u.transcript, u.language) for u in utterances])
    if not characters:
        raise ValueError(f"got {len(utterances)} utterances without a single character; give clips with transcripts")
    started = time.monotonic()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = RecognizerConfig(
            characters=characters, languages=languages, width=width, num_blocks=num_blocks, stride=stride
        )
        recognizer = Recognizer(config=config)
        generator = torch.Generator().manual_seed(seed)
        features, targets = _prepare(recognizer, utterances, vocoded_share, generator)
        optimizer = torch.optim.AdamW(recognizer.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.02)
        recognizer.train()
        smoothed, fraction, step = math.nan, 0.0, 0
        batches = _batches(features, targets, batch_size, generator)
        while fraction < 1:
            for group in optimizer.param_groups:
                group["lr"] = peak_learning_rate * one_cycle(fraction)
            loss = _step(recognizer, optimizer, *next(batches))
            smoothed = loss if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * loss
            step += 1
            seconds = time.monotonic() - started
            fraction = max(step / max_steps, seconds / max_seconds if max_seconds else 0.0)
            if report:
                report(TrainingProgress(step=step, fraction=min(fraction, 1.0), loss=smoothed, seconds=seconds))
    return recognizer.eval()


def one_cycle(fraction: float) -> float:
    """Learning rate relative to its peak: a rise over a fifth, then a cosine to zero (Smith and Topin, 2017)."""
    if fraction < _WARM_UP:
        return 0.04 + 0.96 * fraction / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min((fraction - _WARM_UP) / (1 - _WARM_UP), 1.0)))


def _prepare(
    recognizer: Recognizer, utterances: Sequence[Utterance], vocoded_share: float, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """Log-mel frames and units of every utterance, and of vocoded copies of a share of them."""
    features, targets = [], []
    for utterance in utterances:
        units = recognizer.encode_text(utterance.transcript, utterance.language)
        if not units:
            continue
        versions = [utterance.waveform]
        if float(torch.rand((), generator=generator)) < vocoded_share:
            num_mels = (64, 80)[int(torch.randint(2, (), generator=generator))]
            versions.append(vocode(utterance.waveform, num_mels=num_mels, num_iterations=6, generator=generator))
        features += [recognizer.log_mel(version) for version in versions]
        targets += [torch.tensor(units)] * len(versions)
    return features, targets


def _batches(
    features: Sequence[Tensor], targets: Sequence[Tensor], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Endless batches of items of like length, every item once a pass."""
    while True:
        jitter = torch.rand(len(features), generator=generator) * 40
        order = sorted(range(len(features)), key=lambda i: features[i].shape[0] + float(jitter[i]))
        groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        for g in torch.randperm(len(groups), generator=generator).tolist():
            yield [augment(features[i], generator) for i in groups[g]], [targets[i] for i in groups[g]]


def _step(
    recognizer: Recognizer, optimizer: torch.optim.Optimizer, features: list[Tensor], targets: list[Tensor]
) -> float:
    lengths = torch.tensor([f.shape[0] for f in features])
    log_probabilities, valid = recognizer(
        nn.utils.rnn.pad_sequence(features, batch_first=True, padding_value=-1), lengths
    )
    loss = functional.ctc_loss(
        log_probabilities.transpose(0, 1),
        torch.cat(targets),
        valid,
        torch.tensor([len(t) for t in targets]),
        zero_infinity=True,
    )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(recognizer.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())
