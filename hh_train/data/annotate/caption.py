"""Pictures to words: a description of what a clip shows."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

QUESTION = (
    "These pictures are moments of one video clip, in their order. Describe the clip in one paragraph of plain prose: "
    "the size of the shot, who is seen and how they look, what they do and how their face changes, the place, the "
    "light and the movement of the camera. Do not guess at what is said, and do not mention pictures or frames."
)


@runtime_checkable
class Captioner(Protocol):
    """Describes what is seen."""

    def caption(self, frames: UInt8[Tensor, "F H W 3"]) -> str:
        """One paragraph about frames of a clip or of one of its shots."""
        ...

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as plain JSON values."""
        ...


class VisionLanguageCaptioner:
    """A vision-language model of the transformers library that is shown frames spread over the clip.

    The model is loaded when it is first used.

    Args:
        model: folder or hub id of a model for images and text with a chat template.
        question: what the model is asked.
        num_frames: shown of each clip.
        max_tokens: of the answer.
        device, dtype: where the model runs, and in which numbers.
    """

    def __init__(
        self,
        *,
        model: str,
        question: str = QUESTION,
        num_frames: int = 8,
        max_tokens: int = 256,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        if num_frames < 1 or max_tokens < 1:
            raise ValueError(f"got num_frames {num_frames} and max_tokens {max_tokens}; wanted positive numbers")
        self.model = model
        self.question = question
        self.num_frames = num_frames
        self.max_tokens = max_tokens
        self.device = device
        self.dtype = dtype

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as plain JSON values."""
        return {
            "class": "VisionLanguageCaptioner",
            "model": self.model,
            "question": self.question,
            "num_frames": self.num_frames,
            "max_tokens": self.max_tokens,
        }

    def caption(self, frames: UInt8[Tensor, "F H W 3"]) -> str:
        """One paragraph, decoded greedily.

        Raises:
            ValueError: the model answers nothing.
        """
        from PIL import Image

        at = np.linspace(0, frames.shape[0] - 1, min(self.num_frames, frames.shape[0])).round().astype(int)
        pictures = [{"type": "image", "image": Image.fromarray(frames[int(index)].cpu().numpy())} for index in at]
        message = {"role": "user", "content": [*pictures, {"type": "text", "text": self.question}]}
        inputs = self._processor.apply_chat_template(
            [message], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.device)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self._network.dtype)
        with torch.inference_mode():
            tokens = self._network.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_tokens)
        answer = tokens[:, inputs["input_ids"].shape[1] :]
        text: str = self._processor.tokenizer.batch_decode(answer, skip_special_tokens=True)[0]
        if not text.strip():
            raise ValueError(f"no caption: {self.model} has no answer")
        return " ".join(text.split())

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(self.model)  # type: ignore[no-untyped-call]

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModelForImageTextToText

        network: Any = AutoModelForImageTextToText.from_pretrained(self.model, dtype=getattr(torch, self.dtype))
        return network.to(self.device).eval().requires_grad_(False)
