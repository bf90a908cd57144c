"""Write an inference bundle, and verify it in a fresh process; or weights alone, for other tools."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hh_train.data.shards.format import read_manifest
from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import RenoiseSolver, UniPCSolver
from hh_train.inference.bundle import BUNDLE_FILE, Geometry, verify_in_fresh_process, write_bundle
from hh_train.inference.codecs import tokenizers_of
from hh_train.inference.generate import ClipGenerator
from hh_train.model.checkpoint import save_model
from hh_train.model.lora import AdapterChoice, as_records, convert_adapter, load_with_adapters
from hh_train.model.transformer import ComputeDtype
from hh_train.training.checkpoints import Provenance, checkpoint_folder

Format = Literal["bundle", "checkpoint", "comfyui", "kohya", "peft"]
ADAPTERS_FILE = "adapters.json"
RECORDS = ("provenance.json", "training_config.yaml")
"""Of a checkpoint folder, that stay true of its weights with adapters added."""

log = logging.getLogger(__name__)


def run(
    *,
    checkpoint: str,
    shards: str,
    output: str,
    solver: RenoiseSolver | UniPCSolver,
    guidance: Guidance,
    system: str,
    format: Format = "bundle",
    adapters: Sequence[AdapterChoice] = (),
    results: str | None = None,
    prompt: str,
    num_frames: int,
    size: tuple[int, int],
    compute_dtype: ComputeDtype = "bfloat16",
    bfloat16_products: bool = False,
    seed: int = 0,
) -> Path:
    """Writes the bundle folder `output` and returns it; or, in another format, what it puts into `output`.

    Args:
        checkpoint: checkpoint folder of the model to ship.
        shards: folder whose codecs go along.
        solver, guidance: the sampler contract.
        format: bundle; checkpoint, the weights in the released layout; or a key style, in which an adapter is written
            anew. What follows is of bundles, but for bfloat16_products.
        adapters: added to the checkpoint's weights; in a key style the one to write.
        results: results.json of an evaluation, whose scores of `system` go into the model card; None leaves them out,
            and so do adapters, without which those clips were made.
        prompt, num_frames, size: of the clip that a fresh process must reproduce bit for bit.
        bfloat16_products: stores weights of matrix products, or of an adapter, in bf16.

    Raises ValueError when the checkpoint does not belong to the shards, an adapter does not fit, or the bundle does not
    reproduce the clip.
    """
    checkpoint = str(checkpoint_folder(checkpoint))
    if format != "bundle":
        return _write_weights(format, checkpoint, adapters, Path(output), bfloat16=bfloat16_products)
    manifest = read_manifest(shards)
    provenance = Provenance.read(checkpoint)
    if provenance is not None:
        manifest.require_compatible(provenance.tokenizers, owner=f"the checkpoint {checkpoint}")
    generator = ClipGenerator(
        model=load_with_adapters(checkpoint, adapters, compute_dtype=compute_dtype).eval(),
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
        scores=None if adapters else _scores(results, system),
        adapters=as_records(adapters),
    )
    verify_in_fresh_process(bundle)
    if adapters and results is not None:
        log.info("the bundle has no scores: those in %s are of weights without these adapters", results)
    log.info("%s reproduces its reference clip bit for bit in a fresh process", bundle)
    return bundle


def _write_weights(
    format: Literal["checkpoint", "comfyui", "kohya", "peft"],
    checkpoint: str,
    adapters: Sequence[AdapterChoice],
    folder: Path,
    *,
    bfloat16: bool,
) -> Path:
    if (folder / BUNDLE_FILE).is_file():
        raise ValueError(f"{folder} holds a bundle, which format={format} would damage: give another output")
    if format == "checkpoint":
        target = folder / "model"
        if target.is_dir() and not (target / ADAPTERS_FILE).is_file():
            raise ValueError(f"{target} is there already, and no export: give another output")
        records = {name: (Path(checkpoint) / name) for name in RECORDS}
        texts = {name: file.read_text(encoding="utf-8") for name, file in records.items() if file.is_file()}
        texts[ADAPTERS_FILE] = json.dumps(as_records(adapters), indent=2) + "\n"
        model = load_with_adapters(checkpoint, adapters, parameter_dtype="as_stored")
        state = model.state_dict()
        written = save_model(state, model.config, target, bfloat16_products=bfloat16, records=texts)
    elif len(adapters) != 1:
        raise ValueError(
            f"got {len(adapters)} adapters for format={format}, wanted the one to write: adapters=[{{path: FILE}}]. "
            "Several are put together in a checkpoint: format=checkpoint"
        )
    else:
        path = folder / ("peft" if format == "peft" else f"{format}.safetensors")
        written = convert_adapter(adapters[0], checkpoint, path, style=format, bfloat16=bfloat16)
    log.info("wrote %s", written)
    return written


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
