"""Sizes that fit together, and those of the released model."""

from __future__ import annotations

import dataclasses

import pytest

from hh_train.model.config import ModelConfig


def test_released_widths() -> None:
    config = ModelConfig(
        num_layers=40, hidden_size=5120, head_dim=128, num_query_groups=8, video_in_channels=192, audio_in_channels=64,
        text_in_channels=3584, mm_layers=(0, 39), gelu7_layers=(0,),
    )  # fmt: skip
    assert (config.num_heads, config.gelu7_size, config.swiglu7_size) == (40, 20480, 13652)


def test_json_round_trip(tiny_config: ModelConfig) -> None:
    assert ModelConfig.from_json(tiny_config.to_json()) == tiny_config


def test_json_faults_are_all_named(tiny_config: ModelConfig) -> None:
    fields = tiny_config.to_json() | {"colour": 1}
    del fields["head_dim"]
    with pytest.raises(ValueError, match=r"unknown fields \['colour'\], missing fields \['head_dim'\]"):
        ModelConfig.from_json(fields)


def test_all_misfits_are_told_at_once(tiny_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match=r"head_dim 12 must divide.*video_in_channels 13.*layers \[9\]"):
        dataclasses.replace(tiny_config, head_dim=12, video_in_channels=13, mm_layers=(9,))
