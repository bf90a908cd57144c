"""How fast clips are measured: what each measure costs, what decoding once for all saves, what more processes gain.

    python scripts/bench_eval.py FOLDER [--clips 24] [--rounds 3] [--set measures.lips=null ...] [--processes 1 2]
    python scripts/bench_eval.py --tiny

measures   clips a second by measurer on one thread, decoding and the search for the face apart; first clip left out.
together   all measures on a clip that is decoded once, against each on a decoding of its own: the ratio.
processes  a whole evaluation by several processes, and again when there is nothing new.

FOLDER holds clips as `hh-train generate` writes them, or footage; the measures are those of `hh-train evaluate`,
changed by `--set`. Shares and ratios are medians with their range. Times of one machine at one moment stand beside them
for orientation. `--tiny` draws a few clips and takes the measures that need no trained network.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from hh_train.data.footage.files import FootageFile, find_footage, read_metadata
from hh_train.data.media.files import write_clip
from hh_train.metrics.faces.track import FaceFinder
from hh_train.metrics.measurement import measure_part
from hh_train.metrics.measurer import Measurer, Sample
from hh_train.runtime.composition import compose_config
from hh_train.runtime.config import instantiate
from hh_train.stages.measuring import clip_reader
from hh_train.types import Clip

TRAINED = ("measures.speech=null",)
console = Console(width=110)


@dataclass
class Seconds:
    """Of one clip at a time: decoding, finding the face, and each measurer."""

    parts: dict[str, list[float]] = field(default_factory=dict)

    def take(self, part: str, function: Callable[[], object]) -> None:
        start = time.perf_counter()
        function()
        self.parts.setdefault(part, []).append(time.perf_counter() - start)


def measurers_of(overrides: Sequence[str]) -> tuple[dict[str, Measurer], FaceFinder]:
    """Those of the evaluation's configuration, and what finds faces in it."""
    config = compose_config("evaluate", overrides)
    measurers = {str(name): instantiate(node) for name, node in config.measures.items() if node is not None}
    return measurers, instantiate(config.faces)


def sample_of(file: FootageFile, faces: FaceFinder) -> Sample:
    known = read_metadata(file)
    clip = clip_reader().read(file.path)
    fields = {"description": known.prompt.description}
    return Sample(
        key=file.key,
        clip=clip,
        transcript=known.transcript,
        language=known.language,
        fields=fields,
        faces=faces,
    )


def find_face(sample: Sample) -> None:
    with suppress(ValueError):  # there is none: the search has taken its time
        _ = sample.mouth


def spread(values: Sequence[float], unit: str = "") -> str:
    return f"{statistics.median(values):.2f}{unit}  [{min(values):.2f} .. {max(values):.2f}]"


def bench_measures(
    files: Sequence[FootageFile], measurers: Mapping[str, Measurer], faces: FaceFinder, rounds: int
) -> None:
    """The first clip warms up caches and does not count."""
    totals: dict[str, list[float]] = {}
    for _ in range(rounds):
        seconds = Seconds()
        for i, file in enumerate([files[0], *files]):
            taken = seconds if i else Seconds()
            found: list[Sample] = []
            taken.take("decode", lambda file=file, found=found: found.append(sample_of(file, faces)))
            sample = found[0]
            taken.take("find the face", lambda sample=sample: find_face(sample))
            for name, measurer in measurers.items():
                taken.take(name, lambda m=measurer, sample=sample: measure_part(m, sample))
        for name, values in seconds.parts.items():
            totals.setdefault(name, []).append(sum(values) / len(values))
    table = Table(title="Measures, one after the other on each clip, one thread", title_justify="left")
    for column in ("part", "ms a clip", "clips/s", "share of all"):
        table.add_column(column, justify="left" if column == "part" else "right")
    whole = [sum(parts) for parts in zip(*totals.values(), strict=True)]
    for name, values in totals.items():
        shares = [value / total * 100 for value, total in zip(values, whole, strict=True)]
        milliseconds = statistics.median(values) * 1000
        table.add_row(name, f"{milliseconds:.1f}", f"{1000 / max(milliseconds, 1e-3):.1f}", spread(shares, " %"))
    table.add_row("all", f"{statistics.median(whole) * 1000:.1f}", f"{1 / statistics.median(whole):.1f}", "")
    console.print(table)


