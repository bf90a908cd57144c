"""What a run writes about itself: its resolved configuration and the version of the code."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from hh_train.runtime.config import SHARED_GROUPS
from hh_train.runtime.distributed import is_rank_zero
from hh_train.runtime.version import code_version


def save_config(config: DictConfig, folder: Path) -> None:
    """Writes `folder/config.yaml`: what the stage is called with, headed by the code version and the command.

    A record of another call that is there already is kept as `config.1.yaml`, the next one as `config.2.yaml`.
    """
    if not is_rank_zero():
        return
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    arguments = OmegaConf.create({name: value for name, value in resolved.items() if name not in SHARED_GROUPS})
    command = shlex.join(["hh-train", *sys.argv[1:]])
    text = f"# hh_train {code_version()}\n# {command}\n{OmegaConf.to_yaml(arguments)}"
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "config.yaml"
    if record.is_file():
        if record.read_text(encoding="utf-8") == text:
            return
        record.replace(folder / f"config.{1 + len(list(folder.glob('config.*.yaml')))}.yaml")
    unfinished = folder / ".config.yaml.tmp"
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(record)
