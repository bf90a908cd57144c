"""How well the weight-free likeness tells people of footage apart: same person against others, by face and by voice.

    python scripts/validate_likeness.py runs/default/footage/test --shards runs/default/shards

Every other clip of each speaker is a reference, the rest are measured: as they are, and with `--shards` also after a
round trip through the codecs of the latents, as generated clips have been through their decoders.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import rankdata

from hh_train.data.footage.files import find_footage, read_metadata
from hh_train.inference.codecs import tokenizers_of
from hh_train.metrics.comparison.bootstrap import NUM_RESAMPLES
from hh_train.metrics.likeness.embedders import Embedder, FaceLayout, VoiceProfile
from hh_train.metrics.likeness.people import enrol
from hh_train.metrics.measurer import Sample
from hh_train.stages.measuring import clip_reader
from hh_train.types import Clip

Embedded = tuple[str, torch.Tensor]
"""Who it is, and the vector."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 where the footage allows none."""
    parser = argparse.ArgumentParser(description="Tell people of footage apart by face and voice.")
    parser.add_argument("footage", help="folder of clips with `speaker` in the json beside each")
    parser.add_argument("--shards", help="folder of latent shards, whose codecs the clips are sent through")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        through = codecs(Path(options.shards)) if options.shards else None
        console.print(validation_table(Path(options.footage), through))
    except ValueError as error:
        print(f"validate_likeness.py: {error}", file=sys.stderr)
        return 1
    return 0


def codecs(shards: Path) -> Callable[[Clip], Clip]:
    """Picture and sound to latents and back."""
    found = tokenizers_of(shards)
    video, audio = found.video, found.audio

    def through(clip: Clip) -> Clip:
        assert clip.waveform is not None
        return replace(
            clip, frames=video.decode(video.encode(clip.frames)), waveform=audio.decode(audio.encode(clip.waveform))
        )

    return through


def validation_table(folder: Path, through: Callable[[Clip], Clip] | None) -> Table:
    """AUC over all pairs of clip and person, and how often the own person is the nearest."""
    table = Table(title=f"likeness in {folder}, 95 % intervals over speakers", title_justify="left")
    for column in ("", "clips", "people", "measured", "left out", "AUC", "own person nearest"):
        table.add_column(column, justify="left" if column in ("", "clips") else "right")
    embedders: Mapping[str, Embedder] = {"face": FaceLayout(), "voice": VoiceProfile()}
    references, probes, decoded = _embedded(folder, embedders, through)
    for kind in embedders:
        by_person: dict[str, list[torch.Tensor]] = {}
        for person, vector in references[kind]:
            by_person.setdefault(person, []).append(vector)
        if len(by_person) < 2:
            raise ValueError(f"{kind}: {len(by_person)} people of {folder} have clips for it; wanted two")
        people = enrol({person: torch.stack(vectors) for person, vectors in by_person.items()})
        for name, tried in (("real", probes), ("through the codecs", decoded)):
            found = [(person, vector) for person, vector in tried[kind] if person in people.clips]
            if not found:
                continue
            names = np.array(list(people.clips))
            likeness = np.array([[float(people.likeness(vector, other)) for other in names] for _, vector in found])
            is_own = np.array([names == person for person, _ in found])
            left_out = len(tried["all"]) - len(found)
            table.add_row(kind, name, str(len(names)), str(len(found)), str(left_out), *_scores(likeness, is_own))
    return table


def _embedded(
    folder: Path, embedders: Mapping[str, Embedder], through: Callable[[Clip], Clip] | None
) -> tuple[dict[str, list[Embedded]], dict[str, list[Embedded]], dict[str, list[Embedded]]]:
    """References, real probes and decoded probes, by embedder; under `all` every clip that was tried."""
    reader = clip_reader()
    seen: dict[str, int] = {}
    groups: tuple[dict[str, list[Embedded]], ...] = tuple({"all": [], **{k: [] for k in embedders}} for _ in range(3))
    for file in track(find_footage(folder, held_out_share=0.0), description="embed"):
        person = read_metadata(file).speaker
        if person is None:
            raise ValueError(f"{file.path} names no speaker; wanted `speaker` in the json beside it")
        clip = reader.read(file.path)
        seen[person] = seen.get(person, -1) + 1
        variants = [(groups[0], clip)] if seen[person] % 2 == 0 else [(groups[1], clip)]
        if seen[person] % 2 and through is not None:
            variants.append((groups[2], through(clip)))
        for group, variant in variants:
            sample = Sample(key=file.key, clip=variant, transcript=None, language=None)
            group["all"].append((person, torch.zeros(0)))
            for kind, embedder in embedders.items():
                try:
                    group[kind].append((person, embedder.embed(sample)))
                except ValueError:
                    continue
    return groups[0], groups[1], groups[2]


def _scores(likeness: NDArray[np.float64], is_own: NDArray[np.bool_]) -> tuple[str, str]:
    """AUC and rank 1 with intervals, of likeness [clips, people]."""
    speakers = is_own.argmax(axis=1)
    random = np.random.default_rng(0)
    rows_of = {speaker: np.flatnonzero(speakers == speaker) for speaker in np.unique(speakers)}
    draws = [
        np.concatenate([rows_of[s] for s in random.choice(list(rows_of), len(rows_of))]) for _ in range(NUM_RESAMPLES)
    ]
    is_nearest = likeness.argmax(axis=1) == speakers
    areas = [_area(likeness[rows], is_own[rows]) for rows in draws]
    shares = [float(is_nearest[rows].mean()) for rows in draws]
    low, high = np.percentile(areas, [2.5, 97.5])
    least, most = np.percentile(shares, [2.5, 97.5])
    area = f"{_area(likeness, is_own):.3f} ({low:.3f} to {high:.3f})"
    return area, f"{is_nearest.mean():.1%} ({least:.1%} to {most:.1%})"


def _area(likeness: NDArray[np.float64], is_own: NDArray[np.bool_]) -> float:
    """Under the ROC curve: how often a pair of one person is more alike than a pair of two."""
    ranks, own = rankdata(likeness), is_own.ravel()
    count = int(own.sum())
    return float((ranks.ravel()[own].sum() - count * (count + 1) / 2) / (count * (own.size - count)))


if __name__ == "__main__":
    sys.exit(main())
