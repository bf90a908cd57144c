"""Known edits give known rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.speech.wer import SpeechErrorRate, align_units, count_errors, rate_rows

WORDS = [f"word{i}" for i in range(30)]
ENGLISH = """the harbor lay quiet under a thin silver moon
my sister keeps three old bicycles in the garage
nobody expected rain during such a warm afternoon
please send the signed contract before friday evening
a small brown dog barked at every passing truck
we learned how bread rises when yeast meets sugar
his letter arrived two weeks after the funeral
engineers tested that bridge with heavy concrete blocks
she painted her kitchen yellow because mornings felt gloomy
tourists often forget their umbrellas on crowded trains
our neighbor grows tomatoes and peppers behind his house
the museum closes early whenever holidays approach
did you remember to lock both windows last night
fresh snow covered all roads leading into town
old maps show rivers which no longer exist
the choir sang softly while candles burned down""".splitlines()
MANDARIN = """今天早上我去市场买了新鲜的鱼
老师让学生们打开窗户通风
这座桥建于三百年前至今完好
她每天下班以后都要跑步
火车因为大雪晚点了两个小时
爷爷喜欢在院子里种花养鸟
请把合同寄到我们公司的办公室
孩子们围着篝火唱歌跳舞
医生建议他少喝咖啡多休息
昨晚的音乐会吸引了很多观众
他用木头做了一把小椅子
海边的空气让人感到非常舒服
图书馆周末开放到晚上九点
邻居家的猫总是爬上屋顶
科学家发现了一种新的昆虫
飞机起飞前必须系好安全带""".splitlines()


@given(st.sets(st.integers(0, 29)))
def test_k_substitutions_in_n_words_are_k_over_n(changed: set[int]) -> None:
    heard = [f"other{i}" if i in changed else word for i, word in enumerate(WORDS)]
    errors = count_errors(" ".join(WORDS), " ".join(heard), "en")
    assert (errors.substitutions, errors.deletions, errors.insertions) == (len(changed), 0, 0)
    assert errors.total / errors.reference_units == len(changed) / 30


def test_kinds_of_errors() -> None:
    errors = count_errors("one two three four", "one three four five", "en")
    assert (errors.substitutions, errors.deletions, errors.insertions, errors.total) == (0, 1, 1, 2)
    assert count_errors("一二三", "一三", "zh").deletions == 1
    assert count_errors("eins zwei", "EINS, zwei!", "German").total == 0


def test_a_loop_may_exceed_one() -> None:
    metric = SpeechErrorRate()
    metric.update("a", "one two", "one two " * 4, "en")
    scores = metric.compute()
    assert scores["error_rate"].mean == scores["insertion_rate"].mean == 3.0


def permuted_rate(sentences: list[str], language: str, unit: str | None = None) -> float:
    """Each sentence against the next one's words."""
    errors = [
        count_errors(said, heard, language, unit=unit)  # type: ignore[arg-type]
        for said, heard in zip(sentences, sentences[1:] + sentences[:1], strict=True)
    ]
    return sum(e.total for e in errors) / sum(e.reference_units for e in errors)


def test_words_of_another_sentence_are_all_wrong_but_letters_are_not() -> None:
    assert 0.95 < permuted_rate(ENGLISH, "en") < 1.15
    assert 0.95 < permuted_rate(MANDARIN, "zh") < 1.15
    assert 0.65 < permuted_rate(ENGLISH, "en", "character") < 0.88


def test_figures_are_errors_only_if_no_reading_fits() -> None:
    for said, heard in (("four two seven", "427"), ("1984", "nineteen eighty four"), ("1,000 men", "a thousand men")):
        assert count_errors(said, heard, "en").total == count_errors(heard, said, "en").total == 0
    assert count_errors("four two seven", "428", "en").substitutions == 1
    assert count_errors("in 1984 we met 20 men", "in nineteen eighty four we met twenty women", "en").total == 1
    assert count_errors("两个人", "2个人", "zh").total == count_errors("スマホを2台", "スマホを二台", "ja").total == 0


