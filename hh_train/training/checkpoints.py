"""What training leaves behind for the other stages: a checkpoint folder, and where its weights come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from lightning import Trainer
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from hh_train.model.checkpoint import save_model
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.distributed import barrier, is_rank_zero

PROVENANCE_FILE = "provenance.json"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a checkpoint's weights come from."""

    stage: str
    """pretrain or distill."""
    num_steps: int
    """Optimizer steps of the exported network."""
    tokenizers: Mapping[str, str]
    """Fingerprint of each codec that made the training latents."""

    @classmethod
    def read(cls, folder: str | Path) -> Provenance | None:
        """None for a checkpoint folder that does not say."""
        file = Path(folder) / PROVENANCE_FILE
        return cls(**json.loads(file.read_text())) if file.is_file() else None


def export_checkpoint(model: SandwichTransformer, folder: Path, *, provenance: Provenance) -> None:
    """Gathers the weights (of all ranks, if sharded) and writes the folder on rank zero, whole or not at all.

    The run's resolved configuration, if it lies beside the folder, goes along.
    """
    gathered = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    weights = cast(dict[str, Tensor], gathered)
    if is_rank_zero():
        records = {PROVENANCE_FILE: json.dumps(asdict(provenance), indent=2) + "\n"}
        config = folder.parent / "config.yaml"
        if config.is_file():
            records["training_config.yaml"] = config.read_text()
        save_model(weights, model.config, folder, records=records)
    barrier()


def resume_path(trainer: Trainer) -> str | None:
    """The newest checkpoint that an interrupted run left where this trainer writes its own; None at a first start."""
    dirpath = getattr(trainer.checkpoint_callback, "dirpath", None)
    if not dirpath:
        return None
    candidates = sorted(Path(dirpath).glob("last*.ckpt"), key=lambda path: path.stat().st_mtime)
    return str(candidates[-1]) if candidates else None
