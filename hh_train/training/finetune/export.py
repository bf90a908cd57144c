"""What a fine-tuning run leaves behind: adapter files for this and other tools, and a checkpoint like any other."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hh_train.data.shards.manifest import Manifest
from hh_train.model.checkpoint import save_model
from hh_train.model.lora import AdapterRecord, load_with_adapters, write_adapter
from hh_train.model.lora.keys import KeyStyle
from hh_train.runtime.distributed import barrier, is_rank_zero
from hh_train.training.checkpoints import MODEL_FOLDER, Provenance, checkpoint_records, export_checkpoint
from hh_train.training.finetune.module import FineTuningModule

ADAPTER_FOLDER = "adapter"
FILES: Mapping[KeyStyle, str] = {"peft": "peft", "comfyui": "comfyui.safetensors", "kohya": "kohya.safetensors"}
"""In the adapter's folder, by the style of their keys."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is written.

    Args:
        merged: whether the base with its adapter added is written too, as a checkpoint in the released layout.
        trigger_word: that stands in the captions, for the files' metadata.
    """

    merged: bool = True
    trigger_word: str | None = None

    def finished(self, output: str | Path, *, adapted: bool) -> Path | None:
        """What a run that is done has left; None for one that is not."""
        wanted = Path(output) / (MODEL_FOLDER if self.merged or not adapted else ADAPTER_FOLDER)
        return wanted if wanted.is_dir() else None

    def write(
        self, module: FineTuningModule, manifest: Manifest, output: str | Path, *, scores: Mapping[str, float]
    ) -> Path:
        """Writes it, each folder whole or not at all, and returns the last one. Every process must call it."""
        of_base = module.base.provenance
        provenance = Provenance.of(
            manifest,
            stage="finetune",
            num_steps=module.exported_steps,
            is_student=of_base is not None and of_base.is_student,
        )
        folder = Path(output) / MODEL_FOLDER
        with module.exporting() as model:
            if module.adapters is None:
                export_checkpoint(model, folder, provenance=provenance)
                return folder
            adapter = self._write_adapter(module, Path(output) / ADAPTER_FOLDER, scores=scores)
        if not self.merged:
            return adapter
        if is_rank_zero():
            merge(module, adapter / FILES["comfyui"], folder, provenance=provenance)
        barrier()
        return folder

    def _write_adapter(self, module: FineTuningModule, folder: Path, *, scores: Mapping[str, float]) -> Path:
        assert module.adapters is not None
        record = AdapterRecord(
            base=module.base.fingerprint,
            trigger_word=self.trigger_word,
            config={"steps": module.exported_steps, "learning_rate": module.recipe.learning_rate}
            | asdict(module.adapters),
            scores=scores,
        )
        unfinished = folder.with_name(folder.name + ".unfinished")
        for style, name in FILES.items():
            write_adapter(module.model, module.adapter, unfinished / name, style=style, record=record)
        if is_rank_zero():
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        barrier()
        return folder


def merge(module: FineTuningModule, file: Path, folder: Path, *, provenance: Provenance) -> Path:
    """The base's weights as they are stored, in which nothing is lost to how they were frozen, and the adapter."""
    model = load_with_adapters(module.base.folder, [{"path": file}], parameter_dtype="as_stored")
    return save_model(
        model.state_dict(), module.base.architecture, folder, records=checkpoint_records(folder, provenance)
    )
