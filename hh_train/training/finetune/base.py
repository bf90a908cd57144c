"""The model that is fine-tuned: known before any of its weights are read, then loaded as the run wants it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from hh_train.model.attention import AttentionName
from hh_train.model.checkpoint import architecture_of, is_matrix_product_weight, load_model
from hh_train.model.config import ModelConfig
from hh_train.model.lora import folder_fingerprint
from hh_train.model.quantized.formats import PlainFormat, WeightFormat
from hh_train.model.quantized.freeze import load_frozen
from hh_train.model.recompute import ActivationCheckpointing
from hh_train.model.transformer import ComputeDtype, SandwichTransformer
from hh_train.training.checkpoints import Provenance, checkpoint_folder


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A checkpoint, and how it is to run.

    Args:
        checkpoint: folder of its weights, or the output folder of a stage that has it as `model`.
        config: of the architecture; None: the folder's own or, where it has none, what the weights' shapes say.
        compute_dtype, attention, compile_layers, activation_checkpointing: as in `SandwichTransformer`.
    """

    checkpoint: str
    config: ModelConfig | None = None
    compute_dtype: ComputeDtype = "bfloat16"
    attention: AttentionName = "auto"
    compile_layers: bool = False
    activation_checkpointing: ActivationCheckpointing = "none"

    @cached_property
    def folder(self) -> Path:
        """Where the weights lie. Raises ValueError where there are none."""
        return checkpoint_folder(self.checkpoint)

    @cached_property
    def architecture(self) -> ModelConfig:
        """Read off the weights' shapes where there is no config, as for released ones. Raises ValueError for others."""
        return self.config or architecture_of(self.folder)

    @property
    def provenance(self) -> Provenance | None:
        """None where the folder does not say."""
        return Provenance.read(self.folder)

    @cached_property
    def fingerprint(self) -> str:
        """Of its weights."""
        return folder_fingerprint(self.folder)

    @property
    def factory(self) -> partial[SandwichTransformer]:
        """Builds the network with random weights; on the meta device, with none."""
        return partial(SandwichTransformer, config=self.architecture, **self._running)

    def load(self) -> SandwichTransformer:
        """With weights in fp32, all trainable. Raises ValueError as `load_model`."""
        return load_model(self.folder, config=self.architecture, **self._running)

    def load_frozen(self, weight_format: WeightFormat, *, device: torch.device, offload: bool) -> SandwichTransformer:
        """With frozen matrix products in a format. Raises ValueError as `hh_train.model.quantized.freeze`."""
        return load_frozen(
            self.folder,
            weight_format=weight_format,
            config=self.architecture,
            device=str(device),
            offload=offload,
            **self._running,
        )

    def unfilled(self, weight_format: WeightFormat) -> SandwichTransformer:
        """On the meta device, for processes that each fill their own shards (`load_weights`).

        Raises ValueError for a format that is not sharded.
        """
        if not isinstance(weight_format, PlainFormat):
            raise ValueError(
                f"frozen weights in {weight_format.name} are not sharded: set trainer=ddp, or quantization=bfloat16"
            )
        with torch.device("meta"):
            model = self.factory()
        for name, parameter in model.named_parameters():
            if is_matrix_product_weight(name):
                parameter.data = parameter.data.to(getattr(torch, weight_format.dtype))
        return model

    @property
    def _running(self) -> dict[str, Any]:
        names = ("compute_dtype", "attention", "compile_layers", "activation_checkpointing")
        return {name: getattr(self, name) for name in names}
