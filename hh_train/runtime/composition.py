"""Where the configuration tree lies, and how one of its roots is composed outside the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

VERSION_BASE = "1.3"
_PACKAGE = Path(__file__).resolve().parents[1]


def config_folder() -> Path:
    """The `configs/` of the checkout that the package lies in, else the copy that was installed with the package.

    The environment variable HH_TRAIN_CONFIGS names another tree. Raises ValueError when it is no folder.
    """
    chosen = os.environ.get("HH_TRAIN_CONFIGS")
    if chosen:
        if not Path(chosen).is_dir():
            raise ValueError(f"got HH_TRAIN_CONFIGS={chosen!r}, wanted a folder of configurations (or unset it)")
        return Path(chosen).resolve()
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs").is_dir():
        return checkout / "configs"
    return _PACKAGE / "_configs"


def compose_config(stage: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of `hh-train STAGE OVERRIDES`, for notebooks and tests.

    Raises Hydra's errors when an override names no key of the tree.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(config_folder()), version_base=VERSION_BASE):
        return compose(config_name=stage, overrides=list(overrides))
