"""Inference bundles: weights in the released layout, codecs, the sampler contract and a model card in one folder.

A bundle is loaded with accelerate on empty weights, and carries the digest of a reference clip that it must reproduce.
`python -m hh_train.inference.bundle FOLDER` loads a bundle, generates its reference clip and prints the clip's digest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights, load_checkpoint_in_model

from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import RenoiseSolver, Solver, UniPCSolver
from hh_train.inference.generate import ClipGenerator, GeneratedClip
from hh_train.inference.model_card import model_card
from hh_train.model.checkpoint import read_config, save_model
from hh_train.model.transformer import ComputeDtype, SandwichTransformer
from hh_train.runtime.version import code_version
from hh_train.tokenizers import load_tokenizers
from hh_train.types import Clip

log = logging.getLogger(__name__)

BUNDLE_FILE = "bundle.json"
FORMAT_VERSION = 1
SOLVERS: dict[str, type[RenoiseSolver] | type[UniPCSolver]] = {"renoise": RenoiseSolver, "unipc": UniPCSolver}


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Size of a clip: frames, and (height, width) in pixels."""

    num_frames: int
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SamplerContract:
    """How the bundle's model must be sampled."""

    kind: Literal["renoise", "unipc"]
    """`renoise` adds fresh noise after every clean prediction; `unipc` is a deterministic multistep solver."""
    settings: Mapping[str, Any]
    noise_levels: Sequence[float]
    guidance: Mapping[str, Any]
    is_guidance_free: bool

    @classmethod
    def of(cls, solver: Solver, guidance: Guidance) -> SamplerContract:
        kinds: dict[type, Literal["renoise", "unipc"]] = {RenoiseSolver: "renoise", UniPCSolver: "unipc"}
        if not isinstance(solver, RenoiseSolver | UniPCSolver) or type(solver) not in kinds:
            raise ValueError(f"a bundle's sampler is one of {sorted(SOLVERS)}, got {type(solver).__name__}")
        return cls(
            kind=kinds[type(solver)],
            settings=asdict(solver),
            noise_levels=solver.noise_levels,
            guidance=asdict(guidance),
            is_guidance_free=guidance.is_none,
        )

    def build(self) -> tuple[Solver, Guidance]:
        return SOLVERS[self.kind](**self.settings), Guidance(**self.guidance)


class Bundle:
    """A loaded bundle.

    >>> bundle = Bundle.load("runs/quickstart/bundle")          # doctest: +SKIP
    >>> clip = bundle.generate("A woman ... Dialogue: ...").clip  # doctest: +SKIP
    """

    def __init__(self, *, generator: ClipGenerator, fields: Mapping[str, Any]) -> None:
        self.generator = generator
        self.fields = fields

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> Bundle:
        """Raises ValueError when the folder is no bundle, or when a file is missing or not the one that was written."""
        folder = Path(folder)
        fields = read_fields(folder)
        require_intact(folder, fields["files"])
        dtype: ComputeDtype = fields["compute_dtype"]
        with init_empty_weights():
            model = SandwichTransformer(config=read_config(folder / "model"), compute_dtype=dtype)
        load_checkpoint_in_model(model, folder / "model", device_map={"": device}, strict=True)
        solver, guidance = SamplerContract(**fields["sampler"]).build()
        generator = ClipGenerator(
            model=model.eval(),
            solver=solver,
            guidance=guidance,
            tokenizers=load_tokenizers(folder),
            frames_per_second=fields["frames_per_second"],
        )
        return cls(generator=generator, fields=fields)

    def generate(
        self, prompt: str, *, num_frames: int | None = None, size: tuple[int, int] | None = None, seed: int = 0
    ) -> GeneratedClip:
        """A clip for a composed prompt; without a length or a size, of the reference clip's (height, width)."""
        reference = self.fields["reference"]
        request = self.generator.request(
            "clip", prompt, num_frames=num_frames or reference["num_frames"], size=size or tuple(reference["size"])
        )
        return self.generator.generate([request], seed=seed)[0]

    def reference_digest(self) -> str:
        """Digest of the reference clip as this process generates it."""
        reference = self.fields["reference"]
        return clip_digest(self.generate(reference["prompt"], seed=reference["seed"]).clip)


def write_bundle(
    folder: Path,
    generator: ClipGenerator,
    *,
    geometry: Geometry,
    prompt: str,
    seed: int,
    bfloat16_products: bool = False,
    scores: Mapping[str, Any] | None = None,
    adapters: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Writes the bundle, whole or not at all, with the digest of the clip that `generator` makes of prompt and seed.

    `adapters` names those that are in the model's weights.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    request = generator.request("clip", prompt, num_frames=geometry.num_frames, size=geometry.size)
    reference = clip_digest(generator.generate([request], seed=seed)[0].clip)
    model = generator.model
    save_model(model.state_dict(), model.config, unfinished / "model", bfloat16_products=bfloat16_products)
    generator.tokenizers.save(unfinished / "tokenizers")
    contract = SamplerContract.of(generator.solver, generator.guidance)
    fields: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "code_version": code_version(),
        "compute_dtype": str(model.layers[0].compute_dtype).removeprefix("torch."),
        "frames_per_second": generator.frames_per_second,
        "sampler": asdict(contract),
        "reference": {"prompt": prompt, "seed": seed, **asdict(geometry), "sha256": reference},
        "tokenizers": generator.tokenizers.fingerprints(),
        "scores": scores,
        "adapters": list(adapters),
    }
    (unfinished / "README.md").write_text(model_card(fields, model.config), encoding="utf-8")
    fields["files"] = {
        str(file.relative_to(unfinished)): _sha256(file) for file in sorted(unfinished.rglob("*")) if file.is_file()
    }
    (unfinished / BUNDLE_FILE).write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder


def read_fields(folder: Path) -> dict[str, Any]:
    """bundle.json. Raises ValueError when the folder is no bundle of this format."""
    file = folder / BUNDLE_FILE
    if not file.is_file():
        raise ValueError(f"{folder} is no inference bundle: it has no {BUNDLE_FILE}; write one with `hh-train export`")
    fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if fields.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{file} has format version {fields.get('format_version')}, this code reads {FORMAT_VERSION}")
    return fields


def require_intact(folder: Path, files: Mapping[str, str]) -> None:
    """Raises ValueError that lists every file of the bundle that is missing or has changed."""
    faults = [
        f"{name} is {'changed' if (folder / name).is_file() else 'missing'}"
        for name, digest in files.items()
        if not (folder / name).is_file() or _sha256(folder / name) != digest
    ]
    if faults:
        raise ValueError(f"the bundle {folder} is not as it was written: " + "; ".join(faults) + ". Export it again.")


def verify_in_fresh_process(folder: Path) -> None:
    """Raises ValueError unless a new Python process loads the bundle and generates its reference clip bit for bit."""
    wanted = read_fields(folder)["reference"]["sha256"]
    command = [sys.executable, "-m", "hh_train.inference.bundle", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the bundle {folder} does not load in a fresh process:\n{done.stderr.strip()}")
    got = done.stdout.split()[-1]
    if got != wanted:
        raise ValueError(
            f"the bundle {folder} generates another clip in a fresh process (sha256 {got}) "
            f"than the model it was made of ({wanted})"
        )


def clip_digest(clip: Clip) -> str:
    """SHA-256 of the pixels and the sound."""
    digest = hashlib.sha256(clip.frames.numpy().tobytes())
    if clip.waveform is not None:
        digest.update(clip.waveform.float().numpy().tobytes())
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    print(Bundle.load(sys.argv[1]).reference_digest())
