"""The text codec: the encoder of T5Gemma, its last hidden states as features, one a token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.tokenizers.referenced import ReferencedTokenizer

NULL_PROMPT = """\
Picture: blurred, low resolution, heavy compression blocks, noise, banding, flicker, overexposed or murky light, dull \
washed-out or garish color, shaky camera, sudden cuts, subtitles, captions, logos, watermarks, borders, split screen. \
Frozen picture, slide show, stutter, ghosting, smeared motion, objects that melt, appear or vanish. Deformed face, \
crossed or empty eyes, waxy skin, drifting identity, extra or fused fingers, missing limbs, twisted joints, wrong \
proportions, crowded cluttered background, people who walk backwards. A mouth that stays shut, hangs open or moves \
at random, lips and teeth that do not fit the words, a stare without expression.

Sound: hiss, hum, crackle, clipping, wind on the microphone, metallic ringing, robotic or tinny tone, muffled, \
distant, drowned in echo, volume that pumps, drop-outs, sudden silence, music or noise that covers the voice, sounds \
that nothing in the picture makes, sound ahead of the picture or behind it.

Speech: mumbled, slurred, stammered or garbled words, babble of no language, wrong language, strong wrong accent, \
words left out, repeated or made up, a monotonous lifeless reading, unnatural pauses and stress, a voice that changes \
its age or sex within a sentence or does not suit the speaker, several voices at once."""


class T5GemmaTextTokenizer(ReferencedTokenizer):
    """A prompt to the encoder's last hidden states, [Nt, 3584] in the 9b model, for real tokens alone.

    Args:
        source: folder or id with a transformers `T5GemmaForConditionalGeneration` (its decoder is not read) or
            `T5GemmaEncoderModel`, and its tokenizer.
        subfolder: where in the source they lie.
        revision: of an id.
        dtype: float32, bfloat16 or float16.
        max_tokens: features that a prompt may have.
        trim: whether longer prompts lose the features of their last tokens, and so what is said in the end. Without
            it they are refused.
        null_prompt: stands for 'no text'; null is `NULL_PROMPT`.
        device: null is this process's accelerator, or else the CPU.
        content: the hash that the source must have.
    """

    further_files = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")

    def __init__(
        self,
        *,
        source: str,
        subfolder: str | None = None,
        revision: str | None = None,
        dtype: str = "bfloat16",
        max_tokens: int = 640,
        trim: bool = False,
        null_prompt: str | None = None,
        device: str | None = None,
        content: str | None = None,
    ) -> None:
        super().__init__(
            source=source, subfolder=subfolder, revision=revision, dtype=dtype, device=device, content=content
        )
        self._max_tokens = max_tokens
        self.trim = trim
        self._null_prompt = NULL_PROMPT if null_prompt is None else null_prompt

    def latent_settings(self) -> dict[str, Any]:
        return {
            **super().latent_settings(),
            "max_tokens": self._max_tokens,
            "trim": self.trim,
            "null_prompt": self._null_prompt,
        }

    @property
    def num_channels(self) -> int:
        return int(self.model_config.get("encoder", self.model_config)["hidden_size"])

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    @property
    def null_prompt(self) -> str:
        """The fixed negative prompt that stands for 'no text' in guidance and in text dropout."""
        return self._null_prompt

    def encode(self, prompt: str) -> Float[Tensor, "Nt C"]:
        """Raises ValueError when the prompt is empty, or longer than `max_tokens` and not to be trimmed."""
        return self.encode_many([prompt])[0]

    @torch.no_grad()
    def encode_many(self, prompts: Sequence[str]) -> list[Float[Tensor, "_ _"]]:
        """`encode` of every prompt, all in one pass through the model."""
        if not prompts:
            return []
        tokens = [self.token_ids(prompt) for prompt in prompts]
        longest = max(len(ids) for ids in tokens)
        ids = torch.zeros(len(tokens), longest, dtype=torch.long)
        is_real = torch.zeros(len(tokens), longest, dtype=torch.long)
        for row, found in enumerate(tokens):
            ids[row, : len(found)] = torch.tensor(found)
            is_real[row, : len(found)] = 1
        states = self.model(input_ids=ids.to(self.device), attention_mask=is_real.to(self.device)).last_hidden_state
        kept = (min(len(found), self._max_tokens) for found in tokens)
        return [row[:length].float().cpu() for row, length in zip(states, kept, strict=True)]

    def token_ids(self, prompt: str) -> list[int]:
        """The tokens that the encoder reads, special ones included. What is trimmed is trimmed after it."""
        if not prompt.strip():
            raise ValueError("got an empty prompt; wanted a description or a dialogue")
        ids: list[int] = self._words(prompt)["input_ids"]
        if len(ids) > self._max_tokens and not self.trim:
            raise ValueError(
                f"the prompt has {len(ids)} tokens, wanted {self._max_tokens} at most: shorten the description, or set "
                "the text tokenizer's trim"
            )
        return ids

    @cached_property
    def _words(self) -> Any:
        from transformers import AutoTokenizer

        assert self.content
        return AutoTokenizer.from_pretrained(str(self.folder))

    def load_model(self) -> Any:
        from transformers import T5GemmaConfig, T5GemmaEncoderModel

        silence = {"_keys_to_ignore_on_load_unexpected": [r"^(model\.)?decoder\.", r"^lm_head\."]}
        encoder_alone: Any = type("T5GemmaEncoderModel", (T5GemmaEncoderModel,), silence)
        config = T5GemmaConfig.from_pretrained(str(self.folder))
        config.is_encoder_decoder = False
        loaded = encoder_alone.from_pretrained(
            str(self.folder), config=config, dtype=self.dtype, use_safetensors=True, output_loading_info=True
        )
        model, info = loaded
        self.check_loaded(info)
        return model
