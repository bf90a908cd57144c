"""Training of the data set's own sync expert, and its error on known shifts of real clips: the floor under its word."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from hh_train.metrics.clip_metric import ClipMetric
from hh_train.metrics.lips.augmentation import soften
from hh_train.metrics.one_cycle import TrainingProgress, train_one_cycle
from hh_train.metrics.sound.tracks import SAMPLES_PER_SECOND
from hh_train.metrics.speech.augmentation import add_noise, smear
from hh_train.metrics.sync.embedding_distance import embedding_sync
from hh_train.metrics.sync.expert import (
    FRAMES_PER_SECOND,
    STEPS_PER_FRAME,
    SyncExpert,
    SyncExpertConfig,
    normalize_crops,
)

KNOWN_SHIFTS = (-8, -5, -2, 0, 3, 6, 10)
"""In frames; positive, the sound is made to lead."""
_MAX_SHIFT = 10
_LEAST_PAIRS = 8
_LARGEST_MOVE = 2
_MISTAKEN, _NUM_SWAPS = 0.05, 5


@dataclass(frozen=True, kw_only=True)
class MouthClip:
    """A talking mouth and its sound."""

    key: str
    crops: UInt8[Tensor, "F side side"]
    """Gray, at 25 frames a second."""
    waveform: Float[Tensor, " S"]
    """Mono, 16 kHz."""


def train(
    clips: Sequence[MouthClip],
    *,
    max_steps: int,
    max_seconds: float | None = None,
    batch_size: int = 16,
    num_frames: int = 25,
    peak_learning_rate: float = 3e-3,
    width: int = 64,
    seed: int = 0,
    report: Callable[[TrainingProgress], None] | None = None,
) -> SyncExpert:
    """A sync expert trained on the clips, in evaluation mode.

    Contrastive: of stretches of `num_frames` frames, each mouth is to be told its own sound from the same sound
    displaced by up to 10 frames and from the sounds of the rest of the batch; and each frame its own moment of the
    sound. AdamW with one learning-rate cycle over `max_steps`, or over `max_seconds` when those end first; a result
    that must repeat exactly leaves `max_seconds` None.

    Args:
        clips: of moving mouths with sound, in step.
        report: called after each step.

    Raises:
        ValueError: with fewer than two clips, clips of different crops, or a clip shorter than `num_frames`.
    """
    side = _common_side(clips, num_frames)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expert = SyncExpert(config=SyncExpertConfig(side=side, width=width))
        generator = torch.Generator().manual_seed(seed)
        seen = [normalize_crops(clip.crops) for clip in clips]
        heard = [expert.features(clip.waveform, clip.crops.shape[0]) for clip in clips]
        log_scale = nn.Parameter(torch.tensor(math.log(8.0)))

        def next_loss() -> Tensor:
            chosen = torch.randperm(len(clips), generator=generator)[:batch_size].tolist()
            pictures, sounds = _stretches([(seen[i], heard[i]) for i in chosen], num_frames, generator)
            return contrastive_loss(expert.embed_video(pictures), expert.embed_audio(sounds), log_scale.exp())

        train_one_cycle(
            expert,
            next_loss,
            beside=[log_scale],
            peak_learning_rate=peak_learning_rate,
            max_steps=max_steps,
            max_seconds=max_seconds,
            report=report,
        )
    return expert


def contrastive_loss(
    video: Float[Tensor, "B F D"], audio: Float[Tensor, "B F D"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Cross entropy of the true pairing: of clips over shifts and other clips, and of frames over the clip's moments.

    Similarities are cosines times `scale`; a clip's is the mean over the frames that overlap.
    """
    batch, frames = video.shape[:2]
    within = scale * torch.einsum("btd,bsd->bts", video, audio)
    reach = min(_MAX_SHIFT, frames - _LEAST_PAIRS)
    shifted = [within.diagonal(offset=shift, dim1=1, dim2=2).mean(dim=1) for shift in range(-reach, reach + 1)]
    others = scale * torch.einsum("btd,ctd->bc", video, audio) / frames
    mine = torch.eye(batch, dtype=torch.bool, device=video.device)
    of_clips = 4 * torch.cat((torch.stack(shifted, dim=1), others.masked_fill(mine, -torch.inf)), dim=1)
    moments = torch.arange(frames, device=video.device).expand(batch, frames)
    of_frames = functional.cross_entropy(within.transpose(1, 2), moments) + functional.cross_entropy(within, moments)
    target = torch.full((batch,), reach, device=video.device)
    return functional.cross_entropy(of_clips, target) + of_frames / 2


class KnownShifts(ClipMetric):
    """How well an expert finds shifts that are known: shares within half a frame and one frame, and the mean error.

    A clip counts with the mean over `KNOWN_SHIFTS`.
    """

    names: ClassVar[tuple[str, ...]] = ("within_half_frame", "within_one_frame", "absolute_error_frames")

    def update(self, clip: MouthClip, expert: SyncExpert) -> None:
        """Displaces the clip's sound, asks the expert for the offset, and adds the errors."""
        errors = [abs(found - shift) for shift, found in found_shifts(clip, expert).items()]
        count = len(errors)
        self.record(
            clip.key,
            {
                "within_half_frame": sum(error <= 0.5 for error in errors) / count,
                "within_one_frame": sum(error <= 1.0 for error in errors) / count,
                "absolute_error_frames": sum(errors) / count,
            },
        )


