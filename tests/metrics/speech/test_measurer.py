"""Speech of encoded clips: oracles and constants, noise, what is missing, and what two evaluations must share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.metrics.clip_metric import Row
from hh_train.metrics.measurer import Measured, Sample
from hh_train.metrics.speech.measurer import SPEECH, SpeechMeasurer, required_transcript
from hh_train.metrics.speech.recognizer import Recognizer
from hh_train.metrics.speech.recognizer_training import Utterance
from hh_train.types import Clip

MakeUtterances = Callable[[int, int], list[Utterance]]


@dataclass
class Says:
    """Hears the same in every clip."""

    text: str
    languages: tuple[str, ...] = ("zh", "yue", "en", "ja", "ko", "de", "fr")

    def transcribe(self, waveform: torch.Tensor, language: str) -> str:
        if language not in self.languages:
            raise ValueError(f"it does not know {language!r}")
        return self.text

    def fingerprint(self) -> str:
        return f"says {self.text}"


def through_mp4(waveform: torch.Tensor | None, path: Path) -> Clip:
    """The sound with gray pictures, encoded and decoded."""
    num_frames = 25 if waveform is None else -(-waveform.shape[0] // 640)
    clip = Clip(
        frames=torch.full((num_frames, 16, 16, 3), 128, dtype=torch.uint8),
        frames_per_second=25.0,
        waveform=waveform,
        samples_per_second=16_000,
    )
    write_clip(path, clip)
    return MediaReader(samples_per_second=16_000).read(path)


@pytest.fixture(scope="module")
def spoken(make_utterances: MakeUtterances, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("spoken")
    return [
        Sample(
            key=u.key,
            clip=through_mp4(u.waveform, folder / f"{u.key}.mp4"),
            transcript=u.transcript,
            language="English",
        )
        for u in make_utterances(12, 7)
    ]


def rate(found: list[Measured], name: str = SPEECH) -> float:
    rows = [row for measured in found if isinstance(row := measured.values[name], Row)]
    assert len(rows) == len(found)
    return sum(row.numerator for row in rows) / sum(row.denominator for row in rows)


def test_an_oracle_scores_zero_and_a_constant_nearly_one(spoken: list[Sample]) -> None:
    assert len({sample.transcript for sample in spoken}) > 5
    oracle = [SpeechMeasurer(recognizer=Says(str(s.transcript).upper())).measure(s) for s in spoken]
    assert rate(oracle) == rate(oracle, "speech_wer_macro") == rate(oracle, "speech_above_half") == 0.0
    constant = [SpeechMeasurer(recognizer=Says("something else entirely")).measure(s) for s in spoken]
    assert 1.0 <= rate(constant) < 1.5 and rate(constant, "speech_above_half") == 1.0
    assert rate(constant) == pytest.approx(
        sum(rate(constant, f"speech_{kind}") for kind in ("substitutions", "deletions", "insertions"))
    )


def test_noise_makes_it_worse(
    make_utterances: MakeUtterances, hears_tones: tuple[Recognizer, list[int]], tmp_path: Path
) -> None:
    measurer = SpeechMeasurer(recognizer=hears_tones[0])
    noise = torch.Generator().manual_seed(3)
    rates = []
    for level in (0.0, 0.1, 0.3, 1.0):
        found = []
        for u in make_utterances(10, 8):
            sound = u.waveform + level * torch.randn(u.waveform.shape, generator=noise)
            clip = through_mp4((sound / sound.abs().max()).clamp(-1, 1), tmp_path / f"{level}-{u.key}.mp4")
            found.append(measurer.measure(Sample(key=u.key, clip=clip, transcript=u.transcript, language="en")))
        rates.append(rate(found))
    assert rates == sorted(rates) and rates[0] < 0.2 and rates[-1] > 0.6


def test_what_was_heard_is_kept(spoken: list[Sample]) -> None:
    sample = replace(spoken[0], transcript="low high")
    found = SpeechMeasurer(recognizer=Says("low middle high")).measure(sample)
    assert found.details["heard"] == "low middle high" and not found.notes
    assert found.details["speech_errors"] == {
        "substitutions": 0, "deletions": 0, "insertions": 1, "reference_units": 2,
    }  # fmt: skip
    assert found.values["speech_wer_macro"] == Row(0.5) and found.values["speech_above_half"] == Row(0.0)


def test_a_missing_transcript_is_an_error(spoken: list[Sample]) -> None:
    measurer = SpeechMeasurer(recognizer=Says("one"))
    for changed, message in (
        ({"transcript": None}, "it has no transcript"),
        ({"transcript": "?!"}, "has no word"),
        ({"language": None}, "its language is not known"),
        ({"language": "Klingon"}, "'Klingon' is unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            measurer.measure(replace(spoken[0], **changed))
    with pytest.raises(ValueError, match="does not know 'fr'"):
        SpeechMeasurer(recognizer=Says("one", languages=("en",))).measure(replace(spoken[0], language="French"))
    assert required_transcript(replace(spoken[0], transcript="一", language="Chinese (Mandarin)")) == ("一", "zh")


def test_a_wrong_sample_rate_is_an_error(spoken: list[Sample]) -> None:
    clip = replace(spoken[0].clip, samples_per_second=44_100)
    with pytest.raises(ValueError, match="got sound at 44100 Hz"):
        SpeechMeasurer(recognizer=Says("one")).measure(replace(spoken[0], clip=clip))


def test_a_clip_without_sound_or_one_that_cannot_be_read_has_said_nothing(spoken: list[Sample], tmp_path: Path) -> None:
    measurer = SpeechMeasurer(recognizer=Says("one two three"), control=Says("one"))
    silent = replace(spoken[0], clip=through_mp4(None, tmp_path / "silent.mp4"), transcript="one two three")
    found = measurer.measure(silent)
    assert found.values[SPEECH] == found.values["speech_deletions"] == Row(3.0, 3.0)
    assert found.notes == ["it has no sound track"] and found.details["heard"] == ""
    assert measurer.measure_unread(transcript="one two three", language="English") == found.values
    for transcript, language in ((None, "en"), ("one", None), ("...", "en"), ("one", "Klingon")):
        assert measurer.measure_unread(transcript=transcript, language=language) == {}
    german = SpeechMeasurer(recognizer=Says("eins", languages=("de",)), control=Says("eins", languages=("en",)))
    assert german.measure_unread(transcript="one", language="en") == {}
    unread = german.measure_unread(transcript="eins zwei", language="de")
    assert unread[SPEECH] == Row(2.0, 2.0) and unread["speech_control_wer"] is None


def test_a_second_recognizer_is_a_measure_of_its_own(spoken: list[Sample]) -> None:
    sample = replace(spoken[0], transcript="one two")
    found = SpeechMeasurer(recognizer=Says("one two"), control=Says("one")).measure(sample)
    assert (found.values[SPEECH], found.values["speech_control_wer"]) == (Row(0.0, 2.0), Row(1.0, 2.0))
    assert found.details["heard_by_control"] == "one"
    unsure = SpeechMeasurer(recognizer=Says("one two"), control=Says("", languages=("de",))).measure(sample)
    assert unsure.values["speech_control_wer"] is None
    assert list(unsure.notes) == ["second recognizer: it does not know 'en'"]


def test_korean_has_a_second_unit(spoken: list[Sample]) -> None:
    measurer = SpeechMeasurer(recognizer=Says("안녕하세요 친구"))
    found = measurer.measure(replace(spoken[0], transcript="안녕 하세요 친구", language="Korean"))
    assert found.values[SPEECH] == Row(0.0, 7.0) and found.values["speech_eojeol_wer"] == Row(2.0, 3.0)
    assert "speech_eojeol_wer" not in measurer.measure(spoken[0]).values


@pytest.mark.skipif(
    importlib.util.find_spec("pyopenjtalk") is None, reason="needs pyopenjtalk-plus, the `japanese` extra"
)
def test_japanese_has_a_second_spelling(spoken: list[Sample]) -> None:
    measurer = SpeechMeasurer(recognizer=Says("わたしは学生です"), kana=True)
    sample = replace(spoken[0], transcript="私は学生です", language="ja")
    found = measurer.measure(sample)
    assert found.values[SPEECH] == Row(3.0, 6.0) and found.values["speech_kana_cer"] == Row(0.0, 10.0)
    assert measurer.measure_unread(transcript="私は学生です", language="ja")["speech_kana_cer"] == Row(10.0, 10.0)


def test_the_spelling_of_others_is_a_choice(spoken: list[Sample]) -> None:
    sample = replace(spoken[0], transcript="twenty well-known people")
    ours, theirs = (
        SpeechMeasurer(recognizer=Says("20 well known people"), normalizer=normalizer)
        for normalizer in ("language", "magihuman_compat")
    )
    assert (ours.measure(sample).values[SPEECH], theirs.measure(sample).values[SPEECH]) == (
        Row(0.0, 4.0),
        Row(3.0, 3.0),
    )
    assert theirs.measure_unread(transcript=sample.transcript, language="en")[SPEECH] == Row(3.0, 3.0)
    assert ours.protocol()["normalizer"] != theirs.protocol()["normalizer"]


def test_only_what_can_be_measured_is_promised() -> None:
    plain = [m.name for m in SpeechMeasurer(recognizer=Says("", languages=("en",))).measures]
    assert plain == [
        "speech_wer", "speech_substitutions", "speech_deletions", "speech_insertions", "speech_wer_macro",
        "speech_above_half",
    ]  # fmt: skip
    rich = [m.name for m in SpeechMeasurer(recognizer=Says(""), control=Says("")).measures]
    assert rich == [*plain, "speech_eojeol_wer", "speech_control_wer"]


def test_the_protocol_names_what_values_depend_on() -> None:
    first, again, other, controlled = (
        SpeechMeasurer(recognizer=Says(text), control=control).protocol()
        for text, control in (("a", None), ("a", None), ("b", None), ("a", Says("c")))
    )
    assert first == again and first["recognizer"] == "says a"
    changed = [{name for name in first if first[name] != them[name]} for them in (other, controlled)]
    assert changed == [{"recognizer"}, {"second recognizer"}]
    assert {"normalizer", "jiwer", "kana"} <= set(first)
