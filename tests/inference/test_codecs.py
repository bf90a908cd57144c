"""The codecs of shards in a folder and behind a URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from hh_train.inference.codecs import tokenizers_of
from hh_train.tokenizers import load_tokenizers


def test_they_are_the_same_from_afar(tiny_shards: Path, tiny_shards_url: str) -> None:
    wanted = load_tokenizers(tiny_shards).fingerprints()
    assert tokenizers_of(tiny_shards).fingerprints() == tokenizers_of(tiny_shards_url).fingerprints() == wanted


def test_what_is_missing_is_named(tiny_shards_url: str) -> None:
    with pytest.raises(ValueError, match=rf"the codecs of {tiny_shards_url}/nowhere cannot be read: no config.json"):
        tokenizers_of(f"{tiny_shards_url}/nowhere")
