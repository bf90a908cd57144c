"""The measures of a round trip, on known differences and on small clips."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hh_train.data.footage.files import FootageClip, find_footage, read_footage
from hh_train.data.media.files import MediaReader, write_clip
from hh_train.inference.reconstruction import measure_reconstruction, mel_distance_decibel, psnr_decibel
from hh_train.metrics.speech.recognizer import Recognizer, RecognizerConfig
from hh_train.metrics.speech.wer import count_errors
from hh_train.tokenizers import MelAudioTokenizer, PatchVideoTokenizer
from hh_train.types import Clip


def test_psnr_of_a_known_error() -> None:
    original = torch.full((2, 4, 4, 3), 100, dtype=torch.uint8)
    assert psnr_decibel(original, original + 5) == pytest.approx(20 * math.log10(255 / 5), abs=1e-3)
    assert psnr_decibel(original, original) == math.inf


def test_half_the_amplitude_is_six_decibel_away() -> None:
    noise = 0.3 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    assert mel_distance_decibel(noise, noise, 16_000) == 0
    assert mel_distance_decibel(noise, 0.5 * noise, 16_000) == pytest.approx(20 * math.log10(2), abs=0.8)


def test_distance_tells_sounds_apart() -> None:
    time = torch.arange(16_000) / 16_000
    low, near, high = (0.3 * torch.sin(2 * math.pi * hertz * time) for hertz in (300, 310, 3000))
    assert mel_distance_decibel(low, near, 16_000) < 0.5 * mel_distance_decibel(low, high, 16_000)


def untrained_recognizer() -> Recognizer:
    torch.manual_seed(0)
    characters = tuple("abcdefghijklmnopqrstuvwxyz ")
    config = RecognizerConfig(characters=characters, languages={"en": tuple(range(1, 28))}, width=16, num_blocks=1)
    return Recognizer(config=config).eval()


def test_round_trips_are_written_and_measured_with_the_recognizers_errors(tmp_path: Path) -> None:
    """Two clips with words, one silent; errors are summed over words, not averaged over clips."""
    generator = torch.Generator().manual_seed(0)
    clips, transcripts = {}, {"a": "one two three", "b": "four", "silent": "five"}
    for key, transcript in transcripts.items():
        frames = torch.randint(0, 255, (5, 1, 1, 3), generator=generator).expand(5, 16, 16, 3).to(torch.uint8)
        sound = None if key == "silent" else 0.3 * torch.randn(5 * 640, generator=generator)
        clip = Clip(frames=frames, frames_per_second=25.0, waveform=sound, samples_per_second=16_000)
        write_clip(tmp_path / "in" / f"{key}.mp4", clip)
        fields = {"description": "d", "transcript": transcript, "language": "en"}
        (tmp_path / "in" / f"{key}.json").write_text(json.dumps(fields))
        clips[key] = MediaReader().read(tmp_path / "in" / f"{key}.mp4")
    video, audio = PatchVideoTokenizer(channels=4), MelAudioTokenizer(channels=4, phase_iterations=1)
    video.fit([clip.frames for clip in clips.values()])
    audio.fit([clip.waveform for clip in clips.values() if clip.waveform is not None])
    recognizer = untrained_recognizer()
    footage = read_footage(find_footage(tmp_path / "in", held_out_share=0.0), MediaReader())
    measures = measure_reconstruction(
        clips=((item.clip, item.metadata) for item in footage if isinstance(item, FootageClip)),
        video=video,
        audio=audio,
        output=tmp_path / "out",
        recognizer=recognizer,
    )
    heard = {key: clip.waveform for key, clip in clips.items() if clip.waveform is not None}
    back = {key: audio.decode(audio.encode(waveform)) for key, waveform in heard.items()}
    for name, sounds in (("speech_error_original", heard), ("speech_error_decoded", back)):
        errors = [count_errors(transcripts[k], recognizer.transcribe(w, "en"), "en").total for k, w in sounds.items()]
        assert measures[name] == pytest.approx(sum(errors) / 4)  # four words in all
    psnr = [psnr_decibel(clip.frames, video.decode(video.encode(clip.frames))) for clip in clips.values()]
    assert measures["video_psnr_db"] == pytest.approx(sum(psnr) / 3)
    written = {path.stem for path in (tmp_path / "out").glob("*.mp4")}
    assert written == {"a", "b", "silent"}
    assert MediaReader().read(tmp_path / "out" / "silent.mp4").waveform is None
