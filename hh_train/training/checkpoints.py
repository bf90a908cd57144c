"""What training leaves behind for the other stages: a checkpoint folder, and where its weights come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from lightning import Trainer
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from hh_train.data.shards.manifest import Manifest
from hh_train.model.checkpoint import save_model
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.distributed import barrier, is_rank_zero

PROVENANCE_FILE = "provenance.json"
MODEL_FOLDER = "model"
"""Where a training's output folder has its checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a checkpoint's weights come from."""

    stage: str
    """pretrain, finetune or distill."""
    num_steps: int
    """Optimizer steps of the exported network."""
    tokenizers: Mapping[str, str]
    """Fingerprint of each codec that made the training latents."""
    frames_per_second: float | None = None
    """Of the clips; None where nothing says."""
    samples_per_second: int | None = None
    """Of their sound; None where nothing says."""
    is_student: bool = False
    """Whether it was distilled, or is a fine-tuned model that was: for few steps without guidance, and no teacher."""
    teacher: str | None = None
    """Fingerprint of the weights that a student was distilled from."""

    @classmethod
    def of(
        cls, manifest: Manifest, *, stage: str, num_steps: int, is_student: bool = False, teacher: str | None = None
    ) -> Provenance:
        """Of a training on these latents."""
        return cls(
            stage=stage,
            num_steps=num_steps,
            tokenizers=manifest.fingerprints(),
            frames_per_second=manifest.frames_per_second,
            samples_per_second=manifest.samples_per_second,
            is_student=is_student or stage == "distill",
            teacher=teacher,
        )

    @classmethod
    def read(cls, folder: str | Path) -> Provenance | None:
        """None for a checkpoint folder that does not say."""
        file = Path(folder) / PROVENANCE_FILE
        if not file.is_file():
            return None
        stored = cls(**json.loads(file.read_text()))
        return replace(stored, is_student=stored.is_student or stored.stage == "distill")


def checkpoint_folder(given: str | Path) -> Path:
    """Where the weights lie: in the folder, or in its `model` where it is the output folder of a training.

    Raises ValueError where there are none.
    """
    given = Path(given).expanduser()
    found = next((one for one in (given, given / MODEL_FOLDER) if any(one.glob("*.safetensors"))), None)
    if found is None:
        raise ValueError(
            f"{given} holds no checkpoint: wanted a folder with .safetensors files, or the output folder of a training"
        )
    return found


def export_checkpoint(model: SandwichTransformer, folder: Path, *, provenance: Provenance) -> None:
    """Gathers the weights (of all ranks, if sharded) and writes the folder on rank zero, whole or not at all.

    The run's resolved configuration, if it lies beside the folder, goes along.
    """
    gathered = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if is_rank_zero():
        save_model(
            cast(dict[str, Tensor], gathered), model.config, folder, records=checkpoint_records(folder, provenance)
        )
    barrier()


def checkpoint_records(folder: Path, provenance: Provenance) -> dict[str, str]:
    """What is written beside the weights of a checkpoint folder, by file name."""
    records = {PROVENANCE_FILE: json.dumps(asdict(provenance), indent=2) + "\n"}
    config = folder.parent / "config.yaml"
    if config.is_file():
        records["training_config.yaml"] = config.read_text()
    return records


def resume_path(trainer: Trainer) -> str | None:
    """The newest checkpoint that an interrupted run left where this trainer writes its own; None at a first start."""
    dirpath = getattr(trainer.checkpoint_callback, "dirpath", None)
    if not dirpath:
        return None
    candidates = sorted(Path(dirpath).glob("last*.ckpt"), key=lambda path: path.stat().st_mtime)
    return str(candidates[-1]) if candidates else None
