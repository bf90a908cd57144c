"""How much the codecs lose: held-out clips through them and back, measured and written beside the shards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hh_train.data.footage.clip_folder import write_described_clip
from hh_train.data.media.files import resample
from hh_train.metrics.speech.recognizer import SAMPLES_PER_SECOND, Recognizer
from hh_train.metrics.speech.wer import SpeechErrors, count_errors
from hh_train.tokenizers import AudioTokenizer, VideoTokenizer
from hh_train.tokenizers.spectrum import ShortTimeFourier, mel_filters
from hh_train.types import Clip, ClipMetadata


def measure_reconstruction(
    *,
    clips: Iterable[tuple[Clip, ClipMetadata]],
    video: VideoTokenizer,
    audio: AudioTokenizer,
    output: Path,
    recognizer: Recognizer | None = None,
) -> dict[str, float]:
    """Encodes and decodes the clips; writes `<key>.mp4`, `.txt` and `.json` in the layout of generated clips.

    Returns:
        Means over the clips: `video_psnr_db` (peak signal to noise), and for clips with sound `audio_mel_distance_db`
        and `audio_loudness_change_db`. With a recognizer, over the clips whose words and language are known, its errors
        a word (a character in Chinese, Japanese, Korean): `speech_error_original` and `speech_error_decoded`. What no
        clip could tell is left out.
    """
    measures: dict[str, list[float]] = {}
    errors: list[tuple[SpeechErrors, SpeechErrors]] = []
    output.mkdir(parents=True, exist_ok=True)
    for original, metadata in clips:
        latent = video.encode(original.frames)
        statistics = {"video": _statistics(latent)}
        frames = video.decode(latent)
        measures.setdefault("video_psnr_db", []).append(psnr_decibel(original.frames, frames))
        waveform = None
        if original.waveform is not None:
            sound = audio.encode(original.waveform)
            statistics["audio"] = _statistics(sound)
            waveform = audio.decode(sound)
            distance = mel_distance_decibel(original.waveform, waveform, original.samples_per_second)
            measures.setdefault("audio_mel_distance_db", []).append(distance)
            loudness = 20 * torch.log10(_loudness(waveform) / _loudness(original.waveform))
            measures.setdefault("audio_loudness_change_db", []).append(float(loudness))
            if recognizer is not None and metadata.transcript and metadata.language:
                heard = (
                    torch.from_numpy(resample(w.numpy(), original.samples_per_second, SAMPLES_PER_SECOND))
                    for w in (original.waveform, waveform)
                )
                errors.append(_speech_errors(recognizer, metadata, *heard))
        decoded = Clip(
            frames=frames,
            frames_per_second=original.frames_per_second,
            waveform=waveform,
            samples_per_second=original.samples_per_second,
        )
        write_described_clip(output, decoded, metadata, record={"latent_statistics": statistics})
    means = {name: sum(values) / len(values) for name, values in measures.items()}
    num_units = sum(before.reference_units for before, _ in errors)
    if num_units:
        means["speech_error_original"] = sum(before.total for before, _ in errors) / num_units
        means["speech_error_decoded"] = sum(after.total for _, after in errors) / num_units
    return means


def _speech_errors(
    recognizer: Recognizer, metadata: ClipMetadata, original: Tensor, decoded: Tensor
) -> tuple[SpeechErrors, SpeechErrors]:
    assert metadata.language is not None
    heard = recognizer.transcribe_batch([original, decoded], [metadata.language] * 2)
    before, after = (count_errors(metadata.transcript, text, metadata.language) for text in heard)
    return before, after


def psnr_decibel(original: UInt8[Tensor, "F H W 3"], decoded: UInt8[Tensor, "F H W 3"]) -> float:
    """Peak signal to noise ratio over all pixels; infinite for equal clips."""
    error = (original.float() - decoded.float()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def mel_distance_decibel(original: Float[Tensor, " S"], decoded: Float[Tensor, " S"], samples_per_second: int) -> float:
    """Mean distance of the log-mel spectra, 80 bands of 10 ms frames, magnitudes below -60 dB counting as silence."""
    hop = samples_per_second // 100
    fourier = ShortTimeFourier(window=4 * hop, hop=hop)
    filters = mel_filters(num_mels=80, num_bins=fourier.num_bins, samples_per_second=samples_per_second)
    whole = original.shape[0] // hop * hop
    levels = [20 * torch.log10(fourier.forward(w[:whole]).abs() @ filters.T + 1e-3) for w in (original, decoded)]
    return float((levels[0] - levels[1]).abs().mean())


def _loudness(waveform: Tensor) -> Tensor:
    """Root mean square, never below that of 16-bit silence."""
    return waveform.square().mean().sqrt().clamp_min(2**-15)


def _statistics(latent: Tensor) -> dict[str, float]:
    return {"mean": float(latent.mean()), "std": float(latent.std())}
