"""How student, critic and teacher are held: as three networks."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.swa_utils import AveragedModel

from hh_train.inference.guided import Model
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.sharding import shard_layers
from hh_train.types import PackedBatch

Trained = Literal["student", "critic"]


class HiddenStateReader:
    """Hidden states after some layers of a network, on the way of a whole pass."""

    def __init__(self, model: Model, transformer: SandwichTransformer, layers: Sequence[int]) -> None:
        self.model = model
        self.transformer = transformer
        self.layers = tuple(layers)

    def __call__(self, batch: PackedBatch) -> list[Float[Tensor, "N hidden"]]:
        """One tensor a layer, grouped by modality."""
        found: dict[nn.Module, Tensor] = {}

        def keep(layer: nn.Module, arguments: object, output: Tensor) -> None:  # noqa: ARG001
            found[layer] = output

        read = [self.transformer.layers[index] for index in self.layers]
        handles = [layer.register_forward_hook(keep) for layer in read]
        try:
            self.model(batch)
        finally:
            for handle in handles:
                handle.remove()
        return [found[layer] if layer.per_modality else found[layer][batch.group_index] for layer in read]


class FullCopies(nn.Module):
    """Student and critic are whole copies of the teacher, in fp32; the teacher keeps the dtypes it was loaded with.

    Args:
        teacher: no submodule, so that it is in no checkpoint.
        student: weights to start from instead of the teacher's.

    Raises ValueError for a student of another architecture.
    """

    def __init__(self, teacher: SandwichTransformer, student: SandwichTransformer | None = None) -> None:
        super().__init__()
        if student is not None:
            require_same_architecture(teacher, student)
        self.student = deepcopy(teacher if student is None else student).float().train().requires_grad_(True)
        self.critic = deepcopy(teacher).float().train().requires_grad_(True)
        self._frozen = [teacher.eval().requires_grad_(False)]

    @property
    def teacher(self) -> SandwichTransformer:
        return self._frozen[0]

    def trained(self, name: Trained) -> list[nn.Parameter]:
        return list(self.student.parameters() if name == "student" else self.critic.parameters())

    def averageable(self) -> nn.Module:
        return self.student

    def exported(self, average: AveragedModel | None) -> SandwichTransformer:
        return self.student if average is None else cast(SandwichTransformer, average.module)

    def teacher_model(self) -> SandwichTransformer:
        return self.teacher

    def hidden_states(self, name: Literal["critic", "teacher"], layers: Sequence[int]) -> HiddenStateReader:
        transformer = self.critic if name == "critic" else self.teacher
        return HiddenStateReader(transformer, transformer, layers)

    def before_backward(self, name: Trained) -> None:
        """Nothing: each network computes its own again."""

    def shard(self, mesh: DeviceMesh, average: AveragedModel | None) -> None:
        """Every network (FSDP2)."""
        averaged = [] if average is None else [cast(SandwichTransformer, average.module)]
        for network in [self.student, self.critic, self.teacher, *averaged]:
            shard_layers(network, mesh)

    def move_teacher(self, device: torch.device) -> None:
        self._frozen[0] = self.teacher.to(device)


def require_same_architecture(teacher: SandwichTransformer, student: SandwichTransformer) -> None:
    """Raises ValueError, naming every field in which the configs differ."""
    theirs, ours = asdict(teacher.config), asdict(student.config)
    different = [f"{name}: {theirs[name]} and {ours[name]}" for name in theirs if theirs[name] != ours[name]]
    if different:
        raise ValueError(
            f"teacher and student differ in architecture ({'; '.join(different)}): a student starts from the teacher's "
            "weights or from those of a student of the same teacher"
        )
