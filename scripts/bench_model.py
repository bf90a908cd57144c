"""How fast the model is, as ratios of times taken in turn within one run: repetition by repetition, A B A B ...

    python scripts/bench_model.py [--only gemm step wan packing layer pass] [--presets cpu sandwich_50m] [--tiny]

gemm     matrix products at the model's own shapes: bf16 against fp32. Reads no model code.
step     forward and backward pass on packs of mixed clips, as a share of the rate of its own matrix products (gemm).
wan      the same step against diffusers' WanTransformer3DModel of equal width and about equal parameters.
packing  how full the packs of a realistic mix of clips are. Counts only.
layer    CUDA: one shared and one sandwich layer of the 15B model, forward and backward: share of the device's peak.
pass     CUDA: eight evaluations of the whole 15B model at 256p, and one at 1080p with local attention.

Shares and ratios are medians with their range. Times of one machine at one moment stand beside them for orientation
and say nothing about another. `--tiny` runs every part at toy size on whatever device there is: it shows that the code
runs. On CPUs set the two MALLOC_ variables as scripts/setup.sh does, else fresh memory pages cost as much as products.
"""

from __future__ import annotations

import argparse
import gc
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from hh_train.data.loading.plan import Budget, Conditions, TrainingPlan
from hh_train.data.packing import pack
from hh_train.data.shards.manifest import Manifest, Moments, SampleRecord, ShardRecord
from hh_train.flow.solvers import RenoiseSolver
from hh_train.model.config import ModelConfig
from hh_train.model.modality import ModalityLinear, grouped_products, separate_products
from hh_train.model.rope import RotaryBands
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.composition import compose_config
from hh_train.runtime.config import instantiate
from hh_train.types import LatentClip, PackedBatch, Prediction

PARTS = ("gemm", "step", "wan", "packing", "layer", "pass")
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
H100_DENSE_BF16_TFLOPS = 989
ORIGINAL_8_EVALUATIONS_SECONDS = 1.6
"""The released code at 256p and 5 s on one H100."""
console = Console(width=140)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line decides."""

    tiny: bool
    presets: tuple[str, ...]
    rounds: int
    tokens: int
    modes: tuple[str, ...]
    device: torch.device
    peak_tflops: float

    def config(self, preset: str) -> ModelConfig:
        """Of a preset in configs/model; with --tiny a small model of the same kind."""
        config: ModelConfig = instantiate(compose_config("pretrain", [f"model={preset}"]).module.model.config)
        if not self.tiny:
            return config
        return replace(
            config,
            num_layers=4,
            hidden_size=64,
            head_dim=16,
            num_query_groups=2,
            text_in_channels=32,
            mm_layers=(0, 3),
            gelu7_layers=(0,),
            local_attention_layers=(1, 2) if config.local_attention_layers else (),
        )


# ---------------------------------------------------------------------------------------------------- measuring


def in_turn(runs: Mapping[str, Callable[[], object]], settings: Settings) -> dict[str, list[float]]:
    """Seconds of each, `rounds` times; within a round they follow each other. Two rounds before that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(settings.rounds + 2):
        for name, run in runs.items():
            _wait(settings.device)
            start = time.perf_counter()
            run()
            _wait(settings.device)
            if index >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f}{unit}  [{min(values):.2f} .. {max(values):.2f}]"


def quotients(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(first, second, strict=True)]


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        made.add_column(name, justify="left" if index == 0 else "right")
    return made


def can_compile(device: torch.device) -> bool:
    return device.type == "cuda" or any(map(shutil.which, ("c++", "g++", "clang++")))


def modes_for(settings: Settings) -> tuple[str, ...]:
    if can_compile(settings.device):
        return settings.modes
    console.print("compiled: skipped, there is no C++ compiler")
    return tuple(mode for mode in settings.modes if mode != "compiled")


# -------------------------------------------------------------------------------------------------------- clips


def latent_clip(
    config: ModelConfig, key: str, *, grid: tuple[int, int, int] | None, audio: int, text: int
) -> LatentClip:
    """Random latents; `grid` counts latent frames, rows and columns."""
    channels = config.video_in_channels // config.patch_volume
    return LatentClip(
        key=key,
        video=torch.randn(channels, *grid) if grid else None,
        audio=torch.randn(audio, config.audio_in_channels) if audio else None,
        text=torch.randn(text, config.text_in_channels),
    )


