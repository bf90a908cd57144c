from __future__ import annotations

from pathlib import Path

import pytest

from hh_train.runtime.composition import compose_config, config_folder

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "size").mkdir()
    (tmp_path / "size" / "small.yaml").write_text("width: 8\n")
    (tmp_path / "size" / "large.yaml").write_text("width: 64\n")
    (tmp_path / "grow.yaml").write_text("defaults: [{size: small}, _self_]\n_target_: grow\ntwice: ${size.width}\n")
    monkeypatch.setenv("HH_TRAIN_CONFIGS", str(tmp_path))
    return tmp_path


def test_a_checkout_uses_its_own_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HH_TRAIN_CONFIGS", raising=False)
    assert config_folder() == REPOSITORY / "configs"


def test_another_tree_can_be_named(tree: Path) -> None:
    assert config_folder() == tree


def test_a_tree_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HH_TRAIN_CONFIGS", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="HH_TRAIN_CONFIGS"):
        config_folder()


@pytest.mark.usefixtures("tree")
def test_composes_groups_and_overrides() -> None:
    assert compose_config("grow") == {"size": {"width": 8}, "_target_": "grow", "twice": 8}
    assert compose_config("grow", ["size=large"]).twice == 64
    assert compose_config("grow", ["size=large", "size.width=5"]).twice == 5
