"""Keys in every style, and strangers by name."""

from __future__ import annotations

import pytest
import torch

from hh_train.model.lora.keys import KeyStyle, parse, styled
from hh_train.model.lora.matrices import MatrixChange

CHANGE = MatrixChange(down=torch.ones(2, 3), up=torch.ones(4, 2), alpha=1.0)
LINEAR = "block.layers.12.attention.linear_qkv"
UNDERSCORED = "lora_unet_block_layers_12_attention_linear_qkv"
PLACE = (12, "attention.linear_qkv")


@pytest.mark.parametrize(
    ("style", "keys"),
    [
        ("peft", {f"base_model.model.{LINEAR}.lora_A.weight", f"base_model.model.{LINEAR}.lora_B.weight"}),
        ("comfyui", {f"diffusion_model.{LINEAR}.{t}" for t in ("lora_A.weight", "lora_B.weight", "alpha")}),
        (
            "kohya",
            {f"{UNDERSCORED}.{t}" for t in ("lora_down.weight", "lora_up.weight", "alpha")},
        ),
    ],
)  # fmt: skip
def test_styles(style: KeyStyle, keys: set[str]) -> None:
    tensors = styled({LINEAR: CHANGE}, style, dtype=torch.bfloat16)
    assert tensors.keys() == keys
    parsed = parse(tensors, source="file")
    assert parsed.style == style
    found = parsed.matrices[PLACE]
    assert found["down"].shape == (2, 3) and found["up"].shape == (4, 2) and found["down"].dtype == torch.bfloat16
    assert ("alpha" in found) == (style != "peft")


@pytest.mark.parametrize("style", ["peft", "comfyui", "kohya"])
def test_lengths_of_rows_in_the_sense_of_the_tool(style: KeyStyle) -> None:
    change = MatrixChange(
        down=CHANGE.down, up=CHANGE.up, alpha=1.0, magnitude=torch.full((4,), 5.0), gained=torch.full((4,), 7.0)
    )
    tensors = styled({LINEAR: change}, style, dtype=torch.float32)
    found = parse(tensors, source="file").matrices[PLACE]
    if style == "comfyui":
        assert found["gained"].shape == (4, 1) and found["gained"][0] == 7 and "magnitude" not in found
    else:
        assert len(found["magnitude"]) == 4 and found["magnitude"][0] == 5 and "gained" not in found


@pytest.mark.parametrize(
    ("prefix", "suffixes", "style"),
    [
        ("transformer.", ("lora_A.weight", "lora_B.weight"), "diffusers"),
        ("", ("lora_A.default.weight", "lora_B.default.weight"), "bare"),
        ("model.diffusion_model.", ("lora_down.weight", "lora_up.weight"), "comfyui"),
        ("base_model.model.", ("lora_A.weight", "lora_B.weight"), "peft"),
    ],
)
def test_other_spellings_are_read(prefix: str, suffixes: tuple[str, str], style: str) -> None:
    tensors = {f"{prefix}{LINEAR}.{suffix}": torch.zeros(1, 1) for suffix in suffixes}
    parsed = parse(tensors, source="file")
    assert parsed.style == style and parsed.matrices[PLACE].keys() == {"down", "up"}


@pytest.mark.parametrize(
    ("key", "owner"),
    [
        ("diffusion_model.transformer_blocks.3.attn1.to_k.lora_A.weight", "LTX-Video, CogVideoX or another"),
        ("diffusion_model.transformer_blocks.3.audio_to_video_attn.to_k.lora_A.weight", "LTX-2"),
        ("diffusion_model.transformer_blocks.3.audio_attn1.to_k.lora_A.weight", "LTX-2"),
        ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "Wan"),
        ("lora_unet_blocks_0_cross_attn_k.lora_down.weight", "Wan"),
        ("transformer.blocks.0.attn1.to_q.lora_A.weight", "Wan"),
        ("diffusion_model.blocks.0.self_attn.q_proj.lora_A.weight", "Cosmos"),
        ("audio_model.blocks.0.self_attn.q.lora_A.weight", "Ovi"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "Flux or HunyuanVideo"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux or HunyuanVideo"),
        ("transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight", "a diffusion transformer with"),
        ("diffusion_model.layers.0.attention.qkv.lora_A.weight", "Lumina or Z-Image"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "the UNet of Stable Diffusion"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight", "the UNet of Stable Diffusion"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "a text encoder"),
        ("text_encoder.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight", "a text encoder"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "a language model"),
        ("lycoris_blocks_0_attn.hada_w1_a", "another kind of adapter"),
        ("encoder.something.lora_A.weight", "an unknown model"),
    ],
)
def test_keys_of_other_models_are_named(key: str, owner: str) -> None:
    with pytest.raises(ValueError, match="my.safetensors: these are keys of " + owner) as caught:
        parse({key: torch.zeros(1)}, source="my.safetensors")
    assert key in str(caught.value)


def test_a_checkpoint_is_no_adapter() -> None:
    tensors = {f"{LINEAR}.weight": torch.zeros(1), "final_norm_video.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="these are keys of a whole checkpoint, no adapter"):
        parse(tensors, source="file")


def test_what_no_adapter_of_ours_has() -> None:
    good = styled({LINEAR: CHANGE}, "comfyui", dtype=torch.float32)
    with pytest.raises(ValueError, match=r"that no adapter has: diffusion_model.final_linear_video.lora_A.weight"):
        parse({**good, "diffusion_model.final_linear_video.lora_A.weight": torch.zeros(1)}, source="file")
    with pytest.raises(ValueError, match=r"no adapter has: adapter.video_embedder.lora_A.weight"):
        parse({"adapter.video_embedder.lora_A.weight": torch.zeros(1)}, source="file")
    with pytest.raises(ValueError, match=r"no adapter has: block.layers.1.attention.pre_norm.diff"):
        parse({"block.layers.1.attention.pre_norm.diff": torch.zeros(1)}, source="file")


def test_halves_and_doubles() -> None:
    tensors = styled({LINEAR: CHANGE}, "comfyui", dtype=torch.float32)
    with pytest.raises(ValueError, match=r"down of .* twice"):
        parse({**tensors, f"base_model.model.{LINEAR}.lora_A.weight": torch.zeros(1)}, source="file")
    del tensors[f"diffusion_model.{LINEAR}.lora_B.weight"]
    with pytest.raises(ValueError, match=f"file is incomplete:\n  {LINEAR} has no up factor"):
        parse(tensors, source="file")
    with pytest.raises(ValueError, match="holds no tensors"):
        parse({}, source="file")
