"""How fast each part of a model learns, and which parts do not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn
from torch.nn import Parameter

from hh_train.training.optim import RatedParameters

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class LayerwiseRates:
    """Shares of the learning rate by a parameter's name.

    Args:
        shares: by pattern of names, in which `*` stands for anything and `[0-3]` for one of these digits. Of several
            that match the last counts; names that none matches have 1. A share of 0 freezes.
        depth_decay: a layer learns at so much of the next one's rate, the last at the whole; what comes before the
            layers is one deeper still. It multiplies the shares.

    Raises ValueError for negative shares and for a decay outside (0, 1].
    """

    shares: Mapping[str, float | int] = field(default_factory=dict)
    depth_decay: float = 1.0

    def __post_init__(self) -> None:
        negative = {pattern: share for pattern, share in self.shares.items() if share < 0}
        if negative or not 0 < self.depth_decay <= 1:
            raise ValueError(
                f"got shares {dict(self.shares)} and depth_decay {self.depth_decay}; wanted shares of the learning "
                "rate from 0 (frozen) on, and a decay above 0 and up to 1"
            )

    def apply(self, model: nn.Module) -> list[RatedParameters]:
        """Freezes what has no rate, and groups the rest by rate. What is frozen already stays so.

        Raises ValueError for patterns that match no parameter (it names near ones), and when nothing is left to train.
        """
        names = [name for name, _ in model.named_parameters()]
        self._check(names)
        num_layers = 1 + max((self._layer(name) for name in names), default=-1)
        grouped: dict[float, list[Parameter]] = {}
        for name, parameter in model.named_parameters():
            share = self._share(name, num_layers)
            parameter.requires_grad_(parameter.requires_grad and share > 0)
            if parameter.requires_grad:
                grouped.setdefault(share, []).append(parameter)
        if not grouped:
            raise ValueError(
                f"nothing is left to train: all {len(names)} parameters are frozen, by {dict(self.shares)} or before"
            )
        return [RatedParameters(parameters=grouped[share], share=share) for share in sorted(grouped)]

    def describe(self, model: nn.Module) -> Iterator[str]:
        """A line for each rate, and one for what is frozen. After `apply`."""
        named = dict(model.named_parameters())
        num_layers = 1 + max((self._layer(name) for name in named), default=-1)
        counts: dict[float, int] = {}
        for name, parameter in named.items():
            share = self._share(name, num_layers) if parameter.requires_grad else 0.0
            counts[share] = counts.get(share, 0) + parameter.numel()
        for share in sorted(counts, reverse=True):
            told = f"learn at {share:.3g} of the rate" if share else "are frozen"
            yield f"{counts[share]:,} parameters {told}"

    def _share(self, name: str, num_layers: int) -> float:
        matching = [share for pattern, share in self.shares.items() if fnmatchcase(name, pattern)]
        return (matching[-1] if matching else 1.0) * self.depth_decay ** self._depth(name, num_layers)

    def _depth(self, name: str, num_layers: int) -> int:
        """Layers from here to the last one."""
        layer = self._layer(name)
        if layer >= 0:
            return num_layers - 1 - layer
        return num_layers if name.startswith("adapter.") else 0

    @staticmethod
    def _layer(name: str) -> int:
        """Its number; -1 outside the layers."""
        found = _LAYER.search(name)
        return int(found[1]) if found else -1

    def _check(self, names: list[str]) -> None:
        faults = []
        for pattern in self.shares:
            if not any(fnmatchcase(name, pattern) for name in names):
                near = get_close_matches(pattern, names, n=3, cutoff=0.4)
                faults.append(f"{pattern!r}" + (f" (near: {', '.join(near)})" if near else ""))
        if faults:
            raise ValueError(f"no parameter is named like {'; '.join(faults)}: correct the patterns of the rates")
