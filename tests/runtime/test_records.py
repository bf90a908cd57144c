from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hh_train.runtime.records import save_config
from hh_train.runtime.version import code_version

CONFIG = {"paths": {"root": "runs/x"}, "_target_": "run", "output": "${paths.root}/out", "steps": 3}


def test_the_record_says_code_command_and_resolved_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/hh-train", "pretrain", "note=two words"])
    save_config(OmegaConf.create(CONFIG), tmp_path / "new" / "run")
    text = (tmp_path / "new" / "run" / "config.yaml").read_text(encoding="utf-8")
    assert text.splitlines()[:2] == [f"# hh_train {code_version()}", "# hh-train pretrain 'note=two words'"]
    assert OmegaConf.create(text) == {"_target_": "run", "output": "runs/x/out", "steps": 3}
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["config.yaml"]


def test_the_record_of_another_call_is_kept(tmp_path: Path) -> None:
    for steps in (3, 3, 4, 5):
        save_config(OmegaConf.create({**CONFIG, "steps": steps}), tmp_path)
    found = {path.name: OmegaConf.load(path).steps for path in tmp_path.glob("*.yaml")}
    assert found == {"config.1.yaml": 3, "config.2.yaml": 4, "config.yaml": 5}


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    save_config(OmegaConf.create(CONFIG), tmp_path)
    assert not list(tmp_path.iterdir())
