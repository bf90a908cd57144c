"""Words, sections and places in the features of a prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hh_train.tokenizers.text import HashedTextTokenizer, Section, place_waves, section_codes, split_words, word_vector
from hh_train.types import DialogueLine, Prompt

TOKENIZER = HashedTextTokenizer()
GOLDEN_SIGNS = "--++-+-+--+++-+--+----++"
"""Of the first 24 channels of 'a'."""
WORD, SECTION = slice(0, 56), slice(56, 64)
PLACE = slice(64, 96)


def prompt(line: str, description: str = "A woman speaks", sound: str | None = "rain") -> str:
    dialogue = (DialogueLine(speaker="Woman", language="English", line=line),)
    return Prompt(description=description, dialogue=dialogue, background_sound=sound).compose()


def spoken(text: str) -> Tensor:
    """The features of the dialogue's words."""
    rows = [i for i, word in enumerate(TOKENIZER.words(text)) if word.section is Section.DIALOGUE]
    return TOKENIZER.encode(text)[rows]


def test_sections_and_places() -> None:
    words = TOKENIZER.words(prompt("three five", description="A woman, old."))
    assert [(w.text, w.section, w.place) for w in words] == [
        ("a", Section.DESCRIPTION, 0),
        ("woman", Section.DESCRIPTION, 1),
        ("old", Section.DESCRIPTION, 2),
        ("woman", Section.TAG, 0),
        ("english", Section.TAG, 1),
        ("three", Section.DIALOGUE, 0),
        ("five", Section.DIALOGUE, 1),
        ("rain", Section.SOUND, 0),
    ]


def test_order_matters_as_a_set_of_tokens() -> None:
    first, second = spoken(prompt("three five")), spoken(prompt("five three"))
    assert torch.cdist(first, second).min() > 1.0


def test_place_does_not_depend_on_the_description() -> None:
    short, long = (
        spoken(prompt("three five")),
        spoken(prompt("three five", description="A very much longer description")),
    )
    torch.testing.assert_close(short, long)


def test_a_word_is_the_same_word_everywhere() -> None:
    features = TOKENIZER.encode(prompt("rain rain", description="rain"))
    rows = [i for i, word in enumerate(TOKENIZER.words(prompt("rain rain", description="rain"))) if word.text == "rain"]
    assert len(rows) == 4
    assert (features[rows, WORD] == features[rows[0], WORD]).all()
    assert len({tuple(row.tolist()) for row in features[rows]}) == 4


def test_every_group_has_mean_square_one() -> None:
    features = TOKENIZER.encode(prompt("zero one two three"))
    for group in (WORD, SECTION, PLACE):
        torch.testing.assert_close(features[:, group].square().mean(1), torch.ones(len(features)), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop, l’eau!", ["don't", "stop", "l'eau"]),
        ("三五 七", ["三", "五", "七"]),
        ("안녕 하세요", ["안", "녕", "하", "세", "요"]),
        ("東京タワーへ go2", ["東", "京", "タ", "ワ", "ー", "へ", "go2"]),
        ("Straße Ärger", ["straße", "ärger"]),
        ("ＡＢ１", ["ab1"]),
        ("…!?", []),
    ],
)
def test_words_of_seven_languages(text: str, words: list[str]) -> None:
    assert list(split_words(text)) == words


def test_forms_of_a_word_resemble_each_other() -> None:
    def likeness(first: str, second: str) -> float:
        return float(word_vector(first, 512) @ word_vector(second, 512)) / 512

    assert likeness("speaking", "speaks") > 0.2
    assert abs(likeness("speaking", "blue")) < 0.15
    assert likeness("blue", "blue") == pytest.approx(1.0, abs=1e-5)


def test_vectors_are_the_same_on_every_machine() -> None:
    assert "".join("+" if x > 0 else "-" for x in word_vector("a", 24).tolist()) == GOLDEN_SIGNS


def test_sections_are_orthogonal() -> None:
    torch.testing.assert_close(section_codes() @ section_codes().T, 8 * torch.eye(4))


def test_places_are_told_apart() -> None:
    waves = place_waves(torch.arange(64), 32, 64)
    distances = torch.cdist(waves, waves) + 1e3 * torch.eye(64)
    assert distances.min() > 1.0


def test_a_long_description_loses_its_end_and_dialogue_nothing() -> None:
    line = " ".join(f"w{i}" for i in range(30))
    words = TOKENIZER.words(prompt(line, description=" ".join(f"d{i}" for i in range(50))))
    assert len(words) == 64
    assert [w.text for w in words if w.section is Section.DIALOGUE] == line.split()
    assert [w.text for w in words if w.section is Section.SOUND] == ["rain"]
    assert [w.text for w in words if w.section is Section.DESCRIPTION] == [f"d{i}" for i in range(64 - 30 - 2 - 1)]


def test_a_dialogue_that_cannot_fit_is_counted() -> None:
    with pytest.raises(ValueError, match="72 tokens"):
        TOKENIZER.encode(prompt(" ".join(["word"] * 70)))


def test_dialogue_that_is_no_dialogue_is_named() -> None:
    with pytest.raises(ValueError, match="hello there"):
        TOKENIZER.encode("A man.\n\nDialogue:\nhello there")


def test_a_prompt_has_words() -> None:
    with pytest.raises(ValueError, match="no word"):
        TOKENIZER.encode(" ... ")


def test_the_null_prompt_fits_and_differs() -> None:
    null = TOKENIZER.encode(TOKENIZER.null_prompt)
    assert 4 <= null.shape[0] <= 64
    assert {word.section for word in TOKENIZER.words(TOKENIZER.null_prompt)} == {Section.DESCRIPTION, Section.SOUND}


@given(st.text(min_size=1, max_size=300))
def test_any_description_gives_at_most_64_finite_tokens(description: str) -> None:
    text = Prompt(description=f"x {description}".replace("\n", " ")).compose()
    features = TOKENIZER.encode(text)
    assert 1 <= features.shape[0] <= 64
    assert features.isfinite().all()


@pytest.mark.parametrize("arguments", [{"place_channels": 3}, {"channels": 40}])
def test_rejects_impossible_settings(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        HashedTextTokenizer(**arguments)