def mixed_pack(config: ModelConfig, *, budget: int, seed: int) -> PackedBatch:
    """Clips of 1 to 5 latent frames at several sizes and shapes of picture, a third of them sound alone."""
    draw, clips, used = random.Random(seed), [], 0
    while True:
        latent_frames = draw.choice((1, 2, 3, 4, 5, 6, 8))
        rows, columns = draw.choice(((8, 8), (8, 8), (6, 10), (10, 6), (8, 14)))
        is_seen, audio, text = draw.random() < 0.65, 4 * latent_frames - 3, draw.randint(14, 60)
        grid = (latent_frames, rows, columns) if is_seen else None
        clip = latent_clip(config, f"clip {len(clips)}", grid=grid, audio=audio, text=text)
        used += audio + text + (latent_frames * rows * columns // 4 if is_seen else 0)
        if used > budget:
            return pack(clips, patch=config.patch)
        clips.append(clip)


def train_steps(model: nn.Module, batches: Sequence[PackedBatch]) -> None:
    for batch in batches:
        prediction: Prediction = model(batch)
        (prediction.video.square().sum() + prediction.audio.square().sum()).backward()
        model.zero_grad()


# ---------------------------------------------------------------------------------------- matrix products alone


def products(model: SandwichTransformer, num_tokens: int, dtype: torch.dtype) -> tuple[Callable[[], None], int]:
    """One layer's worth of the model's matrix products with both gradients, and how many operations that is."""
    layer = model.layers[len(model.layers) // 2]
    linears = [module for module in layer.modules() if isinstance(module, ModalityLinear)]
    operands = []
    for linear in linears:
        weight = torch.randn(linear.weight.shape[0] // linear.num_experts, linear.weight.shape[1]).to(dtype)
        rows = torch.randn(num_tokens, weight.shape[1]).to(dtype)
        operands.append((rows, weight, torch.randn(num_tokens, weight.shape[0]).to(dtype)))

    def run() -> None:
        for rows, weight, gradient in operands:
            torch.mm(rows, weight.T)
            torch.mm(gradient, weight)
            torch.mm(gradient.T, rows)

    return run, sum(6 * num_tokens * weight.numel() for _, weight, _ in operands)


def bench_gemm(settings: Settings) -> None:
    rows = table(
        "Matrix products of one layer, forward and backward", "preset", "width", "bf16 / fp32 rate", "bf16 GFLOP/s"
    )
    for preset in settings.presets:
        config = settings.config(preset)
        model = SandwichTransformer(config=config)
        runs, operations = {}, 0
        for name, dtype in DTYPES.items():
            runs[name], operations = products(model, 128 if settings.tiny else 1024, dtype)
        seconds = in_turn(runs, settings)
        rates = [operations / second / 1e9 for second in seconds["bfloat16"]]
        ratio = quotients(seconds["float32"], seconds["bfloat16"])
        rows.add_row(preset, str(config.hidden_size), spread(ratio, "x"), f"{statistics.median(rates):.0f}")
    console.print(rows)


# ------------------------------------------------------------------------------------------------ training step


def variants(config: ModelConfig, dtype: str, modes: Sequence[str]) -> dict[str, SandwichTransformer]:
    """Models of equal weights, as they are and compiled."""
    models = {mode: SandwichTransformer(config=config, compute_dtype=dtype) for mode in modes}
    first = next(iter(models.values()))
    for mode, model in models.items():
        model.load_state_dict(first.state_dict())
        if mode == "compiled":
            model.compile_layers()
    return models


def bench_step(settings: Settings) -> None:
    rows = table(
        f"Training step on packs of up to {settings.tokens} tokens of mixed clips",
        "preset", "dtype", "mode", "share of its products' rate", "compiled / eager", "tokens/s",
    )  # fmt: skip
    modes = modes_for(settings)
    for preset in settings.presets:
        config = settings.config(preset)
        budget = 256 if settings.tiny else settings.tokens
        batches = [mixed_pack(config, budget=budget, seed=seed) for seed in range(3)]
        tokens = sum(batch.num_tokens for batch in batches)
        for dtype, torch_dtype in DTYPES.items():
            models = variants(config, dtype, modes)
            run_products, operations = products(next(iter(models.values())), batches[0].num_tokens, torch_dtype)
            runs: dict[str, Callable[[], object]] = {"products": run_products}
            runs |= {mode: partial(train_steps, model, batches) for mode, model in models.items()}
            seconds = in_turn(runs, settings)
            for mode, model in models.items():
                step_operations = 3 * sum(model.forward_flops(batch) for batch in batches)
                share = [
                    step_operations / step / (operations / alone) * 100
                    for step, alone in zip(seconds[mode], seconds["products"], strict=True)
                ]
                gain = quotients(seconds["eager"], seconds[mode]) if "eager" in seconds and mode != "eager" else None
                rate = tokens / statistics.median(seconds[mode])
                rows.add_row(preset, dtype, mode, spread(share, " %"), spread(gain, "x") if gain else "", f"{rate:.0f}")
    console.print(rows)


# ---------------------------------------------------------------------------------------------------------- Wan


def wan_model(config: ModelConfig, num_parameters: int) -> nn.Module:
    """Of the same width, heads and channels, an MLP of four times the width and as many layers as bring it nearest."""
    from diffusers import WanTransformer3DModel
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it would rather keep its norms in fp32 than be cast to bf16 whole
    channels = config.video_in_channels // config.patch_volume
    sizes: dict[str, Any] = {
        "patch_size": config.patch,
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_dim,
        "in_channels": channels,
        "out_channels": channels,
        "text_dim": config.text_in_channels,
        "ffn_dim": 4 * config.hidden_size,
    }
    with torch.device("meta"):
        one, two = (count_parameters(WanTransformer3DModel(**sizes, num_layers=layers)) for layers in (1, 2))
    num_layers = max(1, round(1 + (num_parameters - one) / (two - one)))
    made: nn.Module = WanTransformer3DModel(**sizes, num_layers=num_layers)
    return made


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def wan_step(model: nn.Module, latents: Tensor, text: Tensor, *, autocast: bool) -> None:
    timestep = torch.full((len(latents),), 500)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        velocity = model(hidden_states=latents, timestep=timestep, encoder_hidden_states=text, return_dict=False)[0]
    velocity.float().square().mean().backward()
    model.zero_grad()


def bench_wan(settings: Settings) -> None:
    """Clips of equal sizes, since Wan takes no others, and silent, since Wan has no sound. Wan runs twice: on sequences
    as long as ours, and on the same clips, whose text does not pass its layers.
    """
    rows = table(
        "Training step against WanTransformer3DModel: tokens per second, ours / Wan",
        "preset", "dtype", "mode", "parameters: ours / Wan", "sequences as long", "same clips",
    )  # fmt: skip
    for preset in settings.presets:
        config = settings.config(preset)
        clips = [
            latent_clip(config, str(i), grid=(5, 12, 20), audio=0, text=64) for i in range(1 if settings.tiny else 4)
        ]
        batch = pack(clips, patch=config.patch)
        latents = torch.stack([clip.video for clip in clips if clip.video is not None])
        as_long = torch.randn(*latents.shape[:2], 7, 26, 8)  # 364 tokens
        text = torch.stack([clip.text for clip in clips])
        for dtype, weights in (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")):
            for mode in modes_for(settings):
                ours = variants(config, dtype, [mode])[mode]
                theirs = wan_model(config, count_parameters(ours)).to(DTYPES[weights])
                if weights == "bfloat16":
                    _store_products_in(ours, torch.bfloat16)
                if mode == "compiled":
                    theirs.compile_repeated_blocks()
                inputs = [tensor.to(DTYPES[weights]) for tensor in (as_long, latents, text)]
                wan_run = partial(wan_step, theirs, text=inputs[2], autocast=dtype != weights)
                runs = {
                    "ours": partial(train_steps, ours, [batch]),
                    "as long": partial(wan_run, inputs[0]),
                    "same clips": partial(wan_run, inputs[1]),
                }
                seconds = in_turn(runs, settings)
                sizes = f"{count_parameters(ours) / 1e6:.1f} M / {count_parameters(theirs) / 1e6:.1f} M"
                kind = dtype if dtype == weights == "float32" else f"{dtype}, {weights} weights"
                ratios = [spread(quotients(seconds[name], seconds["ours"]), "x") for name in ("as long", "same clips")]
                rows.add_row(preset, kind, mode, sizes, *ratios)
    console.print(rows)
    console.print(
        "Ours reads 300 video and 64 text tokens a clip. Wan reads 364 video tokens, or the same 300, and 64 of text\n"
        "by cross-attention; both rates count 364 a clip. bf16 over fp32 weights is torch.autocast in Wan. Its MLPs\n"
        "have four times the width; its layers are as many as equal parameters take."
    )


def _store_products_in(model: SandwichTransformer, dtype: torch.dtype) -> None:
    for module in model.modules():
        if isinstance(module, ModalityLinear):
            module.weight = nn.Parameter(module.weight.detach().to(dtype))


# ------------------------------------------------------------------------------------------------------ packing


def realistic_records(count: int) -> Iterator[SampleRecord]:
    """256p clips of 1 to 10 s in five shapes of picture, some silent, a few single pictures and sounds alone."""
    draw = random.Random(0)
    for index in range(count):
        frames = 25 * draw.choice((1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 6, 8, 10)) + 1
        rows, columns = draw.choice(((16, 28), (16, 28), (28, 16), (22, 22), (20, 24)))
        kind = draw.random()
        latent_frames = 1 if kind < 0.05 else (frames - 1) // 4 + 1
        yield SampleRecord(
            key=f"clip {index}",
            video=None if 0.05 <= kind < 0.1 else (latent_frames, rows, columns),
            audio=None if kind < 0.05 or kind > 0.9 else frames,
            text=draw.randint(40, 640),
        )


def bench_packing(settings: Settings) -> None:
    """The batches that training would draw: the data module's own plan over a manifest, without latents."""
    samples = tuple(realistic_records(400 if settings.tiny else 4000))
    names = [f"train-{start:06}.tar" for start in range(0, len(samples), 100)]
    shards = tuple(
        ShardRecord(
            name=name, split="train", num_bytes=0, samples=samples[100 * i : 100 * i + 100], dropped=(),
            video=Moments(), audio=Moments(),
        )
        for i, name in enumerate(names)
    )  # fmt: skip
    manifest = Manifest(settings={}, frames_per_second=25, samples_per_second=51200, tokenizers={}, shards=shards)
    conditions = Conditions(text_dropout=0.1, image_to_video_share=0.1, audio_to_video_share=0.1)
    rows = table("Packs of a realistic mix of clips", "token budget", "clips a pack", "padding", "budget filled")
    for budget_tokens in (16_384, 32_768, 65_536):
        budget = Budget(patch=(1, 2, 2), tokens_per_batch=budget_tokens, null_text_tokens=200)
        budget.check(samples)
        plan = TrainingPlan(manifest=manifest, budget=budget, conditions=conditions, seed=0, shards_in_hand=8)
        filled, per_pack = [], []
        for epoch in range(2):
            for batch in plan.epoch(epoch):
                filled.append(100 * sum(map(budget.tokens, batch)) / budget_tokens)
                per_pack.append(len(batch))
        rows.add_row(
            str(budget_tokens), f"{statistics.mean(per_pack):.1f}", "0 %",
            f"{statistics.mean(filled):.2f} %  [{min(filled):.1f} .. {max(filled):.1f}]",
        )  # fmt: skip
    console.print(rows)
    console.print(
        "A pack holds clips end to end and nothing else; what the budget leaves free costs neither time nor memory."
    )


# --------------------------------------------------------------------------------------------------------- CUDA


def random_model(config: ModelConfig, settings: Settings) -> SandwichTransformer:
    """With random weights of the released dtypes, made on the device."""
    with torch.device("meta"):
        model = SandwichTransformer(config=config)
    _store_products_in(model, torch.bfloat16)
    model = model.to_empty(device=settings.device)
    model.adapter.rope = RotaryBands(head_dim=config.head_dim).to(settings.device)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            else:
                parameter.zero_()
    return model


def talking_clip(config: ModelConfig, settings: Settings, *, rows: int, columns: int) -> LatentClip:
    """5 s: 32 latent frames, 125 audio latents and 200 tokens of text. 256p is 16 x 28 latents, 1080p 68 x 120."""
    if settings.tiny:
        return latent_clip(config, "tiny", grid=(14, 4, 4), audio=53, text=8)
    return latent_clip(config, "5 s", grid=(32, rows, columns), audio=125, text=200)


def bench_layer(settings: Settings) -> None:
    rows = table(
        f"Layers of the 15B model, forward and backward (peak: {settings.peak_tflops:g} TFLOP/s)",
        "layer", "tokens", "mode", "share of peak", "compiled / eager", "peak memory",
    )  # fmt: skip
    whole = settings.config("sandwich_15b")
    for name, experts in (("shared", ()), ("sandwich", (0,))):
        config = replace(whole, num_layers=1, mm_layers=experts, gelu7_layers=())
        model = random_model(config, settings)
        for num_clips in (1, 2) if settings.tiny else (1, 4, 16):
            clip = talking_clip(config, settings, rows=16, columns=28)
            batch = pack([clip] * num_clips, patch=config.patch).to(settings.device)
            operations = 3 * model.forward_flops(batch)
            eager: list[float] = []
            for mode in modes_for(settings):
                seconds, peak = _layer_seconds(model, batch, settings, mode=mode)
                share = [100 * operations / second / (settings.peak_tflops * 1e12) for second in seconds]
                gain = quotients(eager, seconds) if eager else None
                eager = seconds if mode == "eager" else eager
                rows.add_row(
                    name, str(batch.num_tokens), mode, spread(share, " %"), spread(gain, "x") if gain else "",
                    f"{peak / 2**30:.2f} GiB" if peak else "",
                )  # fmt: skip
    console.print(rows)
    _bench_grouped(whole, settings)


def _layer_seconds(
    model: SandwichTransformer, batch: PackedBatch, settings: Settings, *, mode: str
) -> tuple[list[float], int]:
    """Of one layer, and the peak of the device's memory."""
    layer = random_model(model.config, settings) if mode == "compiled" else model
    if mode == "compiled":
        layer.load_state_dict(model.state_dict())
        layer.compile_layers()
    context = layer.context(batch)
    x = torch.randn(batch.num_tokens, model.config.hidden_size, device=settings.device, requires_grad=True)
    gradient = torch.randn_like(x)

    def run() -> None:
        layer.block(x, context).backward(gradient)
        x.grad = None
        layer.zero_grad()

    if settings.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(settings.device)
    seconds = in_turn({"layer": run}, settings)["layer"]
    return seconds, torch.cuda.max_memory_allocated(settings.device) if settings.device.type == "cuda" else 0


def _bench_grouped(config: ModelConfig, settings: Settings) -> None:
    """Experts in one kernel against one after another."""
    rows = table(
        "Products with one expert per modality: separate / grouped time", "product", "tokens", "forward and backward"
    )
    attention = config.hidden_size + 2 * config.num_query_groups * config.head_dim + config.num_heads
    sizes = {"qkv and gate": attention, "up projection": 2 * config.swiglu7_size, "output": config.hidden_size}
    for name, out in sizes.items():
        if out % 8 or config.hidden_size % 8:
            continue
        for num_tokens in (64,) if settings.tiny else (4096, 16_384, 65_536):
            counts = (num_tokens - num_tokens // 8, num_tokens // 16, num_tokens // 16)
            x = torch.randn(num_tokens, config.hidden_size, device=settings.device).bfloat16().requires_grad_()
            experts = torch.randn(3, out, config.hidden_size, device=settings.device).bfloat16().requires_grad_()
            gradient = torch.randn(num_tokens, out, device=settings.device).bfloat16()
            runs = {
                product.__name__: partial(_forward_and_backward, product, x, experts, counts, gradient)
                for product in (separate_products, grouped_products)
            }
            seconds = in_turn(runs, settings)
            ratio = quotients(seconds["separate_products"], seconds["grouped_products"])
            rows.add_row(name, str(num_tokens), spread(ratio, "x"))
    console.print(rows)


def _forward_and_backward(
    product: Callable[..., Tensor], x: Tensor, experts: Tensor, counts: tuple[int, int, int], gradient: Tensor
) -> None:
    torch.autograd.grad(product(x, experts, counts), (x, experts), gradient)


def bench_pass(settings: Settings) -> None:
    rows = table(
        "The whole 15B model, random weights", "what", "tokens", "mode", "seconds", "original / ours", "peak memory"
    )
    for name, preset, size, evaluations in (
        ("256p, 5 s, 8 evaluations", "sandwich_15b", (16, 28), 8),
        ("1080p, 5 s, 1 evaluation, local attention", "sandwich_15b_sr_1080p", (68, 120), 1),
    ):
        config = settings.config(preset)
        model = random_model(config, settings).requires_grad_(False).eval()
        batch = pack([talking_clip(config, settings, rows=size[0], columns=size[1])], patch=config.patch)
        batch = batch.to(settings.device)
        for mode in modes_for(settings):
            if mode == "compiled":
                model.compile_layers()
            if settings.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(settings.device)
            seconds = in_turn({"pass": partial(_generate, model, batch, evaluations)}, settings)["pass"]
            peak = torch.cuda.max_memory_allocated(settings.device) if settings.device.type == "cuda" else 0
            is_comparable = evaluations == 8 and not settings.tiny
            against = [ORIGINAL_8_EVALUATIONS_SECONDS / second for second in seconds]
            rows.add_row(
                name, str(batch.num_tokens), mode, spread(seconds, " s"),
                spread(against, "x") if is_comparable else "", f"{peak / 2**30:.1f} GiB" if peak else "",
            )  # fmt: skip
        del model
        gc.collect()
        if settings.device.type == "cuda":
            torch.cuda.empty_cache()
    console.print(rows)


@torch.no_grad()
def _generate(model: SandwichTransformer, batch: PackedBatch, evaluations: int) -> None:
    """Predict the clean clip, add fresh noise, and again."""

    def velocity(x: tuple[Tensor, Tensor], level: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        prediction = model(batch.with_latents(*x))
        return prediction.video, prediction.audio

    RenoiseSolver(num_steps=evaluations)(
        velocity,
        lambda: (torch.randn_like(batch.video), torch.randn_like(batch.audio)),
        keep=lambda x: x,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--presets", nargs="+", default=["cpu", "sandwich_50m"], help="of configs/model; for the CPU's parts"
    )
    parser.add_argument("--tiny", action="store_true", help="toy sizes; every part on any device")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=4096, help="budget of a pack in the step part")
    parser.add_argument("--modes", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--threads", type=int, help="of the CPU; all by default")
    parser.add_argument("--peak-tflops", type=float, default=H100_DENSE_BF16_TFLOPS, help="of the device, bf16, dense")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    on_cuda = torch.cuda.is_available()
    cpu = Settings(
        tiny=arguments.tiny,
        presets=tuple(arguments.presets),
        rounds=arguments.rounds,
        tokens=arguments.tokens,
        modes=tuple(arguments.modes),
        device=torch.device("cpu"),
        peak_tflops=arguments.peak_tflops,
    )
    accelerator = replace(cpu, device=torch.device("cuda")) if on_cuda else cpu
    device = torch.cuda.get_device_name() if on_cuda else "none"
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads, CUDA device: {device}")
    benches = {
        "gemm": lambda: bench_gemm(cpu),
        "step": lambda: bench_step(cpu),
        "wan": lambda: bench_wan(cpu),
        "packing": lambda: bench_packing(cpu),
        "layer": lambda: bench_layer(accelerator),
        "pass": lambda: bench_pass(accelerator),
    }
    for part in arguments.only:
        if part in ("layer", "pass") and not on_cuda and not arguments.tiny:
            console.print(f"{part}: skipped, there is no CUDA device (--tiny runs it at toy size)")
            continue
        benches[part]()


if __name__ == "__main__":
    main()