def found_shifts(clip: MouthClip, expert: SyncExpert) -> dict[int, float]:
    """The expert's offsets of a clip whose sound is displaced by each of `KNOWN_SHIFTS`; silence fills the gap."""
    samples = clip.waveform.shape[0]
    found = {}
    for shift in KNOWN_SHIFTS:
        moved = round(shift * samples / clip.crops.shape[0])
        waveform = functional.pad(clip.waveform, (-moved, moved))
        found[shift] = embedding_sync(*expert.embed(clip.crops, waveform)).refined_offset_frames
    return found


class MatchedSound(ClipMetric):
    """Shares of clips that an expert takes to match (an LSE-C of its `least_confidence` or more), with their own sound
    and with another clip's.
    """

    names: ClassVar[tuple[str, ...]] = ("own_sound_matches", "other_sound_matches")

    def update(self, clip: MouthClip, other: MouthClip, expert: SyncExpert) -> None:
        """Compares the clip with its own sound and with the other clip's, and adds it."""
        least = expert.config.least_confidence
        confidences = (confidence(clip, clip.waveform, expert), confidence(clip, other.waveform, expert))
        self.record(
            clip.key,
            dict(zip(self.names, (None if c is None else float(c >= least) for c in confidences), strict=True)),
        )


def confidence(clip: MouthClip, waveform: Float[Tensor, " S"], expert: SyncExpert) -> float | None:
    """LSE-C of a mouth and any sound, over the frames that both have; None where these are too few."""
    frames = min(clip.crops.shape[0], round(waveform.shape[0] * FRAMES_PER_SECOND / SAMPLES_PER_SECOND))
    if frames <= _LEAST_PAIRS:
        return None
    return embedding_sync(*expert.embed(clip.crops[:frames], waveform)).lse_c


def calibrate(expert: SyncExpert, clips: Sequence[MouthClip]) -> None:
    """Sets the expert's `least_confidence`: what one in twenty clips reaches with the sound of the five next ones.

    Raises:
        ValueError: with fewer than two clips.
    """
    count = len(clips)
    if count < 2:
        raise ValueError(f"got {count} clips; wanted two or more to swap sounds between")
    steps = range(1, min(_NUM_SWAPS, count - 1) + 1)
    sounds = [(clip, clips[(i + step) % count].waveform) for i, clip in enumerate(clips) for step in steps]
    found = [value for clip, waveform in sounds if (value := confidence(clip, waveform, expert)) is not None]
    least = float(torch.tensor(found).quantile(1 - _MISTAKEN)) if found else 0.0
    expert.config = replace(expert.config, least_confidence=least)


def _common_side(clips: Sequence[MouthClip], num_frames: int) -> int:
    sides = {clip.crops.shape[1] for clip in clips}
    if len(clips) < 2 or len(sides) > 1:
        raise ValueError(f"got {len(clips)} clips with crops of {sorted(sides)} pixels; wanted two or more of one size")
    shortest = min(clips, key=lambda clip: clip.crops.shape[0])
    if shortest.crops.shape[0] < num_frames:
        raise ValueError(
            f"{shortest.key} has {shortest.crops.shape[0]} frames; wanted {num_frames} or more: leave it out, or lower "
            "num_frames"
        )
    return sides.pop()


def _stretches(
    pairs: Sequence[tuple[Tensor, Tensor]], num_frames: int, generator: torch.Generator
) -> tuple[Float[Tensor, "B F side side"], Float[Tensor, "B steps mels"]]:
    """A random stretch of each clip, with the faults of generated pictures and sound."""
    pictures, sounds = [], []
    for crops, log_mel in pairs:
        first = int(torch.randint(crops.shape[0] - num_frames + 1, (), generator=generator))
        pictures.append(_vary_pictures(crops[first : first + num_frames], generator))
        steps = log_mel[first * STEPS_PER_FRAME : (first + num_frames) * STEPS_PER_FRAME]
        sounds.append(_vary_sound(steps, generator))
    return torch.stack(pictures), torch.stack(sounds)


def _vary_pictures(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Moved by up to 2 pixels, mirrored, as soft or patchy as generated ones, of another contrast, noisy."""
    dx, dy = torch.randint(-_LARGEST_MOVE, _LARGEST_MOVE + 1, (2,), generator=generator).tolist()
    padded = functional.pad(crops[:, None], (_LARGEST_MOVE,) * 4, mode="replicate")
    side = crops.shape[1]
    top, left = _LARGEST_MOVE + dy, _LARGEST_MOVE + dx
    varied = padded[:, 0, top : top + side, left : left + side]
    chance = torch.rand(3, generator=generator)
    if chance[0] < 0.5:
        varied = varied.flip(-1)
    varied = soften(varied, generator)
    noise = 0.15 * chance[1] * torch.randn(varied.shape, generator=generator)
    return varied * (0.7 + 0.6 * chance[2]) + noise


def _vary_sound(log_mel: Tensor, generator: torch.Generator) -> Tensor:
    """Another coloring and level, noise under the speech, and the faults of a codec's or a generator's spectrum."""
    knots = torch.randn(1, 1, 5, generator=generator) * 0.05
    coloring = functional.interpolate(knots, size=log_mel.shape[1], mode="linear", align_corners=True)[0]
    level = 0.1 * (torch.rand((), generator=generator) - 0.5)
    return (smear(add_noise(log_mel, generator), generator) + coloring + level).clamp(min=-1.0, max=0.2)
