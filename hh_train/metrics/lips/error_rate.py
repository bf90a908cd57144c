"""Lip-reading errors: what a lip reader sees in the clip against the transcript, and against what is heard in it.

`lipread_wer` says whether the lips say the words; `av_wer` whether they say what the sound says, whatever that is, and
needs no transcript. Both stand on the reader's own error on real clips, which is far from zero: lips show less than
sound. Units are those of speech errors, words or characters.
"""

from __future__ import annotations

from typing import ClassVar

from hh_train.metrics.clip_metric import ClipMetric, Row
from hh_train.metrics.speech.transcripts import units
from hh_train.metrics.speech.wer import count_errors, rate_rows

LIPREAD, AV = "lipread_wer", "av_wer"


def lip_reading_rows(
    *, transcript: str | None, read: str | None, heard: str | None, language: str
) -> dict[str, Row | float | None]:
    """Both rates of one clip, and substitutions, deletions and insertions of the first.

    Args:
        transcript: the words that were to be said; None leaves the first rate undefined.
        read: what the lips say; None where there is no face to read, which counts as saying nothing at all.
        heard: what the sound says; None, or no word, leaves the second rate undefined.
        language: in any usual form.

    Raises:
        ValueError: for an unknown language.
    """
    rows: dict[str, Row | float | None] = dict.fromkeys(LipReading.names)
    if transcript is not None and units(transcript, language):
        found = rate_rows(count_errors(transcript, read or "", language))
        rows.update(zip(LipReading.names, found[:4], strict=False))
    if heard is not None and units(heard, language):
        rows[AV] = rate_rows(count_errors(heard, read or "", language))[0]
    return rows


class LipReading(ClipMetric):
    """Lip-reading errors a unit of the transcript, their kinds, and errors a unit of what is heard.

    A clip without a face counts as all deletions (rate 1) and is counted as failed: a system must not gain by faces
    that nobody recognizes.
    """

    names: ClassVar[tuple[str, ...]] = (LIPREAD, "lipread_substitutions", "lipread_deletions", "lipread_insertions", AV)
    higher_is_better = False

    def update(
        self, key: str, *, transcript: str | None, read: str | None, heard: str | None = None, language: str
    ) -> None:
        """Adds a clip; the arguments are those of `lip_reading_rows`."""
        rows = lip_reading_rows(transcript=transcript, read=read, heard=heard, language=language)
        self.record(key, rows, failed=read is None)
