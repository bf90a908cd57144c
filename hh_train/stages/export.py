"""Write an inference bundle, and verify it in a fresh process."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from hh_train.data.shards.format import read_manifest
from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import RenoiseSolver, UniPCSolver
from hh_train.inference.bundle import Geometry, verify_in_fresh_process, write_bundle
from hh_train.inference.codecs import tokenizers_of
from hh_train.inference.generate import ClipGenerator
from hh_train.model.checkpoint import load_model
from hh_train.model.transformer import ComputeDtype
from hh_train.training.checkpoints import Provenance

log = logging.getLogger(__name__)


def run(
    *,
    checkpoint: str,
    shards: str,
    output: str,
    solver: RenoiseSolver | UniPCSolver,
    guidance: Guidance,
    system: str,
    results: str | None = None,
    prompt: str,
    num_frames: int,
    size: tuple[int, int],
    compute_dtype: ComputeDtype = "bfloat16",
    bfloat16_products: bool = False,
    seed: int = 0,
) -> Path:
    """Writes the bundle folder `output` and returns it.

    Args:
        checkpoint: checkpoint folder of the model to ship.
        shards: folder whose codecs go along.
        solver, guidance: the sampler contract.
        results: results.json of an evaluation, whose scores of `system` go into the model card; None leaves them out.
        prompt, num_frames, size: of the clip that a fresh process must reproduce bit for bit.

    Raises ValueError when the checkpoint does not belong to the shards, or the bundle does not reproduce the clip.
    """
    manifest = read_manifest(shards)
    provenance = Provenance.read(checkpoint)
    if provenance is not None:
        manifest.require_compatible(provenance.tokenizers, owner=f"the checkpoint {checkpoint}")
    generator = ClipGenerator(
        model=load_model(checkpoint, compute_dtype=compute_dtype).eval(),
        solver=solver,
        guidance=guidance,
        tokenizers=tokenizers_of(shards),
        frames_per_second=manifest.frames_per_second,
    )
    bundle = write_bundle(
        Path(output),
        generator,
        geometry=Geometry(num_frames=num_frames, size=size),
        prompt=prompt,
        seed=seed,
        bfloat16_products=bfloat16_products,
        scores=_scores(results, system),
    )
    verify_in_fresh_process(bundle)
    log.info("%s reproduces its reference clip bit for bit in a fresh process", bundle)
    return bundle


def _scores(results: str | None, system: str) -> dict[str, dict[str, Any]] | None:
    """The system's scores by measure in the results of an evaluation. Raises ValueError when it was not evaluated."""
    if results is None:
        return None
    file = Path(results)
    if not file.is_file():
        raise ValueError(f"{file} does not exist: evaluate first, or export without scores (results=null)")
    systems = json.loads(file.read_text(encoding="utf-8"))["systems"]
    if system not in systems:
        raise ValueError(f"{file} has no system {system!r}, but {', '.join(systems)}")
    scores: dict[str, dict[str, Any]] = systems[system]["scores"]
    return {name: score for name, score in scores.items() if score["mean"] is not None}
