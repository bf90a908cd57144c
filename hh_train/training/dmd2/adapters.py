"""Student and critic as low-rank adapters of one frozen teacher (arXiv:2106.09685): one copy of the weights for all
three networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.swa_utils import AveragedModel

from hh_train.model.config import ModelConfig
from hh_train.model.modality import ModalityLinear
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.seeds import derived_seed
from hh_train.training.dmd2.networks import HiddenStateReader, Trained
from hh_train.types import Modality, PackedBatch, Prediction

TARGETS = ("linear_qkv", "linear_proj", "up_gate_proj", "down_proj")
"""Every matrix product of the layers."""


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Adapters of some matrix products: W + (alpha / rank) up down, one pair for each expert.

    Args:
        rank: of the change.
        alpha: its scale is alpha / rank; None makes it 1.
        targets: names of the matrix products in the layers.

    Raises ValueError for a rank below 1 and for targets that no layer has.
    """

    rank: int = 64
    alpha: float | None = None
    targets: Sequence[str] = TARGETS

    def __post_init__(self) -> None:
        unknown = [name for name in self.targets if name not in TARGETS]
        if self.rank < 1 or unknown or not self.targets:
            raise ValueError(f"want a rank of 1 or more and targets among {list(TARGETS)}, got {self}")

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


