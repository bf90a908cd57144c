"""Units by vocabulary, padding without effect, and a folder that gives the same network back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hh_train.metrics.lips.lip_network import (
    FLOOR_FILE,
    LipNetwork,
    LipNetworkConfig,
    build_vocabulary,
    normalized,
    split_units,
)
from hh_train.metrics.lips.reader import LipReader
from hh_train.metrics.lips.training import SpokenMouth


@pytest.fixture
def network() -> LipNetwork:
    torch.manual_seed(0)
    known = {"en": (1, 2, 3), "de": (4,)}
    config = LipNetworkConfig(units=("round", "tall", "wide", "weit"), unit="word", known=known, width=24, num_blocks=2)
    network = LipNetwork(config=config)
    with torch.no_grad():
        network.head.weight.mul_(30)
    return network.eval()


def test_few_words_are_units_and_many_are_spelled() -> None:
    digits = [(f"{a} {b}", "en") for a in ("one", "two") for b in ("three", "four")] * 5
    assert build_vocabulary(digits) == ("word", ("four", "one", "three", "two"), {"en": (1, 2, 3, 4)})
    kind, units, known = build_vocabulary([("Ab a.", "English"), ("Äb", "de")])
    assert kind == "character" and units == (" ", "a", "b", "ä") and known == {"de": (3, 4), "en": (1, 2, 3)}
    assert split_units("一 二", "zh", "word") == ["一", "二"]
    assert build_vocabulary([]) == ("character", (), {})


def test_padding_changes_nothing(network: LipNetwork, spoken_mouths: Callable[..., list[SpokenMouth]]) -> None:
    crops = [normalized(mouth.crops) for mouth in spoken_mouths(2, 0)]
    lengths = torch.tensor([len(c) for c in crops])
    together, valid = network(torch.nn.utils.rnn.pad_sequence(crops, batch_first=True, padding_value=9.0), lengths)
    assert valid.tolist() == [2 * len(c) for c in crops] and lengths[0] < lengths[1]
    alone, _ = network(crops[0][None], lengths[:1])
    assert torch.allclose(together[0, : valid[0]], alone[0], atol=1e-5)


def test_light_does_not_count(network: LipNetwork, spoken_mouths: Callable[..., list[SpokenMouth]]) -> None:
    crops = spoken_mouths(1, 4)[0].crops
    darker = (crops.float() * 0.5 + 20).round().to(torch.uint8)
    assert torch.allclose(normalized(darker), normalized(crops), atol=0.08)
    assert network.read(crops - 10, "en") == network.read(crops, "en") != ""


def test_only_units_of_the_language_are_read(
    network: LipNetwork, spoken_mouths: Callable[..., list[SpokenMouth]]
) -> None:
    crops = spoken_mouths(1, 4)[0].crops
    assert set(network.read(crops, "English").split()) <= {"round", "tall", "wide"}
    assert set(network.read(crops, "de").split()) <= {"weit"}
    with pytest.raises(ValueError, match="does not know 'ja' but en, de"):
        network.read(crops, "ja")
    assert isinstance(network, LipReader)


def test_a_folder_gives_the_same_network_and_its_floor(
    network: LipNetwork, spoken_mouths: Callable[..., list[SpokenMouth]], tmp_path: Path
) -> None:
    network.save(tmp_path)
    loaded = LipNetwork.load(tmp_path)
    crops = spoken_mouths(1, 5)[0].crops
    assert loaded.fingerprint() == network.fingerprint() and loaded.config == network.config and loaded.floor is None
    assert loaded.read(crops, "en") == network.read(crops, "en")
    (tmp_path / FLOOR_FILE).write_text(json.dumps({"validation": {"all": {"mean": 0.3}}, "test": {}}))
    assert LipNetwork.load(tmp_path).floor == 0.3
    with torch.no_grad():
        loaded.head.bias[0] += 1
    assert loaded.fingerprint() != network.fingerprint()
    with pytest.raises(ValueError, match="holds no lip reader"):
        LipNetwork.load(tmp_path / "elsewhere")


def test_encode_text(network: LipNetwork) -> None:
    assert network.encode_text("Wide, tall – unheard wide!", "en") == [3, 2, 3]
