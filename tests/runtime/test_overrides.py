from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hypothesis import given
from hypothesis import strategies as st

from hh_train.runtime.composition import compose_config
from hh_train.runtime.overrides import (
    explain_composition_error,
    known_keys,
    leave_null_groups_out,
    quote_odd_values,
    swept,
)


@pytest.fixture
def _tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "adamw.yaml").write_text("learning_rate: 1e-3\nbetas: [0.9, 0.95]\n")
    (tmp_path / "optimizer" / "muon.yaml").write_text("learning_rate: 1e-2\nmomentum: 0.95\n")
    root = "defaults: [{optimizer: adamw}, _self_]\nmodule:\n  guidance_scale: 3\nseed: 0\nnothing: null\n"
    (tmp_path / "pretrain.yaml").write_text(root)
    monkeypatch.setenv("HH_TRAIN_CONFIGS", str(tmp_path))


def explanation(*overrides: str) -> str:
    with pytest.raises(HydraException) as caught:
        compose_config("pretrain", list(overrides))
    return explain_composition_error(caught.value, "pretrain", list(overrides))


@pytest.mark.usefixtures("_tree")
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sede=3", ["no key 'sede'", "did you mean 'seed'"]),
        ("module.guidance_scal=3", ["did you mean 'module.guidance_scale'"]),
        ("module={scale:3}", ["module holds other names", "+module.NAME=VALUE"]),
        ("guidance_scale=3", ["no key 'guidance_scale'", "did you mean 'module.guidance_scale'"]),
        ("optimiser=muon", ["did you mean 'optimizer'"]),
        ("optimizer.momentum=0.9", ["no key 'optimizer.momentum'"]),
        ("optimizer=adam", ["no option 'adam'", "did you mean 'adamw'", "options: adamw, muon"]),
        ("optimizer=xyzzy", ["no option 'xyzzy'", "options: adamw, muon"]),
        ("seed", ["cannot read the override 'seed'", "KEY=VALUE"]),
        ("optimizer.betas=[1", ["cannot read the override 'optimizer.betas=[1'"]),
        ("+optimizer=muon", ["'optimizer' has an option already", "optimizer=OPTION"]),
        ("seed=1,2", ["several values for seed", "seed=[1,2]", "-m"]),
    ],
)
def test_one_sentence_says_what_is_wrong_and_what_was_meant(override: str, words: list[str]) -> None:
    sentence = explanation(override)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_a_launcher_that_is_not_installed(cluster: str) -> None:
    missing = MissingConfigException("", missing_cfg_file=f"hydra/launcher/submitit_{cluster}", options=["basic"])
    assert "comes with `pip install hh-train[slurm]`" in explain_composition_error(missing, "distill", [])


@pytest.mark.usefixtures("_tree")
def test_a_key_of_another_option_is_known_once_that_option_is_chosen() -> None:
    assert "did you mean 'optimizer.momentum'" in explanation("optimizer=muon", "optimizer.momentun=0.9")
    assert "optimizer.momentum" not in known_keys("pretrain")
    keys = ["optimizer", "optimizer.learning_rate", "optimizer.momentum", "module", "module.guidance_scale"]
    assert known_keys("pretrain", ["optimizer=muon", "sede=3"]) == [*keys, "seed", "nothing"]


@pytest.mark.usefixtures("_tree")
@pytest.mark.parametrize(
    "value", ["clips (2024)/day 1", "it's (here)", "50%", "a=b", "C:\\clips\\", "ü/話す", "a:b, {c}"]
)
def test_odd_values_arrive_as_they_were_typed(value: str) -> None:
    assert compose_config("pretrain", quote_odd_values([f"nothing={value}"])).nothing == value


@pytest.mark.parametrize(
    "override", ["a=1", "a=[1,2]", "a={b: 1}", "~a", "+a=x", "a='x y'", "a=1,2", "a=[1", "a='x", "a"]
)
def test_what_can_be_read_or_is_quoted_already_stays(override: str) -> None:
    assert quote_odd_values([override]) == [override]


@given(value=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).filter(lambda v: v[0] not in "'\"[{"))
def test_every_quoted_value_can_be_read(value: str) -> None:
    (override,) = quote_odd_values([f"key={value}"])
    parsed = OverridesParser.create().parse_override(override)
    if override != f"key={value}":
        assert parsed.value() == value


def test_swept_overrides_set_a_job_apart() -> None:
    given_line = ["seed=1,2", "optimizer=adamw", "module.width=choice(8,16)", "+note='a b'", "sizes=[1, 2]"]
    job = ["seed=2", "optimizer=adamw", "module.width=16", "+note=a b", "sizes=[1,2]"]
    assert swept(job, given_line) == ["seed=2", "module.width=16"]
    assert swept(["seed=1"], ["seed=1"]) == []


@pytest.mark.usefixtures("_tree")
def test_a_group_is_left_out_with_null() -> None:
    overrides = leave_null_groups_out(["optimizer=null", "seed=null", "optimizer.momentum=null"])
    assert overrides == ["~optimizer", "seed=null", "optimizer.momentum=null"]
    config = compose_config("pretrain", overrides[:2])
    assert "learning_rate" not in config.get("optimizer", {}) and config.seed is None
