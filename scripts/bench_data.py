"""How fast latent shards are read, against a bare webdataset loop, and how fast footage becomes shards.

    python scripts/bench_data.py [--only loading remote memory start tokenize] [--rounds 5] [--tiny]

loading   clips and MB per second of the training loader against webdataset over the same shards, in turn in one run.
remote    the same from a web server on this machine: a read per clip, a cold and a warm cache of shards.
memory    the most memory that reading takes, by number of shards, each in a fresh process.
start     seconds to the first batch of an epoch, and to the next one after a resume deep in it.
tokenize  footage to shards on one thread: clips per second, and the shares of its steps.

Ratios are medians with their range. Times of one machine at one moment stand beside them for orientation. `--tiny`
runs every part at toy size: it shows that the code runs.
"""

from __future__ import annotations

import argparse
import functools
import gc
import http.server
import json
import multiprocessing
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import webdataset
from rich.console import Console
from rich.table import Table

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.loading.shard_sets import Reading
from hh_train.data.media import files as media
from hh_train.data.media.files import MediaReader, write_clip
from hh_train.data.shards.format import LATENTS_MEMBER, ShardWriter, TokenizedClip, sample_record, write_null_text
from hh_train.data.shards.manifest import Manifest, Moments, SampleRecord, ShardRecord, TokenizerRecord
from hh_train.runtime.composition import compose_config
from hh_train.runtime.config import instantiate
from hh_train.types import Clip, ClipMetadata, LatentClip, Prompt

PARTS = ("loading", "remote", "memory", "start", "tokenize")
PATCH = (1, 2, 2)
console = Console(width=120)


@dataclass(frozen=True)
class Kind:
    """Clips of one sort: channels, latent frames from and to, rows and columns, tokens of text; and a token budget."""

    name: str
    channels: tuple[int, int, int]
    frames: tuple[int, int]
    picture: tuple[int, int]
    text: tuple[int, int]
    tokens_per_batch: int


LARGE = Kind("15B model, 256p, 1 to 10 s", (48, 64, 3584), (7, 63), (16, 28), (40, 640), 32_768)
SMALL = Kind("quickstart, 64 x 64, 1 s", (24, 40, 64), (5, 7), (8, 8), (20, 60), 1024)
TINY = Kind("toy", (4, 4, 8), (2, 4), (4, 4), (3, 9), 400)


def latents(kind: Kind, key: str, seed: int) -> LatentClip:
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    frames = draw(*kind.frames)
    video, audio, text = (
        torch.randn(shape, generator=generator)
        for shape in (
            (kind.channels[0], frames, *kind.picture),
            (4 * frames - 3, kind.channels[1]),
            (draw(*kind.text), kind.channels[2]),
        )
    )
    return LatentClip(key=key, video=video, audio=audio, text=text)


def write_shards(folder: Path, kind: Kind, *, num_shards: int, clips_per_shard: int) -> Manifest:
    """Shards of random latents; a few clips come again and again under other keys."""
    folder.mkdir(parents=True)
    originals = [latents(kind, "", seed) for seed in range(16)]
    records = []
    for split, count in (("train", num_shards), ("validation", 1)):
        for number in range(count):
            path, samples = folder / f"{split}-{number:06d}.tar", []
            writer = ShardWriter(path)
            for index in range(clips_per_shard if split == "train" else 1):
                original = originals[(number + index) % len(originals)]
                key = f"{split}-{number:05d}-{index:05d}"
                clip = LatentClip(key=key, video=original.video, audio=original.audio, text=original.text)
                metadata = ClipMetadata(key=key, prompt=Prompt(description="A face " * 30))
                samples.append(sample_record(clip, writer.add(TokenizedClip(latents=clip, metadata=metadata))))
            writer.close()
            records.append(shard_record(path.name, split, samples, path.stat().st_size))
    codec = TokenizerRecord(tokenizer_class="none", num_channels=1, fingerprint="0")
    manifest = Manifest(
        settings={},
        frames_per_second=25.0,
        samples_per_second=16_000,
        tokenizers=dict.fromkeys(("video", "audio", "text"), codec),
        shards=tuple(records),
    )
    write_null_text(folder, torch.zeros(kind.text[0], kind.channels[2]))
    manifest.save(folder)
    return manifest


