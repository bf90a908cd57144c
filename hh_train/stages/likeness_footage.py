"""The reference clips of `measure=likeness`: folders of footage, told apart by who speaks in them."""

from __future__ import annotations

from pathlib import Path

from hh_train.data.footage.files import FootageFile, find_footage, read_metadata
from hh_train.metrics.likeness.embedders import Embedder
from hh_train.metrics.likeness.measurer import LikenessMeasurer
from hh_train.metrics.likeness.reference import ReferenceClips
from hh_train.stages.measuring import clip_reader

_UNNAMED = "the person"


def likeness_of_folders(
    *, person: str, others: str, face: Embedder | None = None, voice: Embedder | None = None
) -> LikenessMeasurer:
    """Measures how much clips resemble a person's.

    Args:
        person: folder of real clips of one person, whom a `speaker` beside the clips may name.
        others: folder of real clips of other people, each named by `speaker` in the json beside the clip. Clips
            without a name, and those of the person, are passed over.
        face: says who is seen.
        voice: says who is heard.

    Raises:
        ValueError: a folder is missing or empty, `person` holds clips of several people, or `others` of too few.
    """
    own = _by_speaker(person, "person")
    if len(own) == 2 and None in own:  # some of the person's clips are without the name
        name = next(name for name in own if name is not None)
        own = {name: [*own[name], *own[None]]}
    known = {name or _UNNAMED: paths for name, paths in own.items()}
    strangers = {name: paths for name, paths in _by_speaker(others, "others").items() if name is not None}
    reader = clip_reader()
    return LikenessMeasurer(
        person=ReferenceClips(folder=person, paths=known, read=reader.read),
        others=ReferenceClips(folder=others, paths=strangers, read=reader.read),
        face=face,
        voice=voice,
    )


def _by_speaker(folder: str, argument: str) -> dict[str | None, list[Path]]:
    """The clips of a folder by the speaker that is named beside each."""
    try:
        files = find_footage(folder, held_out_share=0.0)
    except ValueError as error:
        raise ValueError(f"the likeness's {argument}: {error}") from error
    found: dict[str | None, list[Path]] = {}
    for file in files:
        found.setdefault(_speaker(file), []).append(file.path)
    return found


def _speaker(file: FootageFile) -> str | None:
    try:
        return read_metadata(file, caption_required=False).speaker
    except ValueError:
        return None
