"""Activation checkpointing: what the backward pass computes again instead of keeping.

The wrapped computation must be free of randomness, as the layers are: random states are not restored.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

ActivationCheckpointing = Literal["none", "full", "selective"]
"""full keeps the input of every layer; selective keeps the results of its matrix products and attention too, and
recomputes the norms, rotations, gates, activations and casts (also of the weights) between them.
"""

T = TypeVar("T")
_PRODUCTS = {
    getattr(torch.ops.aten, name).default
    for name in ("mm", "addmm", "bmm", "_grouped_mm")
    if hasattr(torch.ops.aten, name)
}


def recomputed(function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)`, of which the arguments alone are kept."""
    result: T = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result


def recomputed_between_products(function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)`, of which the arguments and the results of matrix products are kept.

    To be compiled it must stand inside the compiled function: nothing is kept of one compiled before.
    """
    contexts = partial(create_selective_checkpoint_contexts, _keep_products)
    result: T = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return result


def _keep_products(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:  # noqa: ARG001
    return CheckpointPolicy.MUST_SAVE if operation in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE
