"""The README of an inference bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hh_train.model.config import ModelConfig

_CARD = """\
# {name}

A single-stream audio-video transformer, exported by hh_train {code_version}.

| | |
|---|---|
| layers | {layers}, of which {num_mm} with weights per modality |
| hidden size | {hidden} |
| sampler | {kind}, {num_steps} steps, {passes} |
| noise levels | {levels} |
| pictures | {fps:g} frames a second; reference clip {num_frames} frames of {height}x{width} |
| matrix products | {dtype} |
| adapters in the weights | {adapters} |

## Use

    from hh_train.inference.bundle import Bundle
    from hh_train.data.media.files import write_clip

    generated = Bundle.load("{name}").generate(prompt)
    write_clip("clip.mp4", generated.clip)

The prompt has the structure of this bundle's reference prompt:

{prompt}

## Scores
{scores}

## Check

`python -m hh_train.inference.bundle {name}` generates the reference clip and prints its SHA-256, which was

    {sha256}

on the machine that wrote the bundle (another processor or number of threads may round differently).
"""


def model_card(fields: Mapping[str, Any], config: ModelConfig) -> str:
    """Markdown from the fields of bundle.json and the model's config."""
    sampler, reference = fields["sampler"], fields["reference"]
    return _CARD.format(
        name="bundle",
        code_version=fields["code_version"],
        layers=config.num_layers,
        num_mm=len(config.mm_layers),
        hidden=config.hidden_size,
        kind=sampler["kind"],
        num_steps=len(sampler["noise_levels"]) - 1,
        passes="no guidance" if sampler["is_guidance_free"] else f"guidance {dict(sampler['guidance'])}",
        levels=", ".join(f"{level:.4f}" for level in sampler["noise_levels"]),
        fps=fields["frames_per_second"],
        num_frames=reference["num_frames"],
        height=reference["size"][0],
        width=reference["size"][1],
        dtype=fields["compute_dtype"],
        adapters=", ".join(f"{one['path']} (weight {one.get('weight', 1.0)})" for one in fields["adapters"]) or "none",
        prompt="\n".join("    " + line for line in reference["prompt"].splitlines()),
        scores=_scores(fields["scores"]),
        sha256=reference["sha256"],
    )


def _scores(scores: Mapping[str, Any] | None) -> str:
    if not scores:
        return "Not evaluated."
    rows = ["| measure | mean | 95 % interval | clips |", "|---|---|---|---|"]
    for name, score in scores.items():
        if score["mean"] is None:
            continue
        interval = "–" if score["low"] is None else f"{score['low']:.4g} to {score['high']:.4g}"
        rows.append(f"| {name} | {score['mean']:.4g} | {interval} | {score['num_clips']} |")
    return "\n".join(rows)
