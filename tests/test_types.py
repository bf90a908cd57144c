"""Prompts as text and back, and the layout of packs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hh_train.types import ClipLayout, ClipMetadata, DialogueLine, Prompt, language_code

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # beartype samples containers

WORDS = st.lists(st.text("abzAZéß九一가힣09", min_size=1, max_size=6), min_size=1, max_size=4).map(" ".join)
LINES = st.builds(DialogueLine, speaker=WORDS, language=WORDS, line=WORDS)
PROMPTS = st.builds(
    Prompt,
    description=WORDS,
    dialogue=st.lists(LINES, max_size=3).map(tuple),
    background_sound=st.one_of(st.none(), WORDS),
)


@given(PROMPTS)
def test_parse_reads_what_compose_writes(prompt: Prompt) -> None:
    assert Prompt.parse(prompt.compose()) == prompt


@given(PROMPTS)
def test_metadata_survives_json(prompt: Prompt) -> None:
    metadata = ClipMetadata(key="a", prompt=prompt, transcript="b", language="en", speaker=None)
    assert ClipMetadata.from_json(metadata.to_json()) == metadata


def test_the_documented_structure() -> None:
    text = (
        "A woman.\nShe nods.\n\nDialogue:\n"
        '<Woman, calm, English>: "She said "hi", twice"\n<Man, Mandarin>: “你好”\n\nBackground Sound:\n<rain, wind>'
    )
    assert Prompt.parse(text) == Prompt(
        description="A woman.\nShe nods.",
        dialogue=(
            DialogueLine(speaker="Woman, calm", language="English", line='She said "hi", twice'),
            DialogueLine(speaker="Man", language="Mandarin", line="你好"),
        ),
        background_sound="rain, wind",
    )


def test_text_without_blocks_is_a_description() -> None:
    assert Prompt.parse("Dialogue: of two birds") == Prompt(description="Dialogue: of two birds")


def test_a_line_that_is_no_dialogue_is_named() -> None:
    with pytest.raises(ValueError, match="just words"):
        Prompt.parse("A man.\n\nDialogue:\njust words")


def test_layout_counts() -> None:
    layout = ClipLayout(video=(2, 3, 4), audio=5, text=6)
    assert (layout.num_video, layout.num_tokens) == (24, 35)


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("en", "en"),
        ("en-US", "en"),
        ("English", "en"),
        ("zh_CN", "zh"),
        ("Chinese", "zh"),
        ("JA", "ja"),
        (" de ", "de"),
        ("Klingon", None),
        ("", None),
    ],
)
def test_languages_have_one_code(written: str, code: str | None) -> None:
    assert language_code(written) == code
