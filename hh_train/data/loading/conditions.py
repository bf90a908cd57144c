"""What is made of a training clip: prompt dropped, first frame or sound given, sound alone; and when that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hh_train.data.loading.clip_index import ClipColumns, uniform


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How often a training clip is changed: each is drawn from seed, clip and turn alone.

    Args:
        text_dropout: share of clips that get the null prompt.
        image_to_video_share: share of clips whose first latent frame is given.
        audio_to_video_share: share of clips whose sound is given.
        sound_only_share: share of clips that are trained without their picture, at a fraction of its tokens.
    """

    text_dropout: float
    image_to_video_share: float
    audio_to_video_share: float
    sound_only_share: float = 0.0

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"got {name} {share}; wanted a share from 0 to 1")

    def draw(self, clips: ClipColumns, turn: NDArray[np.uint64], *, seed: int) -> DrawnConditions:
        """A clip keeps something to generate: a single latent frame is not given, nor sound without a picture.

        Args:
            clips: several rows may be of one clip.
            turn: tells apart the times that a clip comes.
            seed: of the draws.
        """
        at = clips.hash + turn
        text, image, sound, alone = (uniform(at, seed, name) for name in ("text", "image", "sound", "alone"))
        is_heard = clips.audio >= 0
        drops_video = is_heard & (alone < self.sound_only_share)
        is_seen = (clips.grid[:, 0] > 0) & ~drops_video
        return DrawnConditions(
            drops_text=text < self.text_dropout,
            gives_image=is_seen & (clips.grid[:, 0] > 1) & (image < self.image_to_video_share),
            gives_audio=is_seen & is_heard & (sound < self.audio_to_video_share),
            drops_video=drops_video,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnConditions:
    """What is made of each clip."""

    drops_text: NDArray[np.bool_]
    gives_image: NDArray[np.bool_]
    gives_audio: NDArray[np.bool_]
    drops_video: NDArray[np.bool_]

    def __getitem__(self, rows: NDArray[np.bool_]) -> DrawnConditions:
        return DrawnConditions(**{name: column[rows] for name, column in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a curriculum: what holds from an epoch on, until the next phase begins. None leaves what was set.

    Args:
        from_epoch: counted from 0.
        weights: of the shard sets, in their order.
        max_clip_tokens: longer clips are left out.
        text_dropout, image_to_video_share, audio_to_video_share, sound_only_share: as in `Conditions`.
    """

    from_epoch: int
    weights: Sequence[float] | None = None
    max_clip_tokens: int | None = None
    text_dropout: float | None = None
    image_to_video_share: float | None = None
    audio_to_video_share: float | None = None
    sound_only_share: float | None = None

    def conditions(self, usual: Conditions) -> Conditions:
        given = {name: getattr(self, name) for name in vars(usual) if getattr(self, name) is not None}
        return replace(usual, **given)
