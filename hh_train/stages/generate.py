"""Generate clips with sound, for the held-out prompts of a shards folder or for a prompt of one's own."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from hh_train.data.footage.clip_folder import is_written, write_described_clip
from hh_train.data.shards.format import read_latent_clips, read_manifest
from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import Solver
from hh_train.inference.codecs import tokenizers_of
from hh_train.inference.generate import ClipGenerator, GeneratedClip
from hh_train.model.lora import AdapterChoice, as_records, load_with_adapters
from hh_train.model.transformer import ComputeDtype
from hh_train.training.checkpoints import Provenance, checkpoint_folder
from hh_train.types import ClipMetadata, LatentClip, Prompt

log = logging.getLogger(__name__)

Adapters = Sequence[Mapping[str, object]]
"""As the configuration names them."""


def run(
    *,
    checkpoint: str,
    shards: str,
    output: str,
    solver: Solver,
    guidance: Guidance,
    adapters: Sequence[AdapterChoice] = (),
    split: str = "test",
    max_clips: int | None = None,
    prompt_file: str | None = None,
    num_frames: int = 37,
    size: tuple[int, int] = (64, 64),
    clips_per_batch: int = 8,
    compute_dtype: ComputeDtype = "bfloat16",
    device: str = "cpu",
    seed: int = 0,
) -> Path:
    """Writes `output/KEY.{mp4,txt,json}` and returns `output`. Clips that are there already are not made again.

    Without `prompt_file`, every clip of `split` gives its prompt and its size. With it, one clip of `num_frames` and
    `size` (height, width) is made of the prompt in that text file. `adapters` are added to the checkpoint's weights.

    Raises:
        ValueError: the checkpoint was trained on latents of other codecs, the prompt has a malformed dialogue line, an
            adapter does not fit, or `output` holds clips that were made with other adapters.
    """
    manifest = read_manifest(shards)
    checkpoint = str(checkpoint_folder(checkpoint))
    provenance = Provenance.read(checkpoint)
    if provenance is not None:
        manifest.require_compatible(provenance.tokenizers, owner=f"the checkpoint {checkpoint}")
    generator = ClipGenerator(
        model=load_with_adapters(checkpoint, adapters, compute_dtype=compute_dtype, device=device).eval(),
        solver=solver,
        guidance=guidance,
        tokenizers=tokenizers_of(shards),
        frames_per_second=manifest.frames_per_second,
    )
    if prompt_file is None:
        wanted = [
            (_emptied(clip), metadata) for clip, metadata in read_latent_clips(shards, split, max_clips=max_clips)
        ]
    else:
        prompt = Prompt.parse(Path(prompt_file).read_text(encoding="utf-8"))
        words = " ".join(line.line for line in prompt.dialogue) or None
        metadata = ClipMetadata(key=Path(prompt_file).stem, prompt=prompt, transcript=words)
        wanted = [(generator.request(metadata.key, prompt.compose(), num_frames=num_frames, size=size), metadata)]
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [pair for pair in wanted if not is_written(folder, pair[1].key)]
    named = as_records(adapters)
    _require_made_with(named, folder, {metadata.key for _, metadata in wanted})
    log.info("%d clips to generate, %d there already, in %s", len(missing), len(wanted) - len(missing), folder)
    _generate(generator, missing, folder, clips_per_batch=clips_per_batch, seed=seed, adapters=named)
    return folder


def _generate(
    generator: ClipGenerator,
    wanted: Sequence[tuple[LatentClip, ClipMetadata]],
    folder: Path,
    *,
    clips_per_batch: int,
    seed: int,
    adapters: Adapters,
) -> None:
    num_batches = -(-len(wanted) // clips_per_batch)
    with Progress(transient=True) as progress:
        bar = progress.add_task("generating", total=num_batches * generator.solver.num_steps)
        for start in range(0, len(wanted), clips_per_batch):
            batch = wanted[start : start + clips_per_batch]
            made = generator.generate([clip for clip, _ in batch], seed=seed, on_step=lambda: progress.advance(bar))
            for clip, (_, metadata) in zip(made, batch, strict=True):
                write_generated(folder, clip, metadata, generator=generator, seed=seed, adapters=adapters)


def _require_made_with(adapters: Adapters, folder: Path, keys: Set[str]) -> None:
    """Raises ValueError when one of these clips is there and was made with other adapters."""
    for key in sorted(keys):
        if not is_written(folder, key):
            continue
        record = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        before = record.get("generation", {}).get("adapters", [])
        if before != adapters:
            raise ValueError(
                f"{folder} holds clips that were made with the adapters {before or 'none'}, and now they are "
                f"{adapters or 'none'}: give another output, or remove those clips"
            )


def write_generated(
    folder: Path,
    generated: GeneratedClip,
    metadata: ClipMetadata,
    *,
    generator: ClipGenerator,
    seed: int,
    adapters: Adapters = (),
) -> None:
    """Writes the clip, its prompt and its record; the record last, so that it stands for the whole."""
    record = {
        "generation": {
            "seconds": generated.seconds,
            "num_function_evaluations": generated.num_evaluations,
            "sampler": repr(generator.solver),
            "guidance": repr(generator.guidance),
            "seed": seed,
            "adapters": list(adapters),
        },
        "latent_statistics": {"video": _statistics(generated.video), "audio": _statistics(generated.audio)},
    }
    write_described_clip(folder, generated.clip, metadata, record=record)


def _statistics(latent: Tensor | None) -> dict[str, float] | None:
    return None if latent is None else {"mean": float(latent.mean()), "std": float(latent.std())}


def _emptied(clip: LatentClip) -> LatentClip:
    """The same sizes and text without the latents: nothing of the real clip may leak into what is scored."""
    return replace(
        clip,
        video=None if clip.video is None else torch.zeros_like(clip.video),
        audio=None if clip.audio is None else torch.zeros_like(clip.audio),
    )
