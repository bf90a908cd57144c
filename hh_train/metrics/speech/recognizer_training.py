"""Training of the data set's own speech recognizer, and its error on real clips: the floor under every score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.one_cycle import TrainingProgress, batches_of_like_length, ctc_loss, train_one_cycle
from hh_train.metrics.speech.augmentation import augment, vocode
from hh_train.metrics.speech.recognizer import Recognizer, RecognizerConfig, build_vocabulary


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """A recording and what is said in it."""

    key: str
    waveform: Float[Tensor, " S"]
    """Mono, 16 kHz."""
    transcript: str
    language: str


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = RecognizerConfig(
            characters=characters, languages=languages, width=width, num_blocks=num_blocks, stride=stride
        )
        recognizer = Recognizer(config=config)
        generator = torch.Generator().manual_seed(seed)
        features, targets = _prepare(recognizer, utterances, vocoded_share, generator)
        batches = batches_of_like_length([len(f) for f in features], batch_size, jitter=40.0, generator=generator)

        def next_loss() -> Tensor:
            chosen = next(batches)
            heard = [augment(features[i], generator) for i in chosen]
            return ctc_loss(recognizer, heard, [targets[i] for i in chosen], padding_value=-1.0)

        train_one_cycle(
            recognizer,
            next_loss,
            peak_learning_rate=peak_learning_rate,
            max_steps=max_steps,
            max_seconds=max_seconds,
            report=report,
        )
    return recognizer


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
