"""The known-answer checks of the evaluation, 21 of them, on encoded files where there is media to encode.

Each check is a function of the measure under test. It runs with the real measure, and again with a stub in its place
that answers every question alike: with each of the real measure's own answers, with 0, with 1 and with None. The stub
must fail. No weights, no network.

Speech is told by tones: each half byte of a text is a tone of one frame's length, and the stand-in for a recognizer
hears the tones in the decoded file. So error rates are those of sound that went through a codec.
"""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from hh_train.arena.rating import Outcome, rank
from hh_train.data.media.files import MediaReader, write_clip
from hh_train.metrics.clip_metric import Row
from hh_train.metrics.comparison.bootstrap import ratio_interval
from hh_train.metrics.comparison.difference import paired_difference
from hh_train.metrics.distribution.extractors import UntrainedVideoFeatures
from hh_train.metrics.distribution.feature_distance import FrechetDistance
from hh_train.metrics.lips.measurer import LipMeasurer
from hh_train.metrics.measurer import Measured, Measurer, Sample
from hh_train.metrics.motion.vbench import frame_consistency
from hh_train.metrics.motion.weight_free import flicker, jerk, measure_motion
from hh_train.metrics.speech.measurer import SpeechMeasurer
from hh_train.metrics.speech.transcripts import normalize
from hh_train.metrics.speech.wer import count_errors
from hh_train.metrics.sync.av_align import flow_peaks, matched_share, onsets
from hh_train.metrics.sync.embedding_distance import embedding_sync
from hh_train.metrics.sync.measurer import SyncMeasurer
from hh_train.types import Clip

RATE, FRAME = 16_000, 640
FAILURES = (AssertionError, TypeError, ValueError, pytest.fail.Exception)
MOST_CONSTANTS = 6

Speaker = Callable[..., Clip]
Subject = Callable[..., Any]


# ------------------------------------------------------------------------------------------------------- material


@dataclass
class Films:
    """Encoded clips, each written once."""

    folder: Path
    speaker: Speaker
    written: dict[str, Path] = field(default_factory=dict)

    def film(self, name: str, make: Callable[[], Clip], *, quality: int = 16) -> Path:
        if name not in self.written:
            self.written[name] = self.folder / f"{len(self.written)}.mp4"
            write_clip(self.written[name], make(), quality=quality)
        return self.written[name]

    def speaks(self, seed: int = 0, **how: Any) -> Path:
        return self.film(f"speaks {seed} {how}", lambda: self.speaker(seed, **{"num_frames": 61, **how}))

    def says(self, text: str, *, noise: float = 0.0) -> Path:
        """A gray wall that says a text in tones."""

        def make() -> Clip:
            sound = tones(text)
            generator = torch.Generator().manual_seed(0)
            noisy = sound + noise * torch.randn(sound.shape, generator=generator)
            return wall(noisy.clamp(-1, 1))

        return self.film(f"says {text} {noise}", make)

    def shows(self, name: str, frames: Tensor, *, quality: int = 1) -> Tensor:
        """Frames after an encoding."""
        clip = Clip(frames=frames, frames_per_second=25.0, waveform=None, samples_per_second=RATE)
        return read(self.film(name, lambda: clip, quality=quality)).frames


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, speaker: Speaker) -> Films:
    return Films(folder=tmp_path_factory.mktemp("films"), speaker=speaker)


def read(path: Path) -> Clip:
    return MediaReader(samples_per_second=RATE, frame_multiple=1, min_frames=2).read(path)


def sample(path: Path, transcript: str | None = None, language: str | None = None) -> Sample:
    return Sample(key=path.stem, clip=read(path), transcript=transcript, language=language, path=path)


def measured(measurer: Measurer, given: Sample) -> Measured:
    return measurer.measure(given)