def shard_record(name: str, split: str, samples: Sequence[SampleRecord], num_bytes: int) -> ShardRecord:
    nothing = Moments()
    return ShardRecord(
        name=name, split=split, num_bytes=num_bytes, samples=tuple(samples), dropped=(), video=nothing, audio=nothing
    )


def loader(shards: str | Path, kind: Kind, **arguments: Any) -> LatentDataModule:
    data = LatentDataModule(shards=str(shards), patch=PATCH, tokens_per_batch=kind.tokens_per_batch, **arguments)
    data.setup()
    return data


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        made.add_column(name, justify="left" if index == 0 else "right")
    return made


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f}{unit}  [{min(values):.2f} .. {max(values):.2f}]"


def in_turn(runs: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Clips per second of each; within a round they follow each other. A round before that does not count."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            clips = run()
            if number:
                rates[name].append(clips / (time.perf_counter() - start))
    return rates


# ------------------------------------------------------------------------------------------------------ loading


def bare_bytes(paths: list[str]) -> int:
    """The plainest loop there is: the bytes of every member."""
    dataset = webdataset.WebDataset(paths, shardshuffle=False, nodesplitter=None, workersplitter=None)
    return sum(1 for sample in dataset if sample[LATENTS_MEMBER])


def bare_tensors(paths: list[str]) -> int:
    """The same with latents parsed to tensors, as a training loop would need them; no packing."""
    dataset = webdataset.WebDataset(paths, shardshuffle=False, nodesplitter=None, workersplitter=None)
    count = 0
    for sample in dataset:
        count += bool(safetensors.torch.load(sample[LATENTS_MEMBER]))
    return count


def packed_epoch(data: LatentDataModule, num_batches: int) -> int:
    """An epoch of the training loader: random order, checked, packed."""
    return sum(batch.num_clips for batch in islice(data.train_dataloader(), num_batches))


def bench_loading(tiny: bool, rounds: int) -> None:
    rows = table(
        "Training loader against webdataset over the same shards, in the page cache, one process",
        "clips", "MB a clip", "loader clips/s", "loader MB/s", "to bare bytes", "to bare tensors",
    )  # fmt: skip
    cases = [(TINY, 4, 50)] if tiny else [(LARGE, 8, 24), (SMALL, 8, 800)]
    for kind, num_shards, clips_per_shard in cases:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "shards"
            manifest = write_shards(folder, kind, num_shards=num_shards, clips_per_shard=clips_per_shard)
            paths = [str(folder / shard.name) for shard in manifest.shards_of("train")]
            megabytes = sum(shard.num_bytes for shard in manifest.shards_of("train")) / 1e6
            data = loader(folder, kind)
            num_batches = len(data.plan.epoch(0))
            runs = {
                "bytes": functools.partial(bare_bytes, paths),
                "tensors": functools.partial(bare_tensors, paths),
                "loader": functools.partial(packed_epoch, data, num_batches),
            }
            rates = in_turn(runs, rounds)
            ours = statistics.median(rates["loader"])
            per_clip = megabytes / (num_shards * clips_per_shard)
            ratios = [
                spread([a / b for a, b in zip(rates["loader"], rates[other], strict=True)], "x")
                for other in ("bytes", "tensors")
            ]
            rows.add_row(kind.name, f"{per_clip:.3f}", f"{ours:.0f}", f"{ours * per_clip:.0f}", *ratios)
    console.print(rows)
    console.print(
        "Bare bytes: webdataset's loop with nothing done to a member. Bare tensors: its members parsed.\n"
        "The loader shuffles, parses, checks and packs to the token budget."
    )


# ------------------------------------------------------------------------------------------------------- remote


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Sends the bytes that are asked for, after a delay as of a request to object storage."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    delay_seconds = 0.02

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        time.sleep(self.delay_seconds)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        size = path.stat().st_size
        start, stop = (int(asked[1]), int(asked[2] or size - 1) + 1) if asked else (0, size)
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(stop - start)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a folder, served by a process of its own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(RangeHandler, directory=str(folder)))
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        process.kill()
        process.join()
        server.server_close()


