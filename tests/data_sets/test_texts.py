from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from texts import DIGITS, SPLITS, digit_line, draw_line, sentences_of, split_of_digits

from hh_train.types import LANGUAGE_NAMES


def test_digit_strings_are_shared_out_and_no_split_is_short_of_them() -> None:
    for length in (2, 3):
        splits = [split_of_digits("".join(digits)) for digits in product("0123456789", repeat=length)]
        shares = {split: splits.count(split) / len(splits) for split in SPLITS}
        assert shares["train"] == pytest.approx(0.8, abs=0.06)
        assert min(shares["validation"], shares["test"]) > 0.05


@pytest.mark.parametrize("language", LANGUAGE_NAMES)
def test_sentences_of_the_splits_are_disjoint_and_made_of_what_training_has(language: str) -> None:
    written = {split: {line.written for line in sentences_of(split, language)} for split in SPLITS}
    assert sum(map(len, written.values())) == 150
    assert all(not written[one] & written[other] for one, other in combinations(SPLITS, 2))
    if language in ("en", "de", "fr", "ko"):  # languages that write spaces
        words = {split: {word for line in lines for word in line.split()} for split, lines in written.items()}
        assert words["test"] | words["validation"] <= words["train"]


@pytest.mark.parametrize("content", ["digits", "sentences", "mixed"])
def test_drawn_lines_belong_to_their_split(content: str) -> None:
    random = np.random.default_rng(0)
    drawn = {
        split: {
            draw_line(random, language="en", split=split, content=content, digits=(2, 3)).written for _ in range(200)
        }
        for split in SPLITS
    }
    assert all(len(lines) > 10 for lines in drawn.values())
    assert all(not drawn[one] & drawn[other] for one, other in combinations(SPLITS, 2))


def test_digit_strings_have_as_many_digits_as_asked() -> None:
    random = np.random.default_rng(0)
    lines = [draw_line(random, language="en", split="train", content="digits", digits=(2, 4)) for _ in range(60)]
    assert {len(line.written.split()) for line in lines} == {2, 3, 4}


def test_digits_are_read_one_by_one() -> None:
    assert digit_line("305", "en").written == "three zero five"
    assert digit_line("305", "de").written == "drei null fünf"
    assert digit_line("305", "zh").written == "三零五"
    assert all(len(set(words)) == 10 for words in DIGITS.values())


def test_japanese_is_kana_and_particles_are_spoken_as_they_sound() -> None:
    lines = [line for split in SPLITS for line in sentences_of(split, "ja")]
    kana = {chr(code) for code in range(0x3040, 0x3100)} | set(" 。")
    assert all(set(line.written) <= kana for line in lines)
    mother = next(line for line in lines if line.written == "おかあさんは ほんを よみます。")
    assert mother.spoken == "おかあさんわ ほんお よみます"


def test_wrong_choices_are_named() -> None:
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="xx"):
        draw_line(random, language="xx", split="train", content="digits", digits=(2, 3))
    with pytest.raises(ValueError, match="digits"):
        draw_line(random, language="en", split="train", content="digits", digits=(3, 2))