def bench_together(
    files: Sequence[FootageFile], measurers: Mapping[str, Measurer], faces: FaceFinder, rounds: int
) -> None:
    def together() -> None:
        for file in files:
            sample = sample_of(file, faces)
            for measurer in measurers.values():
                measure_part(measurer, sample)

    def apart() -> None:
        for file in files:
            for measurer in measurers.values():
                measure_part(measurer, sample_of(file, faces))

    ratios, rates = [], []
    for _ in range(rounds):
        seconds = Seconds()
        seconds.take("together", together)
        seconds.take("apart", apart)
        ratios.append(seconds.parts["apart"][0] / seconds.parts["together"][0])
        rates.append(len(files) / seconds.parts["together"][0])
    table = Table(title="Each clip decoded, and its face found, once for all measures", title_justify="left")
    for column in ("clips", "clips/s", "gain over a decoding for each measurer"):
        table.add_column(column, justify="right")
    table.add_row(str(len(files)), f"{statistics.median(rates):.1f}", spread(ratios, "x"))
    console.print(table)


def evaluation_command(folder: Path, clips: int, overrides: Sequence[str], output: Path) -> list[str]:
    one_system = [f"systems.teacher={folder}", "~systems.student", "~systems.teacher_8_steps"]
    own = [f"reference={folder}", f"output={output}", f"max_clips={clips}", "shards=null"]
    return ["evaluate", *one_system, *own, *overrides]


def launch(arguments: Sequence[str], processes: int) -> float:
    """Seconds of the processes together, from the first one's start to the last one's end."""
    command = [sys.executable, "-m", "hh_train.cli", *arguments]
    start = time.perf_counter()
    running = []
    for number in range(processes):
        environment = os.environ | {"RANK": str(number), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    for process in running:
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(errors.decode(errors="replace"))
    return time.perf_counter() - start


def bench_processes(folder: Path, clips: int, overrides: Sequence[str], processes: Sequence[int]) -> None:
    table = Table(title=f"hh-train evaluate on {clips} clips and as many real ones", title_justify="left")
    for column in ("processes", "s", "s when nothing is new", "gain over the first row"):
        table.add_column(column, justify="right")
    first: float | None = None
    for count in processes:
        with tempfile.TemporaryDirectory() as output:
            arguments = evaluation_command(folder, clips, overrides, Path(output) / "evaluation")
            fresh, again = launch(arguments, count), launch(arguments, count)
        first = first or fresh
        table.add_row(str(count), f"{fresh:.1f}", f"{again:.1f}", f"{first / fresh:.2f}x")
    console.print(table)


def draw_clips(folder: Path, count: int) -> None:
    """Gray heads whose mouths open with their sound."""
    for number in range(count):
        y, x = torch.meshgrid(torch.arange(64) / 64, torch.arange(64) / 64, indexing="ij")
        opening = torch.sin(torch.arange(25) * (0.5 + 0.05 * number)).clamp(min=0)
        head = ((x - 0.5) / 0.3) ** 2 + ((y - 0.5) / 0.4) ** 2 < 1
        mouths = ((x - 0.5) / 0.12) ** 2 + ((y - 0.7) / (0.02 + 0.07 * opening[:, None, None])) ** 2 < 1
        gray = torch.where(mouths, 40, torch.where(head, 190, 90)).to(torch.uint8)
        loud = opening.repeat_interleave(640) * 0.2 * torch.sin(torch.arange(25 * 640) * 0.1)
        clip = Clip(
            frames=gray[..., None].expand(-1, -1, -1, 3).contiguous(),
            frames_per_second=25.0,
            waveform=loud,
            samples_per_second=16_000,
        )
        write_clip(folder / f"clip-{number}.mp4", clip)
        (folder / f"clip-{number}.txt").write_text("A gray head.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides")
    parser.add_argument("--processes", nargs="*", type=int, default=[])
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if given.folder is None and not given.tiny:
        parser.error("name a folder of clips, or give --tiny")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as drawn:
        folder, overrides, clips = given.folder, [*given.overrides], given.clips
        if folder is None:
            folder, clips, overrides = Path(drawn), 3, [*TRAINED, *overrides]
            draw_clips(folder, clips)
        files = list(find_footage(folder, held_out_share=0.0))[:clips]
        measurers, faces = measurers_of(overrides)
        bench_measures(files, measurers, faces, given.rounds)
        bench_together(files, measurers, faces, given.rounds)
        if given.processes:
            bench_processes(folder.resolve(), len(files), overrides, given.processes)


if __name__ == "__main__":
    main()
