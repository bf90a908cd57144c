"""Fields of two moments become pictures of one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from hh_train.data.media.files import MediaReader
from hh_train.data.media.interlacing import Deinterlacer

WIDTH, HEIGHT, FRAMES, SPEED = 96, 64, 30, 8


def bar(position: int) -> np.ndarray:
    """A white bar, 16 pixels wide."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, position % WIDTH : position % WIDTH + 16] = 255
    return picture


def write(path: Path, *, is_interlaced: bool, height: int = HEIGHT) -> None:
    """The odd rows of a frame show the bar half a frame later."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, height, "yuv422p", 8_000_000
        if is_interlaced:
            stream.options = {"flags": "+ildct+ilme", "field_order": "tt", "top": "1"}
        for index in range(FRAMES):
            picture = bar(SPEED * index)
            if is_interlaced:
                picture[1::2] = bar(SPEED * index + SPEED // 2)[1::2]
            frame = VideoFrame.from_ndarray(picture[:height], format="rgb24").reformat(format="yuv422p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def combing(frames: np.ndarray) -> float:
    """How much more a row differs from its neighbors than they from each other: 0 in a whole picture of a bar."""
    rows = frames[..., 1].astype(float)
    return float(np.abs(rows[:, 1:-1] - (rows[:, :-2] + rows[:, 2:]) / 2).mean())


def is_flagged(path: Path) -> bool:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).interlaced_frame


def test_interlaced_pictures_are_made_whole(tmp_path: Path) -> None:
    write(tmp_path / "fields.mpg", is_interlaced=True)
    assert is_flagged(tmp_path / "fields.mpg")
    with av.open(str(tmp_path / "fields.mpg")) as container:
        raw = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    clip = MediaReader().read(tmp_path / "fields.mpg")
    assert clip.frames.shape[0] == 29
    assert combing(raw) > 5
    assert combing(clip.frames.numpy()[2:-2]) < combing(raw) / 3


def test_frames_stay_at_their_times(tmp_path: Path) -> None:
    """The bar of the n-th frame is where one of its two fields shows it: half a frame is the way between them."""
    write(tmp_path / "fields.mpg", is_interlaced=True)
    frames = MediaReader().read(tmp_path / "fields.mpg").frames.numpy()
    for index in (3, 8):
        columns = frames[index, ::2, :, 1].mean(axis=0)
        assert abs(np.flatnonzero(columns > 128).mean() - (SPEED * index + 7.5)) <= SPEED / 2


def test_pictures_may_change_in_size(tmp_path: Path) -> None:
    """Two recordings in one stream."""
    write(tmp_path / "a.ts", is_interlaced=True)
    write(tmp_path / "b.ts", is_interlaced=True, height=HEIGHT // 2)
    both = tmp_path / "both.ts"
    both.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    assert MediaReader().read(both).frames.shape[:2] == (29, HEIGHT)
    with av.open(str(both)) as container:
        stream = container.streams.video[0]
        whole = Deinterlacer(stream)
        decoded = list(container.decode(stream))
        frames = [ready for frame in decoded for ready in whole.add(frame)]
        frames += whole.finish()
    assert {frame.height for frame in frames} == {HEIGHT, HEIGHT // 2}
    assert [frame.height for frame in frames] == [frame.height for frame in decoded]


def test_whole_pictures_are_not_touched(tmp_path: Path) -> None:
    write(tmp_path / "whole.mpg", is_interlaced=False)
    with av.open(str(tmp_path / "whole.mpg")) as container:
        raw = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    frames = MediaReader().read(tmp_path / "whole.mpg").frames.numpy()
    assert np.abs(frames.astype(int) - raw[: len(frames)].astype(int)).max() <= 2
