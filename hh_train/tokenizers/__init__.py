"""Codecs: media and prompts to latents and back."""

from hh_train.tokenizers.audio import MelAudioTokenizer
from hh_train.tokenizers.base import AudioTokenizer, TextTokenizer, VideoTokenizer
from hh_train.tokenizers.pretrained import PretrainedTokenizer, Tokenizers, load_tokenizer, load_tokenizers
from hh_train.tokenizers.text import HashedTextTokenizer
from hh_train.tokenizers.video import PatchVideoTokenizer

__all__ = [
    "AudioTokenizer",
    "HashedTextTokenizer",
    "MelAudioTokenizer",
    "PatchVideoTokenizer",
    "PretrainedTokenizer",
    "TextTokenizer",
    "Tokenizers",
    "VideoTokenizer",
    "load_tokenizer",
    "load_tokenizers",
]
