"""A tiny vision-language model, random but of the real classes: what it is shown and asked, and what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hh_train.data.annotate import Captioner, VisionLanguageCaptioner

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)
WORDS = ("user", "assistant", ":", "what", "is", "seen", "a", "man", "speaks", "quietly")


def save_llava(folder: Path) -> str:
    """Saves a random LLaVA of width 16 that sees 4 patches of a 16 x 16 picture, with its processor."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    vocabulary = {word: index for index, word in enumerate(("<unk>", "<pad>", "</s>", "<image>", *WORDS))}
    tokens = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=16,
                patch_size=8,
                projection_dim=16,
            ),
            text_config=LlamaConfig(
                vocab_size=len(vocabulary),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                bos_token_id=2,
                eos_token_id=2,
                pad_token_id=1,
            ),
            image_token_index=vocabulary["<image>"],
        )
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def save_idefics(folder: Path) -> str:
    """Saves a random Idefics3 of width 16, which cuts pictures into tiles, with its processor."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
        LlamaConfig,
        PreTrainedTokenizerFast,
    )
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    marks = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tiles]
    vocabulary = {word: index for index, word in enumerate(("<unk>", "<pad>", "</s>", *marks, *WORDS))}
    tokens = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="</s>",
        additional_special_tokens=marks,
    )
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = Idefics3ForConditionalGeneration(
        Idefics3Config(
            vision_config={**layers, "image_size": 16, "patch_size": 4},
            text_config=LlamaConfig(
                **layers,
                num_key_value_heads=2,
                vocab_size=len(vocabulary),
                bos_token_id=2,
                eos_token_id=2,
                pad_token_id=1,
            ).to_dict(),
            image_token_id=vocabulary["<image>"],
            pad_token_id=1,
        )
    )
    model.save_pretrained(folder)
    Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_llava(tmp_path_factory.mktemp("llava"))


def frames(count: int) -> Tensor:
    return (10 * torch.arange(count))[:, None, None, None].expand(count, 24, 32, 3).to(torch.uint8)


class Answers:
    """Stands before the network: keeps what it is given and answers with chosen words."""

    def __init__(self, network: Any, words: list[int]) -> None:
        self._network, self._words = network, words
        self.dtype = network.dtype
        self.given: dict[str, Any] = {}

    def generate(self, **arguments: Any) -> Tensor:
        self.given = arguments
        self._network.generate(**arguments)
        return torch.cat([arguments["input_ids"], torch.tensor([self._words])], dim=1)


def test_frames_spread_over_the_clip_are_shown(model: str) -> None:
    captioner = VisionLanguageCaptioner(model=model, question="what is seen", num_frames=3, max_tokens=4)
    assert isinstance(captioner, Captioner)
    stand_in = Answers(captioner._network, [10, 11, 12, 2])
    captioner.__dict__["_network"] = stand_in
    assert captioner.caption(frames(9)) == "a man speaks"
    pictures = stand_in.given["pixel_values"]
    assert pictures.shape == (3, 3, 16, 16)
    grays = pictures.mean((1, 2, 3))
    assert grays[0] < grays[1] < grays[2]
    assert torch.allclose(grays[1] - grays[0], grays[2] - grays[1], atol=1e-3)
    ids = stand_in.given["input_ids"][0]
    assert int((ids == 3).sum()) == 3 * 4
    assert stand_in.given["max_new_tokens"] == 4


def test_a_single_frame_is_shown_once(model: str) -> None:
    captioner = VisionLanguageCaptioner(model=model, question="what is seen", num_frames=8, max_tokens=4)
    stand_in = Answers(captioner._network, [11])
    captioner.__dict__["_network"] = stand_in
    assert captioner.caption(frames(1)) == "man"
    assert stand_in.given["pixel_values"].shape[0] == 1


def test_the_model_itself_answers_the_same_each_time(model: str) -> None:
    captioner = VisionLanguageCaptioner(model=model, question="what is seen", num_frames=2, max_tokens=6)
    try:
        first = captioner.caption(frames(5))
    except ValueError as error:
        assert "no answer" in str(error)
        return
    assert first == captioner.caption(frames(5))
    assert set(first.split()) <= {*WORDS, "<unk>"}


def test_another_family_is_used_in_the_same_way(tmp_path: Path) -> None:
    captioner = VisionLanguageCaptioner(
        model=save_idefics(tmp_path), question="what is seen", num_frames=3, max_tokens=5
    )
    stand_in = Answers(captioner._network, [captioner._processor.tokenizer.get_vocab()["man"]])
    captioner.__dict__["_network"] = stand_in
    assert captioner.caption(frames(9)) == "man"
    tiles = stand_in.given["pixel_values"]
    assert tiles.shape[1] >= 3
    assert tiles.shape[2:] == (3, 16, 16)


def test_no_answer_is_told(model: str) -> None:
    captioner = VisionLanguageCaptioner(model=model, question="what is seen")
    captioner.__dict__["_network"] = Answers(captioner._network, [2])
    with pytest.raises(ValueError, match=r"no caption: .* has no answer"):
        captioner.caption(frames(2))


def test_the_model_is_loaded_when_it_is_used(tmp_path: Path) -> None:
    assert VisionLanguageCaptioner(model=str(tmp_path / "missing")).settings()["model"].endswith("missing")


@pytest.mark.parametrize("arguments", [{"num_frames": 0}, {"max_tokens": 0}])
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        VisionLanguageCaptioner(model="any", **arguments)
