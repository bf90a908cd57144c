"""Fills in what is not known about a clip, and leaves what was given alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hh_train.data.annotate.caption import Captioner
from hh_train.data.annotate.transcribe import Transcriber
from hh_train.data.selection.cuts import Shot
from hh_train.data.selection.windows import count_frames
from hh_train.types import LANGUAGE_NAMES, Clip, ClipMetadata, DialogueLine, Prompt


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """Transcript, language and description of clips.

    Words and descriptions of a whole file are not those of a stretch of it: a clip that is a part of its file keeps the
    description only where there is no captioner, and loses the transcript, which a transcriber hears anew.
    """

    transcriber: Transcriber | None = None
    captioner: Captioner | None = None
    speaker: str = "Speaker"
    """Who speaks, in prompts of clips whose speaker is not known."""

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as plain JSON values."""
        return {
            "transcriber": None if self.transcriber is None else self.transcriber.settings(),
            "captioner": None if self.captioner is None else self.captioner.settings(),
            "speaker": self.speaker,
        }

    def annotate(
        self,
        clip: Clip,
        metadata: ClipMetadata,
        *,
        is_part: bool = False,
        start_seconds: float = 0.0,
        shots: Sequence[Shot] = (),
    ) -> ClipMetadata:
        """The metadata with a description, and with the words where the clip has sound.

        Args:
            metadata: what is given; an empty description is no description.
            is_part: whether the clip is a stretch of the file that the metadata is about.
            start_seconds: where the clip starts, on the clock of `shots`.
            shots: of the clip; where there are several, each is described.

        Raises:
            ValueError: a backend fails on the clip.
        """
        if is_part:
            metadata = replace(metadata, prompt=replace(metadata.prompt, dialogue=()), transcript=None)
        if self.captioner is not None and (is_part or not metadata.prompt.description):
            description = self._describe(self.captioner, clip, start_seconds, shots)
            metadata = replace(metadata, prompt=replace(metadata.prompt, description=description))
        if self.transcriber is None or metadata.transcript is not None or clip.waveform is None:
            return metadata
        heard = self.transcriber.transcribe(
            clip.waveform, samples_per_second=clip.samples_per_second, language=metadata.language
        )
        if not heard.text:
            return metadata
        return replace(
            metadata,
            prompt=self._with_dialogue(metadata.prompt, metadata.speaker, heard.text, heard.language),
            transcript=heard.text,
            language=heard.language,
        )

    def _with_dialogue(self, prompt: Prompt, speaker: str | None, text: str, language: str | None) -> Prompt:
        if prompt.dialogue or language is None:
            return prompt
        name = LANGUAGE_NAMES.get(language, language)
        return replace(prompt, dialogue=(DialogueLine(speaker=speaker or self.speaker, language=name, line=text),))

    def _describe(self, captioner: Captioner, clip: Clip, start_seconds: float, shots: Sequence[Shot]) -> str:
        if len(shots) < 2:
            return captioner.caption(clip.frames)
        told = []
        for number, shot in enumerate(shots, start=1):
            first = round((shot.start_seconds - start_seconds) * clip.frames_per_second)
            last = count_frames(shot.end_seconds - start_seconds, clip.frames_per_second)
            frames = clip.frames[first:last]
            if frames.shape[0]:
                told.append(f"Shot {number}: {captioner.caption(frames)}")
        return "\n".join(told)