def test_korean_is_counted_in_characters_and_in_eojeol() -> None:
    characters = count_errors("안녕 하세요 친구", "안녕하세요 친고", "ko")
    words = count_errors("안녕 하세요 친구", "안녕하세요 친고", "ko", unit="word")
    assert (characters.total, characters.reference_units) == (1, 7)
    assert (words.total, words.reference_units) == (3, 3)


def test_scripts_and_names_of_a_language_make_no_error() -> None:
    for language in ("zh", "Chinese", "Mandarin", "cmn", "zh-TW"):
        found = count_errors("有 的 人學習漢語。", "有的人学习汉话", language)
        assert (found.total, found.reference_units) == (1, 7)


def test_rates_of_one_clip_and_of_units_that_are_given() -> None:
    errors = align_units(["a", "b", "c", "d"], ["a", "x", "d", "d"])
    assert (errors.substitutions, errors.total) == (2, 2)
    assert rate_rows(errors) == (Row(2.0, 4.0), Row(2.0, 4.0), Row(0.0, 4.0), Row(0.0, 4.0), Row(0.5), Row(0.0))
    assert rate_rows(align_units(["a"], ["b"]))[5] == Row(1.0)
    with pytest.raises(ValueError, match="no reference units"):
        align_units([], ["a"])


def test_a_metric_may_count_in_another_unit() -> None:
    eojeol = SpeechErrorRate(unit="word")
    eojeol.update("a", "안녕 하세요 친구", "안녕하세요 친고", "ko", speaker="Kim")
    assert eojeol.compute()["error_rate"].mean == 1.0


def test_clips_of_a_speaker_are_drawn_together() -> None:
    def width(speakers: int) -> float:
        metric = SpeechErrorRate()
        for i in range(80):
            metric.update(str(i), "one", "one" if i % speakers % 2 else "two", "en", speaker=f"speaker {i % speakers}")
        score = metric.compute()["error_rate"]
        assert score.mean == 0.5 and score.low is not None and score.high is not None
        return score.high - score.low

    assert width(20) > 1.5 * width(80)


def test_nothing_heard_and_nothing_to_say() -> None:
    assert count_errors("one two", "", "en").deletions == 2
    assert count_errors("one two", "?!", "en").deletions == 2
    for missing in (None, "", "..."):
        with pytest.raises(ValueError, match="give the spoken words"):
            count_errors(missing, "one", "en")


def test_the_mean_is_micro_and_a_broken_file_gains_nothing() -> None:
    metric = SpeechErrorRate()
    metric.update("short", "one", "two", "en")
    metric.update("long", " ".join(WORDS[:9]), " ".join(WORDS[:9]), "en")
    assert metric.compute()["error_rate"].mean == pytest.approx(1 / 10)
    assert metric.compute()["macro_error_rate"].mean == metric.compute()["share_above_half"].mean == 0.5
    metric.update("broken", " ".join(WORDS[:10]), None, "en")
    scores = metric.compute()
    assert scores["error_rate"].mean == pytest.approx(11 / 20)
    assert scores["deletion_rate"].mean == pytest.approx(10 / 20)
    assert scores["error_rate"].num_failed == 1


def test_an_oracle_scores_zero_and_a_constant_nearly_one() -> None:
    oracle, constant = SpeechErrorRate(), SpeechErrorRate()
    for i in range(40):
        said = f"{WORDS[i % 30]} {WORDS[(3 * i + 1) % 30]} {WORDS[(7 * i + 2) % 30]}"
        oracle.update(str(i), said, said.upper(), "en")
        constant.update(str(i), said, "word0 word1 word2", "en")
    assert oracle.compute()["error_rate"] == (0.0, 0.0, 0.0, 40, 0, 0)
    rate = constant.compute()["error_rate"]
    assert rate.mean is not None and 0.8 < rate.mean <= 1.0
