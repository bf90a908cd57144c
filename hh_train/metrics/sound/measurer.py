"""Sound of clips: its statistics, how long it is beside the picture, and how good it sounds where that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Sample
from hh_train.metrics.sound.quality import SpeechQuality
from hh_train.metrics.sound.statistics import measure_sound
from hh_train.metrics.sound.tracks import LARGEST_DIFFERENCE_SECONDS, require_sound

_ALWAYS = (
    Measure(name="loudness_db", title="sound level", unit="dB", digits=1),
    Measure(name="lufs", title="loudness", unit="LUFS", digits=1),
    Measure(name="silence_share", title="silence", unit="%", scale=100.0, digits=1),
    Measure(name="clipping_share", title="clipped samples", unit="%", scale=100.0, digits=2),
    Measure(name="duration_difference", title="|sound − picture| length", unit="s", digits=3, better="lower"),
)


class SoundMeasurer:
    """Measures sound.

    Args:
        quality: estimators of listeners' scores (`Dnsmos`, `Nisqa`); none by default, since their weights are not ours.
    """

    def __init__(self, *, quality: Sequence[SpeechQuality] = ()) -> None:
        self.quality = tuple(quality)

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (*_ALWAYS, *(measure for estimator in self.quality for measure in estimator.measures))

    def protocol(self) -> Mapping[str, str]:
        """The loudness meter and the estimators."""
        estimators = {type(estimator).__name__: estimator.fingerprint() for estimator in self.quality}
        return {"pyloudnorm": version("pyloudnorm"), **estimators}

    def measure(self, sample: Sample) -> Measured:
        """Measures one clip. Raises ValueError for sound of another sample rate than 16 kHz."""
        if sample.clip.waveform is None:
            return Measured(notes=["it has no sound track"])
        waveform = require_sound(sample.clip)
        values: dict[str, Row | float | None] = {}
        notes: list[str] = []
        difference = _duration_difference(sample)
        if difference is not None:
            values["duration_difference"] = abs(difference)
            if abs(difference) > LARGEST_DIFFERENCE_SECONDS:
                where = "before" if difference < 0 else "after"
                notes.append(f"the sound track ends {abs(difference):.2f} s {where} the picture")
            if difference < -LARGEST_DIFFERENCE_SECONDS:  # the rest is silence that decoding has filled in
                return Measured(values=values, notes=notes)
        found = measure_sound(waveform, samples_per_second=sample.clip.samples_per_second)
        values |= vars(found)
        if found.lufs is None:
            notes.append("it is too quiet or too short for loudness in LUFS")
        for estimator in self.quality:
            try:
                values |= estimator.score(waveform)
            except ValueError as error:
                notes.append(str(error))
        return Measured(values=values, notes=notes)


def _duration_difference(sample: Sample) -> float | None:
    """Sound minus picture by the file, where that is known: decoding fills up what is missing, and cuts the rest."""
    return None if sample.track_seconds is None else sample.track_seconds.difference
