"""Random numbers that a second run draws again."""

from __future__ import annotations

import hashlib
import random


def derived_seed(*parts: object) -> int:
    """A seed in [0, 2^63) from any words and numbers: the same in every process, on every machine, in every year.

    `derived_seed(seed, key, "noise")` gives each clip its own noise that depends on neither order nor batch.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators, each from its own stream of `seed`."""
    import numpy as np
    import torch

    random.seed(derived_seed(seed, "python"))
    np.random.seed(derived_seed(seed, "numpy") % 2**32)
    torch.manual_seed(derived_seed(seed, "torch"))
