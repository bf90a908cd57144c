"""k errors in N words are k/N, and a clip without a face gains nothing."""

from __future__ import annotations

import pytest

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.lips.error_rate import AV, LIPREAD, LipReading, lip_reading_rows


def test_exact_rates_and_their_kinds() -> None:
    rows = lip_reading_rows(transcript="one two three four", read="one six three", heard="one two three", language="en")
    assert rows == {
        LIPREAD: Row(2.0, 4.0),
        "lipread_substitutions": Row(1.0, 4.0),
        "lipread_deletions": Row(1.0, 4.0),
        "lipread_insertions": Row(0.0, 4.0),
        AV: Row(1.0, 3.0),
    }


def test_each_rate_needs_only_its_own_reference() -> None:
    rows = lip_reading_rows(transcript=None, read="eins", heard="Eins!", language="German")
    assert rows[LIPREAD] is None and rows[AV] == Row(0.0, 1.0)
    rows = lip_reading_rows(transcript="一二", read="一三", heard="", language="Mandarin")
    assert rows[AV] is None and rows[LIPREAD] == Row(1.0, 2.0)


def test_a_clip_without_a_face_raises_the_failures_and_the_mean() -> None:
    def score(*read: str | None) -> tuple[float | None, int, int]:
        metric = LipReading()
        for i, text in enumerate(read):
            metric.update(str(i), transcript="one two", read=text, heard="one two", language="en")
        scores = metric.compute()
        assert scores[AV].mean == scores[LIPREAD].mean
        return scores[LIPREAD].mean, scores[LIPREAD].num_clips, scores[LIPREAD].num_failed

    assert score("one two", "one six") == (0.25, 2, 0)
    assert score("one two", "one six", None) == (0.5, 3, 1)
    with pytest.raises(ValueError, match="Klingon"):
        lip_reading_rows(transcript="one", read="one", heard=None, language="Klingon")
