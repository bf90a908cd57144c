"""Words for clips: what is said in them, and what they show."""

from hh_train.data.annotate.annotator import Annotator
from hh_train.data.annotate.caption import Captioner, VisionLanguageCaptioner
from hh_train.data.annotate.transcribe import Transcriber, Transcription, WhisperTranscriber

__all__ = ["Annotator", "Captioner", "Transcriber", "Transcription", "VisionLanguageCaptioner", "WhisperTranscriber"]