class Adapter(nn.Module):
    """The change of one matrix product. It begins as none: the second factor is zero."""

    def __init__(self, base: ModalityLinear, *, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        in_features, out_features = base.weight.shape[1], base.weight.shape[0] // base.num_experts
        linear = partial(ModalityLinear, per_modality=base.num_experts > 1, compute_dtype=base.compute_dtype)
        self.down = linear(in_features=in_features, out_features=rank)
        self.up = linear(in_features=rank, out_features=out_features)
        self.scale = scale
        nn.init.normal_(self.down.weight, std=in_features**-0.5, generator=generator)
        nn.init.zeros_(self.up.weight)
        self.to(base.weight.device)

    def forward(self, x: Float[Tensor, "N in"], counts: tuple[int, int, int]) -> Float[Tensor, "N out"]:
        """What is added to the base's output."""
        changed: Tensor = self.up(self.down(x, counts), counts)
        return self.scale * changed

    def change(self) -> Float[Tensor, "rows in"]:
        """Of the base's stacked weights, in fp32."""
        experts = self.up.num_experts
        up, down = (part.weight.float().unflatten(0, (experts, -1)) for part in (self.up, self.down))
        change: Tensor = self.scale * (up @ down).flatten(0, 1)
        return change


class AdaptedLinear(nn.Module):
    """A frozen matrix product and its adapters, of which one is active, or none."""

    def __init__(self, base: ModalityLinear, adapters: Mapping[str, Adapter]) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict(adapters)
        self.active: Trained | None = None

    def forward(self, x: Float[Tensor, "N in"], counts: tuple[int, int, int]) -> Float[Tensor, "N out"]:
        unchanged: Tensor = self.base(x, counts)
        return unchanged if self.active is None else unchanged + self.adapters[self.active](x, counts)


class AdaptedNetwork:
    """The transformer with one of the adapters, or with none, as a function of a pack."""

    def __init__(self, networks: SharedBase, name: Trained | None) -> None:
        self.networks = networks
        self.name = name

    def __call__(self, batch: PackedBatch) -> Prediction:
        self.networks.activate(self.name)
        prediction: Prediction = self.networks.transformer(batch)
        return prediction


class SharedBase(nn.Module):
    """Three networks in the memory of one, and two sets of adapters.

    The module holds the adapters alone: checkpoints and optimizers are as small as they are.

    Args:
        teacher: gets the adapters built in, and stays otherwise as it is.
        settings: of the adapters, which student and critic draw alike.
    """

    def __init__(self, teacher: SandwichTransformer, settings: LowRank, *, seed: int = 0) -> None:
        super().__init__()
        self._frozen = [teacher.train().requires_grad_(False)]  # in training, so that layers can be recomputed
        generators = [torch.Generator().manual_seed(derived_seed(seed, "adapters")) for _ in range(2)]
        self._linears: dict[str, AdaptedLinear] = {}
        for name, holder, attribute in _targets(teacher, settings.targets):
            base = cast(ModalityLinear, getattr(holder, attribute))
            student, critic = (
                Adapter(base, rank=settings.rank, scale=settings.scale, generator=generator) for generator in generators
            )
            adapted = AdaptedLinear(base, {"student": student, "critic": critic})
            setattr(holder, attribute, adapted)
            self._linears[name] = adapted
        self.student_adapters, self.critic_adapters = (
            nn.ModuleDict({_key(name): one.adapters[owner] for name, one in self._linears.items()})
            for owner in ("student", "critic")
        )
        self.student = AdaptedNetwork(self, "student")
        self.critic = AdaptedNetwork(self, "critic")

    @property
    def transformer(self) -> SandwichTransformer:
        """The one network, with whatever is active."""
        return self._frozen[0]

    @property
    def teacher(self) -> AdaptedNetwork:
        return AdaptedNetwork(self, None)

    def activate(self, name: Trained | None) -> None:
        for linear in self._linears.values():
            linear.active = name

    def trained(self, name: Trained) -> list[nn.Parameter]:
        return list((self.student_adapters if name == "student" else self.critic_adapters).parameters())

    def averageable(self) -> nn.Module:
        return self.student_adapters

    def exported(self, average: AveragedModel | None) -> SandwichTransformer:
        """A network of its own: the teacher's weights with the student's change added, in their dtype."""
        adapters = self.student_adapters if average is None else cast(nn.ModuleDict, average.module)
        return self._merged(adapters)

    def teacher_model(self) -> SandwichTransformer:
        """The teacher as a network of its own, which shares its weights."""
        return self._merged(None)

    def hidden_states(self, name: Literal["critic", "teacher"], layers: Sequence[int]) -> HiddenStateReader:
        return HiddenStateReader(self.critic if name == "critic" else self.teacher, self.transformer, layers)

    def before_backward(self, name: Trained) -> None:
        """Layers that are computed again must be with the adapters of the first time."""
        self.activate(name)

    def shard(self, mesh: DeviceMesh, average: AveragedModel | None) -> None:  # noqa: ARG002
        """Raises ValueError: the adapters are there so that one device holds it all."""
        raise ValueError(
            "adapters on a shared teacher are not sharded: train on one device or with trainer=ddp, or set "
            "module.adapters=null for full copies, which are"
        )

    def move_teacher(self, device: torch.device) -> None:
        self.transformer.to(device)

    @torch.no_grad()
    def _merged(self, adapters: nn.ModuleDict | None) -> SandwichTransformer:
        weights = {
            name.replace(".base.weight", ".weight"): tensor
            for name, tensor in self.transformer.state_dict().items()
            if ".adapters." not in name
        }
        for name in self._linears if adapters is not None else ():
            change = cast(Adapter, cast(nn.ModuleDict, adapters)[_key(name)]).change()
            base = weights[f"{name}.weight"]
            weights[f"{name}.weight"] = (base.float() + change).to(base.dtype)
        layer = self.transformer.layers[0]
        with torch.device("meta"):
            model = SandwichTransformer(
                config=self.transformer.config,
                compute_dtype="bfloat16" if layer.compute_dtype == torch.bfloat16 else "float32",
                attention=self.transformer.attend,
            )
        model.load_state_dict(weights, assign=True)
        return model.requires_grad_(False)


def _targets(model: SandwichTransformer, targets: Sequence[str]) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, holder and attribute of every matrix product to adapt."""
    for index, layer in enumerate(model.layers):
        for part in ("attention", "mlp"):
            holder = getattr(layer, part)
            for attribute in targets:
                if hasattr(holder, attribute):
                    yield f"block.layers.{index}.{part}.{attribute}", holder, attribute


def _key(name: str) -> str:
    """Module names hold no dots."""
    return name.replace(".", "/")


def adapter_parameters(config: ModelConfig, rank: int) -> int:
    """Of one network's adapters of all matrix products of the layers."""
    hidden, heads = config.hidden_size, config.num_heads + 2 * config.num_query_groups
    total = 0
    for index in range(config.num_layers):
        is_gelu = index in config.gelu7_layers
        inner = config.gelu7_size if is_gelu else config.swiglu7_size
        attention = hidden + (heads * config.head_dim + config.num_heads) + 2 * hidden
        mlp = hidden + (inner if is_gelu else 2 * inner) + inner + hidden
        total += (len(Modality) if index in config.mm_layers else 1) * rank * (attention + mlp)
    return total


def with_adapters(model: SandwichTransformer, settings: LowRank, *, frozen_dtype: torch.dtype) -> SandwichTransformer:
    """The same transformer with its matrix products frozen in a dtype and the student's adapters at work."""
    for _, holder, attribute in _targets(model, TARGETS):
        weight = getattr(holder, attribute).weight
        weight.data = weight.data.to(frozen_dtype)
    networks = SharedBase(model, settings)
    networks.activate("student")
    return networks.transformer