def wall(sound: Tensor) -> Clip:
    frames = torch.full((len(sound) // FRAME, 32, 32, 3), 120, dtype=torch.uint8)
    return Clip(frames=frames, frames_per_second=25.0, waveform=sound, samples_per_second=RATE)


def tones(text: str) -> Tensor:
    """Half a byte a frame; a frame of silence at both ends, and two more so that short clips can be measured."""
    halves = [half for byte in text.encode() for half in (byte >> 4, byte & 15)]
    at = torch.arange(FRAME) / RATE
    window = torch.hann_window(FRAME, periodic=False).clamp(max=0.5) * 2
    parts = [0.3 * window * torch.sin(2 * torch.pi * (500 + 200 * half) * at) for half in halves]
    silence = torch.zeros(2 * FRAME)
    return torch.cat([silence, *parts, silence])


class Ear:
    """Hears tones as the text that they stand for."""

    languages: Sequence[str] = ("zh", "en", "de")

    def transcribe(self, waveform: Tensor, language: str) -> str:
        halves = []
        for part in waveform[: len(waveform) // FRAME * FRAME].split(FRAME)[2:-2]:
            spectrum = torch.fft.rfft(part * torch.hann_window(len(part))).abs()
            bins = [round((500 + 200 * half) * FRAME / RATE) for half in range(16)]
            levels = [float(spectrum[b - 1 : b + 2].max()) for b in bins]
            halves.append(int(np.argmax(levels)) if max(levels) > 2 else None)
        bytes_heard = [
            16 * a + b for a, b in zip(halves[::2], halves[1::2], strict=False) if a is not None and b is not None
        ]
        return bytes(bytes_heard).decode(errors="replace")

    def fingerprint(self) -> str:
        return "tones"


class Parrot(Ear):
    """Hears the same words in whatever it is given."""

    def transcribe(self, waveform: Tensor, language: str) -> str:
        return "nine nine"


class LipOracle:
    """Reads what everybody says here from whatever it is shown."""

    languages: Sequence[str] = ("en",)
    crop_size = 32

    def read(self, crops: Tensor, language: str) -> str:
        return "one two"

    def fingerprint(self) -> str:
        return "oracle"


def texture() -> np.ndarray:
    noise = np.random.default_rng(0).uniform(0, 255, (256, 256, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return (smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255


def gliding(pixels_a_frame: float, frames: int = 10) -> Tensor:
    picture = texture()
    shots = [cv2.getRectSubPix(picture, (64, 64), (80 + i * pixels_a_frame, 128)) for i in range(frames)]
    return torch.from_numpy(np.stack(shots).round().astype(np.uint8))


def gray(levels: Sequence[int]) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 32, 32, 3).contiguous()


# ------------------------------------------------------------------------------------------------------- lips and sound


def sync_values(path: Path) -> Mapping[str, Any]:
    return measured(SyncMeasurer(), sample(path)).values


def offset(path: Path, rate: float = 25.0) -> float | None:
    """In frames of the file; positive, the sound leads."""
    found = sync_values(path)["offset_ms"]
    return None if found is None else float(found) / 1000 * rate


def check_1_shifts_come_back_at_any_rate(subject: Subject, films: Films) -> None:
    for rate in (24.0, 25.0, 30.0):
        for lead in (-6, 0, 4):
            path = films.speaks(lead % 3, frames_per_second=rate, lead_seconds=lead / rate)
            assert abs(subject(path, rate) - lead) <= 0.5, (rate, lead)


def check_2_halves_of_frames_come_back(subject: Subject, films: Films) -> None:
    for lead in (-2.5, 0.5, 3.5):
        found = subject(films.speaks(1, lead_seconds=lead / 25))
        assert abs(found - lead) <= 0.5


def correlation(path: Path) -> tuple[float, float]:
    """At lag zero, and whether it is sure."""
    values = sync_values(path)
    return values["zero_lag_correlation"], values["correlated"]


def check_3_swapped_sound_does_not_correlate(subject: Subject, films: Films) -> None:
    own = [subject(films.speaks(seed)) for seed in range(8)]
    other = [subject(films.speaks(seed, said_by=seed + 50)) for seed in range(8)]
    assert min(r for r, _ in own) > 0.6 and all(sure for _, sure in own)
    assert abs(float(np.mean([r for r, _ in other]))) < 0.3
    assert sum(not sure for _, sure in other) >= 6


def check_4_a_frozen_mouth_is_undefined(subject: Subject, films: Films) -> None:
    assert subject(films.speaks(2, mouth="still")) is None
    assert abs(subject(films.speaks(2))) <= 0.5


def leak(path: Path) -> float | None:
    row = measured(LipMeasurer(), sample(path)).values["lip_leak"]
    return row.numerator / row.denominator if isinstance(row, Row) else None


def check_5_a_mouth_that_moves_in_silence_leaks(subject: Subject, films: Films) -> None:
    def silent(mouth: str) -> Path:
        return films.film(f"silent {mouth}", lambda: replace(made(mouth), waveform=torch.zeros(61 * FRAME)))

    def made(mouth: str) -> Clip:
        return films.speaker(3, num_frames=61, mouth=mouth)

    assert subject(silent("moving")) > 0.8
    assert subject(silent("still")) < 0.1


# ------------------------------------------------------------------------------------------------------- words

ENGLISH = (
    "the train leaves at noon", "my brother cooks fish", "we never saw that movie", "please open a window",
    "her garden grows quickly", "snow fell during dinner", "cheap bread tastes fine", "old maps hide secrets",
    "you should drink water", "birds sing before dawn",
)  # fmt: skip
MANDARIN = ("今天下雨", "我喜欢喝茶", "火车快到了", "他在唱歌", "请打开窗户", "妈妈买苹果", "明早去公园", "那只猫睡觉")


def errors(path: Path, transcript: str, language: str, unit: Any = None) -> tuple[int, int]:
    """Errors and reference units of what is heard in a file."""
    heard = sample(path, transcript, language).heard(Ear())
    found = count_errors(transcript, heard, language, unit=unit)
    return found.total, found.reference_units


def rate_of(counts: Sequence[tuple[int, int]]) -> float:
    return sum(wrong for wrong, _ in counts) / sum(units for _, units in counts)


def check_6_permuted_transcripts(subject: Subject, films: Films) -> None:
    for texts, language in ((ENGLISH, "en"), (MANDARIN, "zh")):
        right = [subject(films.says(text), text, language) for text in texts]
        assert rate_of(right) == 0.0 and all(units for _, units in right)
        others = [subject(films.says(text), other, language) for text, other in pairwise(texts)]
        assert 0.93 < rate_of(others) < 1.2
    letters = [subject(films.says(text), other, "en", "character") for text, other in pairwise(ENGLISH)]
    assert 0.65 < rate_of(letters) < 0.95, "letters are met by chance where words are not"


def check_7_exact_counts(subject: Subject, films: Films) -> None:
    said = ["one", "two", "three", "four", "five", "six"]
    for k in (0, 1, 3, 6):
        heard = " ".join(["seven" if i < k else word for i, word in enumerate(said)])
        assert subject(films.says(heard), " ".join(said), "en") == (k, 6)
    assert subject(films.says("six one six one six one six one"), "six one", "en") == (6, 2)
    assert subject(films.says(""), "six one", "en") == (2, 2)
    with pytest.raises(ValueError, match="reference transcript"):
        subject(films.says("six"), "...", "en")


ALIKE = {
    "en": [
        ("Don’t STOP, well-known!", "don't stop well known"),
        ("Ｔｗｅｎｔｙ", "20"),
        ("a naïve café", "a naive cafe"),
    ],
    "de": [("Die Straße", "die STRASSE"), ("zwanzig", "20"), ("am 3. Mai", "am dritten Mai")],
    "fr": [("« Bonjour », dit-il", "bonjour dit il"), ("L’été", "l'été"), ("vingt", "20"), ("Un œuf", "un oeuf")],
    "zh": [("有 的 人，好。", "有的人好"), ("學習漢語", "学习汉语"), ("２０個", "二十个")],
    "yue": [("佢哋喺裏面", "佢哋喺里面"), ("二 十", "20")],
    "ja": [("ｺｰﾋｰを 飲む。", "コーヒーを飲む"), ("「２０」円", "二十円")],
    "ko": [("안녕 하세요?", "안녕하세요"), ("20 명", "이십 명")],
}
NAMES = {
    "zh": ("Chinese", "Mandarin", "cmn", "zh-CN", "中文"), "yue": ("Cantonese", "zh-HK", "粵語"),
    "en": ("English", "eng", "en_US"), "ja": ("Japanese", "jpn", "日本語"), "ko": ("Korean", "kor", "한국어"),
    "de": ("German", "ger", "Deutsch"), "fr": ("French", "fra", "Français"),
}  # fmt: skip


def check_8_one_spelling_for_what_sounds_the_same(subject: Subject, films: Films) -> None:
    for language, pairs in ALIKE.items():
        for one, other in pairs:
            plain = subject(one, language)
            assert plain == subject(other, language), (language, one, other)
            assert subject(plain, language) == plain and plain
            assert {subject(one, name) for name in NAMES[language]} == {plain}
        spelled = [subject(one, language) for one, _ in pairs]
        assert len(set(spelled)) == len(spelled)


def mean_error(paths: Sequence[Path], transcripts: Sequence[str], ear: Any) -> float:
    measurer = SpeechMeasurer(recognizer=ear)
    rows = [
        measured(measurer, sample(path, text, "en")).values["speech_wer"]
        for path, text in zip(paths, transcripts, strict=True)
    ]
    return rate_of([(int(row.numerator), int(row.denominator)) for row in rows if isinstance(row, Row)])


def check_9_an_oracle_and_a_parrot(subject: Subject, films: Films) -> None:
    paths = [films.says(text) for text in ENGLISH]
    assert subject(paths, ENGLISH, Ear()) == 0.0
    assert 0.9 < subject(paths, ENGLISH, Parrot()) <= 1.1


# ------------------------------------------------------------------------------------------------------- embeddings


def walk(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    steps, own = (torch.randn(count, 12, generator=generator) for _ in range(2))
    return steps.cumsum(0) * 0.3 + own


def lse(video: Tensor, audio: Tensor, edge: Any) -> tuple[float, float, float, float]:
    found = embedding_sync(video, audio, edge=edge)
    return found.offset_frames, found.lse_d, found.lse_c, found.at_zero


def check_10_lse_is_that_of_its_protocol(subject: Subject, films: Films) -> None:
    for lead in (-4, 0, 7):
        video = walk(40, lead + 10)
        audio = torch.roll(video, -lead, dims=0) + 0.1 * walk(40, 3)
        v, a = video.numpy().astype(float), audio.numpy().astype(float)
        for edge in ("zero", "mask"):
            table = []
            for shift in range(-15, 16):
                pairs = [(t, t + shift) for t in range(40) if edge == "zero" or 0 <= t + shift < 40]
                sounds = [a[u] if 0 <= u < 40 else np.zeros(12) for _, u in pairs]
                table.append(
                    np.mean([np.linalg.norm(v[t] - s + 1e-6) for (t, _), s in zip(pairs, sounds, strict=True)])
                )
            expected = (15 - int(np.argmin(table)), min(table), np.median(table) - min(table), table[15])
            assert subject(video, audio, edge) == pytest.approx(expected, abs=1e-3)
            assert expected[0] == lead


# ------------------------------------------------------------------------------------------------------- motion


def check_11_flicker(subject: Subject, films: Films) -> None:
    assert subject(films.shows("still", gray([90] * 10))) == 1.0
    assert subject(films.shows("alternating", gray([0, 255] * 5))) == pytest.approx(0.0, abs=1e-3)
    assert subject(films.shows("rising", gray(range(40, 80, 4)))) == pytest.approx(251 / 255, abs=1e-3)
    assert subject(gray(range(40, 50))) == pytest.approx(254 / 255)  # less than a file's levels can show


def flow_and_warp(frames: Tensor) -> tuple[float, float]:
    found = measure_motion(frames, frames_per_second=25.0)
    return found.flow * frames.shape[1] / 25, found.warp_error


def check_12_flow_is_the_speed(subject: Subject, films: Films) -> None:
    for speed in (0.5, 1.0, 2.0):
        flow, warp = subject(films.shows(f"gliding {speed}", gliding(speed)))
        assert flow == pytest.approx(speed, rel=0.1) and warp < 0.02
    assert subject(films.shows("resting", gliding(0.0)))[0] == pytest.approx(0.0, abs=0.01)


def jerk_of(track: Tensor, frames_per_second: float) -> float:
    return jerk(track, frames_per_second=frames_per_second)


def check_12_jerk_of_a_cubic(subject: Subject, films: Films) -> None:
    t = torch.arange(12).double()
    cubic = torch.stack((t**3 / 6, torch.zeros(12).double()), dim=1)
    assert subject(cubic, 1.0) == pytest.approx(1.0)
    assert subject(cubic, 2.0) == pytest.approx(8.0)
    assert subject(torch.stack((t**2, t), dim=1), 1.0) == pytest.approx(0.0, abs=1e-9)


def consistency(features: Tensor) -> float:
    row = frame_consistency(features)
    return row.numerator / row.denominator


def check_13_consistency(subject: Subject, films: Films) -> None:
    assert subject(torch.ones(5, 4)) == pytest.approx(1.0)
    assert subject(torch.eye(4)) == pytest.approx(0.0)
    turned = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert subject(turned) == pytest.approx(0.5**0.5)


# ------------------------------------------------------------------------------------------------------- sets


def distance(generated: Sequence[Tensor], real: Sequence[Tensor]) -> float | None:
    metric = FrechetDistance(dim=generated[0].shape[1])
    for is_real, clips in ((False, generated), (True, real)):
        for i, rows in enumerate(clips):
            metric.update(f"clip {i}", rows, real=is_real)
    return metric.compute().value


def check_14_frechet(subject: Subject, films: Films) -> None:
    rows = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).double()
    rows -= rows.mean(0)
    singly, triply = rows.split(1), rows.split(3)
    assert subject(singly, singly) == pytest.approx(0.0, abs=1e-9)
    assert subject((rows + 2).split(1), singly) == pytest.approx(5 * 2.0**2)
    spread = float(rows.square().sum()) / 59
    assert subject((3 * rows).split(1), singly) == pytest.approx(4 * spread)
    assert subject((rows + 2).split(3), triply) == pytest.approx(5 * 2.0**2)
    half = (300 * rows).half()
    assert subject((half + 600).split(1), half.split(1)) == pytest.approx(5 * 600.0**2, rel=0.01)
    extractor = UntrainedVideoFeatures()

    def features(blur: int) -> list[Tensor]:
        found = []
        for seed in range(6):
            clip = films.speaker(seed, num_frames=13)
            soft = np.stack([cv2.blur(frame, (blur, blur)) for frame in clip.frames.numpy()])
            path = films.film(f"soft {seed} {blur}", lambda c=clip, s=soft: replace(c, frames=torch.from_numpy(s)))
            found.append(extractor.features(read(path)))
        return found

    real = features(1)
    worse = [subject(features(blur), real) for blur in (1, 3, 7, 15)]
    assert all(later > earlier + 1e-6 for earlier, later in pairwise(worse))


def moments_in_common(first: Sequence[float], second: Sequence[float]) -> float | None:
    return matched_share(first, second, tolerance=0.04)


def check_15_av_align_is_a_share(subject: Subject, films: Films) -> None:
    clip = read(films.speaks(4))
    assert clip.waveform is not None
    heard, seen = onsets(clip.waveform), flow_peaks(clip.frames, frames_per_second=clip.frames_per_second)
    assert heard and seen
    crowded = [at + jitter for at in seen for jitter in (-0.01, 0.0, 0.01)]
    assert subject(crowded, seen) == pytest.approx(1 / 3), "a peak matches one onset"
    assert 0 <= subject(heard, seen) <= 1
    assert subject(seen, seen) == 1.0
    assert subject([at + 100 for at in heard], seen) == 0.0


RANKS = """
import importlib, pkgutil, sys
import torch, torch.distributed as dist
import hh_train.metrics
from hh_train.metrics.clip_metric import ClipMetric, Row
from hh_train.metrics.distribution.feature_distance import FeatureDistance
from hh_train.metrics.motion.vbench import VBenchNetworks

NEEDS = {"VBench": {"networks": VBenchNetworks()}}
for module in pkgutil.walk_packages(hh_train.metrics.__path__, "hh_train.metrics."):
    importlib.import_module(module.name)

def classes(kind):
    return [c for s in kind.__subclasses__() for c in (s, *classes(s))]

own, count, shares = int(sys.argv[1]), int(sys.argv[2]), eval(sys.argv[4])
if count > 1:
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}/store", rank=own, world_size=count)
draws = torch.Generator().manual_seed(0)
rows = torch.rand(13, 4, 6, generator=draws).double()
for share in shares:
    for kind in sorted(classes(ClipMetric), key=lambda c: c.__qualname__):
        try:
            metric = kind(**NEEDS.get(kind.__qualname__, {}))
        except ValueError:  # a package that it needs is not installed
            continue
        for i in share[own]:
            if i == 3:
                metric.record_failure(f"clip {i}")
            else:
                values = {n: Row(float(rows[i, 0, j % 6]), 2.0) for j, n in enumerate(metric.names) if i != 5 or j % 2}
                metric.record(f"clip {i}", values, speaker=f"speaker {i // 2}")
        print(kind.__qualname__, {name: tuple(score) for name, score in metric.compute().items()})
    for kind in sorted((c for c in classes(FeatureDistance)), key=lambda c: c.__qualname__):
        metric = kind(dim=6)
        for i in share[own]:
            metric.record_failure("broken") if i == 3 else metric.update(f"clip {i}", rows[i, :3], real=False)
            metric.update(f"clip {i}", rows[i, 1:], real=True)
        print(kind.__qualname__, tuple(metric.compute()))
if count > 1:
    dist.destroy_process_group()
"""
LAYOUTS = {
    "uneven": ([*range(9)], [*range(9, 13)]),
    "an empty rank": ([*range(13)], []),
    "padded with duplicates": ([*range(0, 13, 2)], [*range(1, 13, 2), 0]),
}


@dataclass(frozen=True)
class Together:
    """What metrics say in one process or in two, line by line."""

    folder: Path

    def __call__(self, count: int) -> list[list[str]]:
        shares = list(LAYOUTS.values()) if count == 2 else [([*range(13)],)] * len(LAYOUTS)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", RANKS, str(own), str(count), str(self.folder), repr(shares)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for own in range(count)
        ]
        return [process.communicate(timeout=300)[0].splitlines() for process in processes]


def check_16_two_ranks_score_as_one(subject: Subject, films: Films) -> None:
    (alone,) = subject(1)
    assert len(alone) > 12 * len(LAYOUTS) and len(set(alone)) == len(alone) // len(LAYOUTS)
    assert any("SpeechErrorRate" in line for line in alone) and any("FrechetDistance" in line for line in alone)
    assert subject(2) == [alone, alone]


# ------------------------------------------------------------------------------------------------------- statistics


def compared(first: Tensor, second: Tensor, seed: int) -> tuple[float, float, bool]:
    rows = [{str(i): Row(float(v)) for i, v in enumerate(values)} for values in (first, second)]
    found = paired_difference(*rows, num_resamples=400, seed=seed)
    assert found.low is not None and found.high is not None
    return found.low, found.high, found.is_significant


def check_17_intervals_hold_what_they_promise(subject: Subject, films: Films) -> None:
    generator = torch.Generator().manual_seed(1)
    trials, held, rejected, narrower = 160, 0, 0, 0
    for trial in range(trials):
        shared = torch.randn(40, generator=generator)
        first, second = (shared + 0.4 * torch.randn(40, generator=generator) for _ in range(2))
        low, high, _ = subject(first + 0.3, second, trial)
        held += low <= 0.3 <= high
        rejected += subject(first, second, trial)[2]
        if trial < 20:
            ones = torch.ones(40)
            apart = [ratio_interval(values, ones, num_resamples=400, seed=trial) for values in (first, second)]
            narrower += high - low < 0.8 * math.hypot(*(b - a for a, b in apart))
    assert 0.88 <= held / trials <= 0.985
    assert 0.005 < rejected / trials < 0.1
    assert narrower == 20


def points(outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    by_name = {rating.system: rating.points for rating in rank(outcomes, ("a", "b", "c"), num_resamples=50).ratings}
    return tuple(by_name[name] for name in ("a", "b", "c"))


def check_18_bradley_terry(subject: Subject, films: Films) -> None:
    strengths = {"a": 200.0, "b": 0.0, "c": -200.0}
    draw = random.Random(0)

    def outcome(first: str, second: str, winner: Any) -> Outcome:
        return Outcome(first=first, second=second, winner=winner, prompt=str(draw.randrange(40)), rater="r")

    votes = []
    for _ in range(1500):
        first, second = draw.sample(list(strengths), 2)
        odds = 10 ** ((strengths[first] - strengths[second]) / 400)
        votes.append(outcome(first, second, "first" if draw.random() < odds / (1 + odds) else "second"))
    found = subject(votes)
    assert found == pytest.approx([1200, 1000, 800], abs=45)
    renamed = {"a": "c", "b": "b", "c": "a"}
    swapped = [replace(v, first=renamed[v.first], second=renamed[v.second]) for v in votes]
    assert subject(swapped) == pytest.approx(found[::-1], abs=0.01)
    ties = [outcome(a, b, "tie") for a in "abc" for b in "abc" if a != b]
    assert subject(ties) == pytest.approx([1000, 1000, 1000], abs=0.01)
    one_sided = [outcome("a", "b", "first")] * 50
    best, worst, _ = subject(one_sided)
    assert math.isfinite(best) and math.isfinite(worst) and best > worst + 200


# ------------------------------------------------------------------------------------------------------- bad input


def write_tracks(path: Path, *, seconds: float, sound_seconds: float, rate: int = RATE) -> Path:
    """A gray wall of some seconds with a tone of others."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=rate)
        for _ in range(round(seconds * 25)):
            pixels = np.full((32, 32, 3), 120, np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(picture.encode())
        samples = (0.2 * torch.sin(torch.arange(round(sound_seconds * rate)) * 0.2)).numpy()[None]
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def heard_words(given: Sample) -> float:
    row = measured(SpeechMeasurer(recognizer=Parrot()), given).values["speech_wer"]
    assert isinstance(row, Row)
    return row.numerator / row.denominator


def check_19_broken_sound_is_an_error(subject: Subject, films: Films) -> None:
    def film(name: str, **tracks: Any) -> Sample:
        return sample(write_tracks(films.folder / f"{name}.mp4", seconds=2.0, **tracks), "nine nine", "en")

    whole = film("whole", sound_seconds=2.0)
    assert subject(whole) == 0.0
    slow = film("of 16 kHz, written as 8 kHz", sound_seconds=4.0, rate=8000)
    for broken in (film("truncated", sound_seconds=1.0), slow):
        with pytest.raises(ValueError, match="truncated track, or one written at another sample rate"):
            subject(broken)
    with pytest.raises(ValueError, match="got sound at 24000 Hz"):
        subject(replace(whole, clip=replace(whole.clip, samples_per_second=24_000)))


def lip_error_and_coverage(paths: Sequence[Path]) -> tuple[float, float]:
    measurer = LipMeasurer(reader=LipOracle())
    found = [measured(measurer, sample(path, "one two", "en")).values for path in paths]
    rows = [values["lipread_wer"] for values in found]
    rate = rate_of([(int(row.numerator), int(row.denominator)) for row in rows if isinstance(row, Row)])
    return rate, float(np.mean([values["face_coverage"] for values in found]))


def check_20_a_clip_without_a_face_gains_nothing(subject: Subject, films: Films) -> None:
    faces = [films.speaks(seed) for seed in range(3)]
    faceless = films.says("a wall has no face")
    whole, covered = subject(faces)
    assert whole == 0.0 and covered > 0.9
    assert subject([*faces, faceless]) == pytest.approx((1 / 4, covered * 3 / 4), abs=1e-6)


def check_21_worse_is_worse(subject: Subject, films: Films) -> None:
    text = "the quick brown fox jumps over a lazy dog"
    rates = [rate_of([subject(films.says(text, noise=noise), text, "en")]) for noise in (0.0, 0.3, 0.6, 1.2)]
    assert rates[0] == 0.0 and rates[-1] > 0.5
    assert all(later >= earlier for earlier, later in pairwise(rates))


def check_21_farther_is_farther(subject: Subject, films: Films) -> None:
    found = [abs(subject(films.speaks(5, lead_seconds=lead / 25))) for lead in (0, 1, 2, 4, 7)]
    assert all(later > earlier for earlier, later in pairwise(found))
    assert found[-1] == pytest.approx(7, abs=0.5)


CHECKS: list[tuple[Callable[[Subject, Films], None], Subject | None]] = [
    (check_1_shifts_come_back_at_any_rate, offset),
    (check_2_halves_of_frames_come_back, offset),
    (check_3_swapped_sound_does_not_correlate, correlation),
    (check_4_a_frozen_mouth_is_undefined, offset),
    (check_5_a_mouth_that_moves_in_silence_leaks, leak),
    (check_6_permuted_transcripts, errors),
    (check_7_exact_counts, errors),
    (check_8_one_spelling_for_what_sounds_the_same, normalize),
    (check_9_an_oracle_and_a_parrot, mean_error),
    (check_10_lse_is_that_of_its_protocol, lse),
    (check_11_flicker, flicker),
    (check_12_flow_is_the_speed, flow_and_warp),
    (check_12_jerk_of_a_cubic, jerk_of),
    (check_13_consistency, consistency),
    (check_14_frechet, distance),
    (check_15_av_align_is_a_share, moments_in_common),
    (check_16_two_ranks_score_as_one, None),
    (check_17_intervals_hold_what_they_promise, compared),
    (check_18_bradley_terry, points),
    (check_19_broken_sound_is_an_error, heard_words),
    (check_20_a_clip_without_a_face_gains_nothing, lip_error_and_coverage),
    (check_21_worse_is_worse, errors),
    (check_21_farther_is_farther, offset),
]


@pytest.mark.parametrize(("check", "subject"), CHECKS, ids=[check.__name__ for check, _ in CHECKS])
def test_a_known_answer_that_no_constant_gives(
    check: Callable[[Subject, Films], None], subject: Subject | None, films: Films, tmp_path: Path
) -> None:
    real = Together(tmp_path) if subject is None else subject
    answers: list[Any] = []

    def recorded(*given: Any, **options: Any) -> Any:
        answers.append(real(*given, **options))
        return answers[-1]

    check(recorded, films)
    assert answers
    distinct = list({repr(answer): answer for answer in answers}.values())
    for constant in [*distinct[:MOST_CONSTANTS], *distinct[-MOST_CONSTANTS:], 0.0, 1.0, None]:
        with pytest.raises(FAILURES):
            check(lambda *_, constant=constant, **__: constant, films)


def test_all_checks_are_there() -> None:
    assert {int(check.__name__.split("_")[1]) for check, _ in CHECKS} == set(range(1, 22))
