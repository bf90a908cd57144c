"""Who sees whom in a pack, as ranges of the token sequence, so that kernels without masks can follow it.

Tokens of a clip lie [video | audio | text]. Full attention: every token sees all of its clip. Local attention: a video
token of latent frame i sees the video of frames i - window to i + window and all audio and text of its clip, in one
softmax; audio and text tokens see everything. No token ever sees another clip.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hh_train.types import ClipLayout

T = TypeVar("T")
Range = tuple[int, int]
"""Tokens of the sequence: the first, and the one after the last."""


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens that see the same tokens."""

    queries: Range
    keys: tuple[Range, ...]

    @property
    def num_queries(self) -> int:
        return self.queries[1] - self.queries[0]

    @property
    def num_keys(self) -> int:
        return sum(end - start for start, end in self.keys)


class SegmentRun:
    """Consecutive segments that a kernel takes in one call; their queries are one range of the sequence."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        segments = tuple(segments)
        self.queries: Range = (segments[0].queries[0], segments[-1].queries[1])
        self.query_lengths = tuple(segment.num_queries for segment in segments)
        self.key_lengths = tuple(segment.num_keys for segment in segments)
        self.keys = _joined(part for segment in segments for part in segment.keys)
        self._boundaries: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def num_keys(self) -> int:
        return sum(self.key_lengths)

    def gather_keys(self, x: Float[Tensor, "N H D"]) -> Float[Tensor, "K H D"]:
        """The tokens that each segment sees, segment after segment: a view where they are one range, else a copy."""
        parts = [x[start:end] for start, end in self.keys]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def add_key_gradients(self, total: Float[Tensor, "N H D"], gradient: Float[Tensor, "K H D"]) -> None:
        """Adds to `total` what `gather_keys` passes back, in a fixed order and in the dtype of `total`."""
        lengths = [end - start for start, end in self.keys]
        for (start, end), part in zip(self.keys, gradient.split(lengths), strict=True):
            total[start:end] += part

    def boundaries(self, device: torch.device) -> tuple[Int[Tensor, " S"], Int[Tensor, " S"]]:
        """Where the segments' queries and keys start, and where they end: int32, copied to each device once."""
        if device not in self._boundaries:
            with torch.inference_mode(False):  # autograd may save them in a later training step
                query, key = (
                    torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)
                    for lengths in (self.query_lengths, self.key_lengths)
                )
            self._boundaries[device] = (query, key)
        return self._boundaries[device]


@dataclass(frozen=True)
class AttentionPattern:
    """The clips of a pack and, for local attention, how many latent frames a video token sees to each side.

    Raises ValueError for a negative window. What kernels derive from a pattern is kept with it: take patterns from
    `attention_pattern`, so that a pack's layers, and packs of equal layouts, share it.
    """

    layouts: tuple[ClipLayout, ...]
    window: int | None = None
    """None: every token sees all of its clip."""
    _derived: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 0:
            raise ValueError(f"got a window of {self.window} latent frames; wanted 0 or more, or None for all frames")

    def derived(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, computed once per key."""
        if key not in self._derived:
            self._derived[key] = make()
        return cast(T, self._derived[key])

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each clip."""
        return tuple(layout.num_tokens for layout in self.layouts)

    @cached_property
    def is_local(self) -> bool:
        """Whether any token sees less than its clip."""
        return any(self._narrows(layout) for layout in self.layouts)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Every token once, in the order of the sequence."""
        segments: list[Segment] = []
        start = 0
        for layout in self.layouts:
            segments.extend(self._clip_segments(layout, start))
            start += layout.num_tokens
        return tuple(segment for segment in segments if segment.num_queries)

    @cached_property
    def num_pairs(self) -> int:
        """How many pairs of a query and a key that it sees: what attention costs."""
        return sum(segment.num_queries * segment.num_keys for segment in self.segments)

    def runs(self, max_keys: int) -> tuple[SegmentRun, ...]:
        """The segments in runs of at most `max_keys` keys (or one segment); full attention is one run."""
        if not self.segments:
            return ()
        if not self.is_local:
            return self.derived("run", lambda: (SegmentRun(self.segments),))
        return self.derived(("runs", max_keys), lambda: tuple(_split(self.segments, max_keys)))

    def _narrows(self, layout: ClipLayout) -> bool:
        return self.window is not None and layout.video[0] > self.window + 1

    def _clip_segments(self, layout: ClipLayout, start: int) -> Iterator[Segment]:
        frames, end = layout.video[0], start + layout.num_tokens
        if self.window is None or not self._narrows(layout):
            yield Segment((start, end), ((start, end),))
            return
        tokens, video_end = layout.num_video // frames, start + layout.num_video
        for frame in range(frames):
            first, last = max(frame - self.window, 0), min(frame + self.window + 1, frames)
            seen = ((start + first * tokens, start + last * tokens), (video_end, end))
            yield Segment((start + frame * tokens, start + (frame + 1) * tokens), tuple(_joined(seen)))
        yield Segment((video_end, end), ((start, end),))


@lru_cache(maxsize=32)
def attention_pattern(layouts: tuple[ClipLayout, ...], window: int | None = None) -> AttentionPattern:
    """The pattern of a pack, shared between packs of equal layouts; full attention where the window hides nothing."""
    pattern = AttentionPattern(layouts, window)
    return pattern if window is None or pattern.is_local else attention_pattern(layouts)


@runtime_checkable
class AttentionBackend(Protocol):
    """Softmax attention along a pattern, scaled by 1/sqrt(D). Query head i uses key-value head i // (Hq / Hk)."""

    def __call__(
        self,
        query: Float[Tensor, "N Hq D"],
        key: Float[Tensor, "N Hk D"],
        value: Float[Tensor, "N Hk D"],
        pattern: AttentionPattern,
    ) -> Float[Tensor, "N Hq D"]: ...


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The ranges in order, without empty ones; one that starts where the last one ends continues it."""
    joined: list[Range] = []
    for start, end in ranges:
        if start == end:
            continue
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


def _split(segments: tuple[Segment, ...], max_keys: int) -> Iterator[SegmentRun]:
    run: list[Segment] = []
    num_keys = 0
    for segment in segments:
        if run and num_keys + segment.num_keys > max_keys:
            yield SegmentRun(run)
            run, num_keys = [], 0
        run.append(segment)
        num_keys += segment.num_keys
    yield SegmentRun(run)
