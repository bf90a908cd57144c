"""The T5Gemma codec with small random weights of the same classes: features, lengths, batches, references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hh_train.tokenizers import PretrainedTokenizer, TextTokenizer, load_tokenizer
from hh_train.tokenizers.t5gemma import NULL_PROMPT, T5GemmaTextTokenizer

WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "woman", "speaks", "man", "laughs", "in", "the", "rain"]
WIDTH = 32


def small_config() -> Any:
    from transformers import T5GemmaConfig, T5GemmaModuleConfig

    part = T5GemmaModuleConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, sliding_window=16, max_position_embeddings=1024,
    )  # fmt: skip
    return T5GemmaConfig(encoder=part.to_dict(), decoder=part.to_dict(), vocab_size=len(WORDS))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoder, decoder and words, as the released model comes."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast, T5GemmaForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5gemma")
    torch.manual_seed(0)
    model = T5GemmaForConditionalGeneration(small_config())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(source: Path) -> T5GemmaTextTokenizer:
    return T5GemmaTextTokenizer(source=str(source), dtype="float32", device="cpu")


def test_it_plays_its_role(tokenizer: T5GemmaTextTokenizer) -> None:
    assert isinstance(tokenizer, TextTokenizer)
    assert isinstance(tokenizer, PretrainedTokenizer)
    assert tokenizer.num_channels == WIDTH
    assert tokenizer.max_tokens == 640


def test_features_are_the_encoders_last_states(tokenizer: T5GemmaTextTokenizer, source: Path) -> None:
    from transformers import T5GemmaForConditionalGeneration

    features = tokenizer.encode("a woman speaks in the rain")
    assert features.shape == (7, WIDTH)
    whole = T5GemmaForConditionalGeneration.from_pretrained(source).eval()
    ids = torch.tensor([[2, 4, 5, 6, 9, 10, 11]])
    with torch.no_grad():
        expected = whole.get_encoder()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
    assert float(features.std()) > 0.1
    assert not any("decoder" in name for name, _ in tokenizer.model.named_parameters())


def test_every_word_shows_in_every_feature(tokenizer: T5GemmaTextTokenizer) -> None:
    first, second = tokenizer.encode("a woman speaks"), tokenizer.encode("a woman laughs")
    assert (first - second).abs().amax(1).min() > 1e-3


def test_a_batch_gives_what_its_prompts_give(tokenizer: T5GemmaTextTokenizer) -> None:
    prompts = ["a man", "a woman speaks in the rain " * 8, "laughs"]  # the second is longer than the sliding window
    for single, together in zip(map(tokenizer.encode, prompts), tokenizer.encode_many(prompts), strict=True):
        torch.testing.assert_close(together, single, atol=1e-4, rtol=1e-4)
    assert tokenizer.encode_many([]) == []


def test_long_prompts_are_refused_or_trimmed_after_the_encoder(source: Path, tokenizer: T5GemmaTextTokenizer) -> None:
    prompt = "a woman speaks in the rain"
    strict = T5GemmaTextTokenizer(source=str(source), dtype="float32", device="cpu", max_tokens=4)
    with pytest.raises(ValueError, match="the prompt has 7 tokens, wanted 4 at most"):
        strict.encode(prompt)
    trimming = T5GemmaTextTokenizer(source=str(source), dtype="float32", device="cpu", max_tokens=4, trim=True)
    torch.testing.assert_close(trimming.encode(prompt), tokenizer.encode(prompt)[:4], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_empty_prompts_are_refused(tokenizer: T5GemmaTextTokenizer, prompt: str) -> None:
    with pytest.raises(ValueError, match="got an empty prompt"):
        tokenizer.encode(prompt)


def test_the_null_prompt_is_long_settable_and_part_of_the_identity(source: Path, tokenizer: Any) -> None:
    assert tokenizer.null_prompt == NULL_PROMPT
    assert len(NULL_PROMPT.split()) > 120
    assert [block.split(":")[0] for block in NULL_PROMPT.split("\n\n")] == ["Picture", "Sound", "Speech"]
    other = T5GemmaTextTokenizer(source=str(source), dtype="float32", null_prompt="a man")
    assert other.null_prompt == "a man"
    assert other.fingerprint() != tokenizer.fingerprint()


def test_an_encoder_alone_will_do(source: Path, tokenizer: T5GemmaTextTokenizer, tmp_path: Path) -> None:
    tokenizer.model.save_pretrained(tmp_path)
    for path in source.glob("tokenizer*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    alone = T5GemmaTextTokenizer(source=str(tmp_path), dtype="float32", device="cpu")
    assert alone.num_channels == WIDTH
    torch.testing.assert_close(alone.encode("a man laughs"), tokenizer.encode("a man laughs"))


def test_bfloat16_is_near(source: Path, tokenizer: T5GemmaTextTokenizer) -> None:
    half = T5GemmaTextTokenizer(source=str(source), device="cpu")
    features = half.encode("a woman speaks")
    assert features.dtype == torch.float32
    expected = tokenizer.encode("a woman speaks")
    assert (features - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_it_is_saved_by_reference(tokenizer: T5GemmaTextTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, T5GemmaTextTokenizer)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.null_prompt == NULL_PROMPT
    assert torch.equal(loaded.encode("a man"), tokenizer.encode("a man"))


def test_other_words_are_another_codec(source: Path, tokenizer: T5GemmaTextTokenizer, tmp_path: Path) -> None:
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    words = (tmp_path / "tokenizer.json").read_text().replace('"laughs"', '"cries"')
    (tmp_path / "tokenizer.json").write_text(words)
    assert T5GemmaTextTokenizer(source=str(tmp_path), dtype="float32").fingerprint() != tokenizer.fingerprint()