def bench_remote(tiny: bool, rounds: int) -> None:
    kind, num_shards, clips_per_shard = (TINY, 3, 20) if tiny else (LARGE, 4, 24)
    milliseconds = 1000 * RangeHandler.delay_seconds
    rows = table(
        f"From a web server on this machine that waits {milliseconds:.0f} ms before it answers",
        "reading", "clips/s", "to the local disk",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "shards"
        write_shards(folder, kind, num_shards=num_shards, clips_per_shard=clips_per_shard)
        with served(folder) as url:
            local = loader(folder, kind)
            num_batches = len(local.plan.epoch(0))

            def cold() -> int:
                with tempfile.TemporaryDirectory() as cache:
                    return packed_epoch(loader(url, kind, reading=Reading(cache_folder=cache)), num_batches)

            settings = {
                "a clip at a time, 1 thread": Reading(threads=1),
                "a clip at a time, 8 threads": Reading(),
                "warm cache": Reading(cache_folder=f"{temporary}/cache"),
            }
            runs: dict[str, Callable[[], int]] = {"local disk": lambda: packed_epoch(local, num_batches)}
            for name, reading in settings.items():
                runs[name] = functools.partial(packed_epoch, loader(url, kind, reading=reading), num_batches)
            runs["cold cache"] = cold
            rates = in_turn(runs, rounds)
            for name, found in rates.items():
                ratios = [a / b for a, b in zip(found, rates["local disk"], strict=True)]
                rows.add_row(name, f"{statistics.median(found):.0f}", spread(ratios, "x"))
    console.print(rows)


# ------------------------------------------------------------------------------------------------------- memory


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_memory(folder: str, tiny: bool) -> None:
    """Prints what reading an epoch added to the most memory that this process has had, as JSON."""
    kind = TINY if tiny else LARGE
    data = loader(folder, kind)
    for _ in islice(data.train_dataloader(), 2):
        pass
    after_two = peak_bytes()
    clips = packed_epoch(data, len(data.plan.epoch(0)))
    print(json.dumps({"after_two": after_two, "after": peak_bytes(), "clips": clips}))


def bench_memory(tiny: bool, rounds: int) -> None:
    del rounds
    kind, clips_per_shard = (TINY, 10) if tiny else (LARGE, 16)
    rows = table(
        "Most memory of a process that reads an epoch, in MB",
        "shards", "MB on disk", "after two batches", "after the epoch", "clips",
    )  # fmt: skip
    for num_shards in (2, 8) if tiny else (4, 16, 64):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "shards"
            manifest = write_shards(folder, kind, num_shards=num_shards, clips_per_shard=clips_per_shard)
            size = sum(shard.num_bytes for shard in manifest.shards) / 1e6
            command = [sys.executable, __file__, "--memory", str(folder), *(["--tiny"] if tiny else [])]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            rows.add_row(
                str(num_shards), f"{size:.0f}", f"{found['after_two'] / 1e6:.0f}", f"{found['after'] / 1e6:.0f}",
                str(found["clips"]),
            )  # fmt: skip
    console.print(rows)


# -------------------------------------------------------------------------------------------------------- start


def bench_start(tiny: bool, rounds: int) -> None:
    num_shards, clips_per_shard = (4, 50) if tiny else (100, 500)
    rows = table(
        f"Seconds until there is a batch, {num_shards * clips_per_shard} clips in {num_shards} shards",
        "from", "reading the manifest", "first batch", "to the start",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "shards"
        write_shards(folder, TINY, num_shards=num_shards, clips_per_shard=clips_per_shard)
        trained = loader(folder, TINY)
        length = len(trained.plan.epoch(0))
        seconds: dict[float, list[tuple[float, float]]] = {0.0: [], 0.5: [], 0.95: []}
        for _ in range(rounds):
            for share, found in seconds.items():
                place = trained.plan.advanced(trained._start, int(share * length))
                state = {**trained.state_dict(), "segment": place.segment, "batch": place.batch}
                data = None
                gc.collect()  # an earlier manifest costs the next one nothing
                start = time.perf_counter()
                data = loader(folder, TINY)
                data.load_state_dict(state)
                ready = time.perf_counter()
                next(iter(data.train_dataloader()))
                found.append((ready - start, time.perf_counter() - ready))
        for share, found in seconds.items():
            first = [one for _, one in found]
            ratios = [(a + b) / (c + d) for (a, b), (c, d) in zip(found, seconds[0.0], strict=True)]
            rows.add_row(
                f"{100 * share:.0f} % of the epoch", spread([one for one, _ in found]), spread(first),
                spread(ratios, "x"),
            )  # fmt: skip
    console.print(rows)


# ----------------------------------------------------------------------------------------------------- tokenize


class Stopwatch:
    """Seconds by name. What is measured within another measurement is taken off it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._running: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        self._lap()
        self._running.append(name)
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self.running(name):
                return function(*arguments, **keywords)

        return timed

    def _lap(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


@contextmanager
def timed(watch: Stopwatch, name: str, *functions: Callable[..., Any]) -> Iterator[None]:
    """Measures functions wherever modules of hh_train.data call them."""
    found = [
        (module, attribute, value)
        for path, module in list(sys.modules.items())
        if path.startswith("hh_train.data.")
        for attribute, value in list(vars(module).items())
        if any(value is function for function in functions)
    ]
    try:
        for module, attribute, value in found:
            setattr(module, attribute, watch.wrapped(name, value))
        yield
    finally:
        for module, attribute, value in found:
            setattr(module, attribute, value)


def write_footage(folder: Path, count: int, *, height: int, width: int, seconds: int) -> list[Path]:
    """A drifting pattern with noise, and a tone, at 30 frames and 48,000 samples a second."""
    paths = []
    for number in range(count):
        draw = np.random.default_rng(number)
        texture = draw.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        frames = np.stack([np.roll(texture, 2 * frame, axis=1) for frame in range(30 * seconds)])
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(48_000 * seconds) / 48_000)
        clip = Clip(
            frames=torch.from_numpy(frames),
            frames_per_second=30.0,
            waveform=torch.from_numpy(wave.astype(np.float32)),
            samples_per_second=48_000,
        )
        paths.append(folder / f"{number}.mp4")
        write_clip(paths[-1], clip)
    return paths


def bench_tokenize(tiny: bool, rounds: int) -> None:
    rows = table(
        "Footage to shards with the default codecs, one thread",
        "footage", "clips/s", "seconds of footage a second", "decode", "resample", "encode", "write",
    )  # fmt: skip
    height, width, length, count = (48, 64, 1, 2) if tiny else (360, 640, 5, 6)
    config = compose_config("tokenize", [])
    codecs = {name: instantiate(config[name]) for name in ("video", "audio", "text")}
    reader = MediaReader(size=tuple(config.size), max_frames=25 * length - 4)
    with tempfile.TemporaryDirectory() as temporary:
        paths = write_footage(Path(temporary), count, height=height, width=width, seconds=length)
        clips = [reader.read(path) for path in paths]
        for name, material in (("video", [c.frames for c in clips]), ("audio", [c.waveform for c in clips])):
            if not codecs[name].is_fitted:
                codecs[name].fit(material)
        watch = Stopwatch()
        with timed(watch, "resample", media.resample, media.resize_and_crop):
            for _ in range(rounds):
                _tokenize_once(paths, reader, codecs, watch, Path(temporary))
    total = sum(watch.seconds.values())
    per_second = rounds * count / total
    shares = [f"{100 * watch.seconds[name] / total:.1f} %" for name in ("decode", "resample", "encode", "write")]
    rows.add_row(f"{length} s of {width} x {height}", f"{per_second:.2f}", f"{length * per_second:.1f}", *shares)
    console.print(rows)
    console.print("Resample: the picture to its size and the sound to its rate; sound decoding mixes channels as well.")


def _tokenize_once(
    paths: Sequence[Path], reader: MediaReader, codecs: dict[str, Any], watch: Stopwatch, folder: Path
) -> None:
    writer = ShardWriter(folder / "shard.tar")
    for path in paths:
        with watch.running("decode"):
            clip = reader.read(path)
        with watch.running("encode"):
            encoded = LatentClip(
                key=path.stem,
                video=codecs["video"].encode(clip.frames),
                audio=codecs["audio"].encode(clip.waveform),
                text=codecs["text"].encode("A face that speaks"),
            )
        with watch.running("write"):
            metadata = ClipMetadata(key=path.stem, prompt=Prompt(description="A face that speaks"))
            single = TokenizedClip(latents=encoded, metadata=metadata)
            alone = ShardWriter(folder / "pending.tar")
            alone.add(single)
            alone.close()
            writer.add(single)
    with watch.running("write"):
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        return measure_memory(arguments.memory, arguments.tiny)
    console.print(f"{torch.get_num_threads()} threads of torch")
    for part in arguments.only:
        globals()[f"bench_{part}"](arguments.tiny, arguments.rounds)
    return None


if __name__ == "__main__":
    main()
