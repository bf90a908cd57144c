"""The README of a bundle says what bundle.json says."""

from __future__ import annotations

from typing import Any

import pytest

from hh_train.inference.model_card import model_card
from hh_train.model.config import ModelConfig


@pytest.fixture
def fields() -> dict[str, Any]:
    return {
        "code_version": "0.1.0+abc",
        "compute_dtype": "bfloat16",
        "frames_per_second": 25.0,
        "sampler": {
            "kind": "renoise",
            "settings": {"num_steps": 2},
            "noise_levels": [0.9998, 0.4321, 0.0],
            "guidance": {"video": 1.0, "audio": 1.0},
            "is_guidance_free": True,
        },
        "reference": {
            "prompt": 'A woman\n\nDialogue:\n<Woman, English>: "hello there"',
            "seed": 3,
            "num_frames": 37,
            "size": [96, 64],
            "sha256": "feedbeef",
        },
        "scores": None,
        "adapters": [],
    }


def cells(card: str, row: str) -> list[str]:
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_facts_are_in_their_rows(fields: dict[str, Any], tiny_config: ModelConfig) -> None:
    card = model_card(fields, tiny_config)
    assert cells(card, "layers")[1] == "4, of which 2 with weights per modality"
    assert cells(card, "hidden size")[1] == "32"
    assert cells(card, "sampler")[1] == "renoise, 2 steps, no guidance"
    assert cells(card, "noise levels")[1] == "0.9998, 0.4321, 0.0000"
    assert cells(card, "pictures")[1] == "25 frames a second; reference clip 37 frames of 96x64"
    assert cells(card, "matrix products")[1] == "bfloat16"
    assert "hh_train 0.1.0+abc" in card
    assert "    feedbeef\n" in card
    assert "Not evaluated." in card


def test_the_prompt_is_set_as_code(fields: dict[str, Any], tiny_config: ModelConfig) -> None:
    lines = model_card(fields, tiny_config).splitlines()
    assert "    A woman" in lines and '    <Woman, English>: "hello there"' in lines


def test_adapters_are_named(fields: dict[str, Any], tiny_config: ModelConfig) -> None:
    assert cells(model_card(fields, tiny_config), "adapters in the weights")[1] == "none"
    fields["adapters"] = [{"path": "look.safetensors", "weight": 0.8}, {"path": "voice.safetensors"}]
    wanted = "look.safetensors (weight 0.8), voice.safetensors (weight 1.0)"
    assert cells(model_card(fields, tiny_config), "adapters in the weights")[1] == wanted


def test_guidance_is_told(fields: dict[str, Any], tiny_config: ModelConfig) -> None:
    guided = {"is_guidance_free": False, "guidance": {"video": 5.0, "audio": 3.0}}
    fields["sampler"] |= guided
    sampler = cells(model_card(fields, tiny_config), "sampler")[1]
    assert "no guidance" not in sampler and "5.0" in sampler and "3.0" in sampler


def test_scores_are_a_table(fields: dict[str, Any], tiny_config: ModelConfig) -> None:
    fields["scores"] = {
        "word_error": {"mean": 0.123456, "low": 0.1, "high": 0.15, "num_clips": 40},
        "lip_sync": {"mean": 0.8, "low": 0.75, "high": 0.85, "num_clips": 39},
    }
    card = model_card(fields, tiny_config)
    assert cells(card, "word_error") == ["word_error", "0.1235", "0.1 to 0.15", "40"]
    assert cells(card, "lip_sync") == ["lip_sync", "0.8", "0.75 to 0.85", "39"]
    assert "Not evaluated." not in card
