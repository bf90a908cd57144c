"""The same batch as `pack` gives, to the bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hh_train.data.loading.assembly import assemble
from hh_train.data.packing import pack
from hh_train.data.shards.format import in_float32
from hh_train.types import LatentClip

PATCHES = [(1, 2, 2), (1, 1, 1), (2, 2, 4), (1, 4, 2), (2, 1, 3)]


@st.composite
def clips_and_patch(draw: st.DrawFn) -> tuple[list[LatentClip], tuple[int, int, int]]:
    patch = draw(st.sampled_from(PATCHES))
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    clips = []
    for number in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["all", "silent", "sound"]))
        grid = [draw(st.integers(1, 3)) * step for step in patch]
        video = None if kind == "sound" else torch.randn(3, *grid, generator=generator).to(dtype)
        audio = torch.randn(draw(st.integers(1, 6)), 5, generator=generator).to(dtype)
        given_frames = patch[0] * draw(st.integers(0, 1)) if video is not None and grid[0] > patch[0] else 0
        clips.append(
            LatentClip(
                key=str(number),
                video=video,
                audio=None if kind == "silent" else audio,
                text=torch.randn(draw(st.integers(1, 4)), 7, generator=generator).to(dtype),
                num_given_frames=given_frames,
                audio_is_given=kind == "all" and draw(st.booleans()),
            )
        )
    return clips, patch


@given(drawn=clips_and_patch())
def test_the_batch_is_that_of_pack(drawn: tuple[list[LatentClip], tuple[int, int, int]]) -> None:
    clips, patch = drawn
    found, wanted = assemble(clips, patch=patch), pack([in_float32(clip) for clip in clips], patch=patch)
    for field in dataclasses.fields(wanted):
        ours, theirs = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(theirs, torch.Tensor):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), field.name
        else:
            assert ours == theirs


def clip(**changes: object) -> LatentClip:
    plain = LatentClip(key="a", video=torch.zeros(3, 2, 2, 2), audio=torch.zeros(4, 5), text=torch.zeros(2, 7))
    return dataclasses.replace(plain, **changes)


def test_latents_that_do_not_lie_in_order_are_read() -> None:
    turned = torch.randn(2, 2, 2, 3).half().permute(3, 0, 1, 2)
    found = assemble([clip(video=turned)], patch=(1, 2, 2))
    assert torch.equal(found.video, pack([clip(video=turned.float())], patch=(1, 2, 2)).video)


@pytest.mark.parametrize("name", ["video", "audio", "text"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    bad = getattr(clip(), name).clone()
    bad.view(-1)[3] = value
    with pytest.raises(ValueError, match=f"the {name} latents of a batch hold NaN"):
        assemble([clip(), clip(**{name: bad})], patch=(1, 2, 2))


def test_clips_must_agree_in_channels() -> None:
    for changes in ({"video": torch.zeros(4, 2, 2, 2)}, {"audio": torch.zeros(4, 6)}, {"text": torch.zeros(2, 8)}):
        with pytest.raises(ValueError, match="agree in channels"):
            assemble([clip(), clip(**changes)], patch=(1, 2, 2))


def test_given_frames_must_fill_patches() -> None:
    with pytest.raises(ValueError, match="1 given latent frames cannot be cut"):
        assemble([clip(num_given_frames=1)], patch=(2, 2, 2))
