"""Makes a folder of media that are damaged, unusual or no media at all, and says what should become of each.

python tests/data/odd_media.py FOLDER
"""

from __future__ import annotations

import os
import re
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

NUM_FRAMES = 25
CANNOT_BE_READ = "cannot be read as media"


@dataclass(frozen=True)
class Odd:
    """A file of the corpus."""

    name: str
    frames: int = 0
    """Of the clip that it gives; 0 when it gives none."""
    reason: str = ""
    """Regular expression for why it gives none."""
    size: tuple[int, int] | None = (48, 64)
    has_sound: bool = True


def gray_of(index: int) -> int:
    """The shade of source frame `index`: far enough apart to survive any codec."""
    return 20 + 4 * (index % 50)


def encode(
    path: Path,
    *,
    codec: str | None = "libx264",
    sound: str | None = "aac",
    num_frames: int = NUM_FRAMES,
    rate: int = 25,
    size: tuple[int, int] = (48, 64),
    pix_fmt: str = "yuv420p",
    layout: str = "stereo",
    sound_rate: int = 48_000,
    sound_seconds: float | None = None,
    sound_from: float = 0.0,
    loudness: float = 0.3,
    stamps_ms: Sequence[int] | None = None,
    container_format: str | None = None,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    movflags: str = "+faststart",
    metadata: dict[str, str] | None = None,
) -> Path:
    """Frames of rising gray with a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = container_format or {".mkv": "matroska", ".m4a": "ipod"}.get(path.suffix.lower(), path.suffix[1:].lower())
    flags = {"movflags": movflags} if movflags and kind in ("mp4", "mov") else {}
    with av.open(str(path), "w", format=kind, options=flags) as container:
        container.metadata.update(metadata or {})
        picture = container.add_stream(codec, rate=rate) if codec else None
        track = container.add_stream(sound, rate=sound_rate, layout=layout) if sound else None
        if picture is not None:
            picture.height, picture.width, picture.pix_fmt = *size, pix_fmt
            picture.options = {"g": "10", **({"preset": "veryfast"} if codec == "libx264" else {}), **(options or {})}
            if aspect is not None:
                picture.codec_context.sample_aspect_ratio = aspect
            if stamps_ms is not None:
                picture.codec_context.time_base = Fraction(1, 1000)
                num_frames = len(stamps_ms)
            for index in range(num_frames):
                image = np.full((*size, 3), gray_of(index), np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
                frame.time_base = Fraction(1, rate) if stamps_ms is None else Fraction(1, 1000)
                frame.pts = index if stamps_ms is None else stamps_ms[index]
                container.mux(picture.encode(frame))
            container.mux(picture.encode())
        if track is not None:
            seconds = num_frames / rate if sound_seconds is None else sound_seconds
            time = np.arange(round(sound_rate * seconds)) / sound_rate
            mono = (loudness * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
            source = av.AudioLayout(layout)
            resampler = av.AudioResampler(format=track.format, layout=layout, rate=sound_rate)
            for start in range(0, mono.size, 960):
                piece = np.ascontiguousarray(np.repeat(mono[None, start : start + 960], source.nb_channels, axis=0))
                block = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
                block.sample_rate, block.time_base = sound_rate, Fraction(1, sound_rate)
                block.pts = start + round(sound_from * sound_rate)
                for fitting in resampler.resample(block):
                    container.mux(track.encode(fitting))
            container.mux(track.encode())
    return path


class Corpus:
    """Collects the files of a folder with what should become of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Odd] = []
        self.base = encode(folder / ".base.mp4").read_bytes()

    def expect(
        self,
        name: str,
        frames: int = 0,
        reason: str = "",
        *,
        size: tuple[int, int] | None = (48, 64),
        has_sound: bool = True,
        caption: bytes | None = b"A gray picture",
    ) -> Path:
        """Where the file goes; its caption is written beside it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if caption is not None:
            path.with_suffix(".txt").write_bytes(caption)
        self.files.append(Odd(name=name, frames=frames, reason=reason, size=size, has_sound=has_sound))
        return path

    def write(self, name: str, content: bytes, **expected: object) -> None:
        self.expect(name, **expected).write_bytes(content)  # type: ignore[arg-type]


def make_odd_media(folder: Path) -> list[Odd]:
    """Writes the corpus and returns what should become of each of its files."""
    corpus = Corpus(folder)
    for add in (
        _kinds, _pictures_of_video, _sounds, _time_stamps, _broken_files, _broken_content, _wrong_kinds, _images,
        _captions, _names, _links,
    ):  # fmt: skip
        add(corpus)
    (folder / ".base.mp4").unlink()
    return corpus.files


def _kinds(corpus: Corpus) -> None:
    for name, codec, sound in (
        ("good_a.mp4", "libx264", "aac"),
        ("kind_mov.mov", "libx264", "pcm_s16le"),
        ("kind_mkv.mkv", "libx264", "flac"),
        ("kind_webm.webm", "libvpx-vp9", "libopus"),
        ("kind_avi.avi", "mpeg4", "pcm_s16le"),
        ("good_z.MP4", "libx264", "aac"),
    ):
        encode(corpus.expect(name, 25), codec=codec, sound=sound)
    encode(corpus.expect("kind_mjpeg.avi", 25), codec="mjpeg", sound="pcm_u8", pix_fmt="yuvj420p", sound_rate=8000)
    encode(corpus.expect("kind_prores.mov", 25), codec="prores_ks", sound="pcm_s24le", pix_fmt="yuv422p10le")
    encode(corpus.expect("kind_hevc.mp4", 25), codec="libx265", options={"x265-params": "log-level=none"})
    encode(corpus.expect("kind_fragmented.mp4", 25), movflags="+frag_keyframe+empty_moov")


def _pictures_of_video(corpus: Corpus) -> None:
    for degrees, matrix in ((90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))):
        size = (48, 64) if degrees == 180 else (64, 48)
        corpus.write(f"rotated_{degrees}.mp4", _with_matrix(corpus.base, matrix), frames=25, size=size)
    encode(corpus.expect("ten_bit.mkv", 25), pix_fmt="yuv420p10le", sound="flac")
    encode(corpus.expect("odd_size.mkv", 25, size=(47, 63)), size=(47, 63), pix_fmt="yuv444p", sound="flac")
    encode(corpus.expect("gray_only.mkv", 25), codec="ffv1", pix_fmt="gray", sound="flac")
    encode(corpus.expect("with_alpha.mov", 25), codec="qtrle", pix_fmt="argb", sound="pcm_s16le")
    encode(corpus.expect("two_pixels.mkv", 25, size=(2, 2)), size=(2, 2), codec="ffv1", sound="flac")
    encode(corpus.expect("very_wide.mkv", 25, size=(16, 4096)), size=(16, 4096), codec="mpeg4", sound="flac")
    encode(corpus.expect("wide_pixels.mp4", 25, size=(48, 128)), aspect=Fraction(2, 1))
    encode(corpus.expect("nonsense_pixels.mp4", 25), aspect=Fraction(1, 200))
    corpus.write(
        "huge_claim.mp4",
        _patched(corpus.base, b"avc1", 28, b"\xff\xff\xff\xff"),
        frames=25,
    )
    two_sizes = b"".join(
        encode(corpus.folder / ".part.ts", size=size, container_format="mpegts").read_bytes()
        for size in ((48, 64), (96, 128))
    )
    (corpus.folder / ".part.ts").unlink()
    corpus.write("two_sizes.mp4", two_sizes, frames=25)


def _sounds(corpus: Corpus) -> None:
    encode(corpus.expect("mono.mp4", 25), layout="mono")
    encode(corpus.expect("surround.mp4", 25), layout="5.1")
    encode(corpus.expect("surround_7.mkv", 25), layout="6.1", sound="flac")
    encode(corpus.expect("low_rate.avi", 25), codec="mpeg4", sound="pcm_u8", sound_rate=8000, layout="mono")
    encode(corpus.expect("high_rate.mkv", 25), sound="flac", sound_rate=96_000)
    encode(corpus.expect("strange_rate.mkv", 25), sound="flac", sound_rate=37_123)
    encode(corpus.expect("no_sound.mp4", 25, has_sound=False), sound=None)
    encode(corpus.expect("silent_sound.mp4", 25), loudness=0.0)
    encode(corpus.expect("short_sound.mp4", 25), sound_seconds=0.3)
    encode(corpus.expect("long_sound.mp4", 25), sound_seconds=4.0)
    encode(corpus.expect("late_sound.mkv", 25), sound="flac", sound_from=0.5)
    mkv = encode(corpus.folder / ".whole.mkv", sound="flac").read_bytes()
    (corpus.folder / ".whole.mkv").unlink()
    corpus.write("unknown_sound.mkv", mkv.replace(b"A_FLAC", b"A_ZZZZ"), reason="sound in a format")
    corpus.write(
        "unknown_picture.mkv", mkv.replace(b"V_MPEG4/ISO/AVC", b"V_ZZZZZ/ISO/AVC"), reason="picture in a format"
    )
    corpus.write("unknown_tag.mp4", corpus.base.replace(b"mp4a", b"zzzz"), frames=25)
    encode(corpus.expect("no_picture.mp4", reason="no picture"), codec=None)


def _time_stamps(corpus: Corpus) -> None:
    generator = np.random.default_rng(0)
    uneven = np.concatenate([[0], np.cumsum(generator.integers(8, 90, 39))])
    ticks = int((uneven[-1] + np.diff(uneven).mean()) * 25 // 1000)
    flac = {"sound": "flac", "rate": 25}
    encode(corpus.expect("variable_rate.mkv", ticks // 4 * 4 + 1), stamps_ms=uneven.tolist(), **flac)  # type: ignore[arg-type]
    plain = [40 * index for index in range(25)]
    encode(corpus.expect("starts_late.mkv", 25), stamps_ms=[3_600_000 + t for t in plain], sound_from=3600.0, **flac)  # type: ignore[arg-type]
    encode(corpus.expect("leaps.mkv", 13), stamps_ms=plain[:13] + [9_000_000 + t for t in plain[13:]], **flac)  # type: ignore[arg-type]
    encode(corpus.expect("one_frame.mp4", reason="too short: 1 frames"), num_frames=1)
    encode(corpus.expect("four_frames.mp4", reason="too short: 4 frames"), num_frames=4)
    encode(corpus.expect("five_frames.mp4", 5), num_frames=5)
    encode(corpus.expect("slow.mp4", 97), num_frames=4, rate=1)
    encode(corpus.expect("fast.mkv", 9, has_sound=False), num_frames=400, rate=1000, sound=None, codec="mpeg4")
    corpus.write("endless_claim.mp4", _patched(corpus.base, b"mdhd", 20, b"\x7f\xff\xff\xff"), frames=25)
    corpus.write("no_length.mp4", _patched(corpus.base, b"mdhd", 20, b"\0\0\0\0"), frames=25)
    corpus.write("no_clock.mp4", _patched(corpus.base, b"mdhd", 16, b"\0\0\0\0"), reason="")


def _broken_files(corpus: Corpus) -> None:
    base, last = corpus.base, encode(corpus.folder / ".last.mp4", movflags="").read_bytes()
    (corpus.folder / ".last.mp4").unlink()
    corpus.write("zero_bytes.mp4", b"", reason="the file is empty")
    corpus.write("eight_bytes.mp4", base[:8], reason=CANNOT_BE_READ)
    corpus.write("head_only.mp4", base[: base.index(b"mdat")], reason=CANNOT_BE_READ)
    for percent in (10, 50, 90, 99):
        corpus.write(
            f"index_cut_{percent}.mp4", last[: len(last) * percent // 100], reason=f"{CANNOT_BE_READ}|no picture"
        )
    media = base.index(b"mdat")
    for percent in (30, 60, 90):  # the index is whole: what is there can be read
        corpus.write(f"media_cut_{percent}.mp4", base[: media + (len(base) - media) * percent // 100], reason="")
    mkv = encode(corpus.folder / ".whole.mkv", sound="flac", num_frames=60).read_bytes()
    (corpus.folder / ".whole.mkv").unlink()
    for percent in (5, 40, 80):
        corpus.write(f"cut_{percent}.mkv", mkv[: len(mkv) * percent // 100], reason="")
    avi = encode(corpus.folder / ".whole.avi", codec="mpeg4", sound="pcm_s16le").read_bytes()
    (corpus.folder / ".whole.avi").unlink()
    corpus.write("cut.avi", avi[: len(avi) // 2], reason="")
    corpus.write("random.mp4", np.random.default_rng(1).bytes(20_000), reason=CANNOT_BE_READ)
    corpus.write("zeros.mp4", bytes(20_000), reason=CANNOT_BE_READ)
    corpus.write("twice.mp4", base + base, frames=25)
    corpus.write("rubbish_after.mp4", base + np.random.default_rng(2).bytes(5_000), frames=25)


def _broken_content(corpus: Corpus) -> None:
    for seed in range(6):
        content = bytearray(corpus.base)
        media = content.index(b"mdat") + 8
        generator = np.random.default_rng(seed)
        for place in generator.integers(media, len(content), 5 if seed < 3 else 60):
            content[place] = int(generator.integers(256))
        corpus.write(f"flipped_{seed}.mp4", bytes(content), reason="")
    silent = encode(corpus.folder / ".whole.mp4", sound=None).read_bytes()
    (corpus.folder / ".whole.mp4").unlink()
    for seed in range(8):
        content = bytearray(silent)
        generator = np.random.default_rng(seed)
        for place in generator.integers(content.index(b"mdat") + 8, len(content), 1 if seed < 4 else 8):
            content[place] = int(generator.integers(256))
        corpus.write(f"flipped_picture_{seed}.mp4", bytes(content), reason="", has_sound=False)
    content = bytearray(corpus.base)
    middle = (content.index(b"mdat") + len(content)) // 2
    content[middle : middle + 400] = bytes(400)
    corpus.write("hole.mp4", bytes(content), reason="")


def _wrong_kinds(corpus: Corpus) -> None:
    corpus.write("mp4_called.avi", corpus.base, frames=25)
    corpus.write("mp4_called.jpg.png", corpus.base, frames=25)
    corpus.write("text.mp4", b"this is no video\n" * 100, reason=CANNOT_BE_READ)
    corpus.write("page.mp4", b"<!DOCTYPE html><html><body>404</body></html>", reason=CANNOT_BE_READ)
    Image.new("RGB", (64, 48), (90, 90, 90)).save(path := corpus.folder / ".shot.jpg")
    corpus.write("image_called.mp4", path.read_bytes(), frames=1, has_sound=False)
    path.unlink()
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"
    corpus.write("playlist.mp4", playlist, reason=CANNOT_BE_READ)
    corpus.write("list.mp4", b"ffconcat version 1.0\nfile 'good_a.mp4'\n", reason=CANNOT_BE_READ)
    corpus.write("session.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5000 RTP/AVP 96\n", reason=CANNOT_BE_READ)
    path = corpus.expect("latin_1_title.mp4", 25)
    encode(path, metadata={"title": "caffe-latte"})
    path.write_bytes(path.read_bytes().replace(b"caffe-latte", b"caff\xe9-latte"))


def _images(corpus: Corpus) -> None:
    shades = np.linspace(0, 255, 48 * 64 * 3).astype(np.uint8).reshape(48, 64, 3)
    image = Image.fromarray(shades)
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, picture, options in (
        ("image.jpg", image, {}),
        ("image_upper.JPEG", image, {}),
        ("image.png", image, {}),
        ("image.webp", image, {}),
        ("image.bmp", image, {}),
        ("image.tiff", image, {}),
        ("image_alpha.png", image.convert("RGBA"), {}),
        ("image_palette.png", image.convert("P"), {"transparency": 3}),
        ("image_gray.png", image.convert("L"), {}),
        ("image_bits.png", image.convert("1"), {}),
        ("image_cmyk.jpg", image.convert("CMYK"), {}),
        ("image_16.png", Image.fromarray(shades[:, :, 0].astype(np.uint16) * 257), {}),
    ):
        picture.save(
            corpus.expect(f"images/{Path(name).stem}_{name[-3:]}{Path(name).suffix}", 1, has_sound=False), **options
        )
    image.save(corpus.expect("images/turned.jpg", 1, size=(64, 48), has_sound=False), exif=turned)
    Image.new("RGB", (1, 1)).save(corpus.expect("images/one_pixel.png", 1, size=(1, 1), has_sound=False))
    Image.fromarray(shades[:, :, 0].astype(np.float32)).save(
        corpus.expect("images/float.tiff", reason="no fixed range")
    )
    image.save(whole := corpus.folder / ".whole.png")
    content = whole.read_bytes()
    whole.unlink()
    corpus.write("images/cut.png", content[: len(content) // 2], reason=CANNOT_BE_READ)
    corpus.write("images/head.png", content[:20], reason=CANNOT_BE_READ)
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + content[24:29]
    bomb = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    corpus.write("images/bomb.png", bomb, reason="60000x60000|3600000000")
    corpus.write("preview.mp4", corpus.base, frames=25)
    image.save(corpus.folder / "preview.jpg")  # beside a video of the same name: no clip


def _captions(corpus: Corpus) -> None:
    def caption(name: str, content: bytes | None, **expected: object) -> Path:
        path = corpus.expect(f"captions/{name}.mp4", caption=content, **expected)  # type: ignore[arg-type]
        path.write_bytes(corpus.base)
        return path

    caption("missing", None, reason="no caption")
    caption("empty", b"", reason="the .txt is empty")
    caption("blank", b" \n\t\n", reason="the .txt is empty")
    caption("latin_1", "Ein Mann mit Hüten".encode("latin-1"), reason="not UTF-8")
    caption("utf_16", "A man".encode("utf-16"), frames=25)
    caption("byte_order", "\ufeffA man".encode(), frames=25)
    caption("dialogue", b"A man\n\nDialogue:\nhe says hello", reason="he says hello")
    (caption("is_a_folder", None, reason="no caption").with_suffix(".txt")).mkdir()
    for name, fields, reason in (
        ("not_json", b"{", "is not JSON"),
        ("deep", b"[" * 100_000, "is not JSON"),
        ("number", b'{"description": 3}', "description is 3"),
        ("surrogate", b'{"description": "a \\ud800 b"}', "a character that is none"),
        ("lines", b'{"description": "a", "dialogue": [{"speaker": "x"}]}', "malformed"),
    ):
        caption(f"json_{name}", None, reason=reason).with_suffix(".json").write_bytes(fields)


def _names(corpus: Corpus) -> None:
    for name in (
        "with spaces and (brackets).mp4",
        "emoji 🎬🍿.mp4",
        "emoji 🎞🍿.mp4",
        "日本語の名前.mp4",
        "two.dots.in.it.mp4",
        "-dash.mp4",
        "colon:in:it.mp4",
        "percent%03d.mp4",
        "line\nbreak.mp4",
        "quote'\".mp4",
        "deep/er/and/deep er/clip.mp4",
        f"{'long' * 55}.mp4",
        "http:__nowhere.mp4",
    ):
        corpus.write(f"names/{name}", corpus.base, frames=25)
    corpus.write("names/same.mp4", corpus.base, frames=25)
    encode(corpus.expect("names/same.mkv", 25), sound="flac")
    corpus.write("names/sa me.mp4", corpus.base, frames=25)
    corpus.write("names/sa_me.mp4", corpus.base, frames=25)
    corpus.write(os.fsdecode(b"names/not-\xff-utf8.mp4"), corpus.base, frames=25)


def _links(corpus: Corpus) -> None:
    folder = corpus.folder / "links"
    folder.mkdir()
    (folder / "loop").symlink_to(folder)
    (folder / "round").symlink_to(corpus.folder)
    corpus.expect("links/link.mp4", 25).symlink_to(corpus.folder / "good_a.mp4")
    corpus.expect("links/nowhere.mp4", reason="No such file").symlink_to(corpus.folder / "gone.mp4")
    corpus.expect("links/itself.mp4", reason="symbolic links").symlink_to("itself.mp4")
    os.mkfifo(corpus.expect("links/pipe.mp4", reason="no regular file"))
    (folder / "folder.mp4").mkdir()
    corpus.write("links/folder.mp4/inside.mp4", corpus.base, frames=25)


def _patched(content: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """The box of the first track with bytes after its name replaced."""
    place = content.index(box) + offset
    return content[:place] + value + content[place + len(value) :]


def _with_matrix(content: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    a, b, c, d = (value * 65536 for value in matrix)
    return _patched(content, b"tkhd", 44, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for file in make_odd_media(target):
        print(f"{re.sub(r'[^ -~]', '?', file.name):50} {file.frames or file.reason or 'either'}")
