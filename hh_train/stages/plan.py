"""Say what a model needs on given GPUs: parameters, memory, operations, seconds; and what to change if it does not fit.

The weights are never built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hh_train.model.recompute import ActivationCheckpointing
from hh_train.model.size import ClipShape, forward_flops, parameter_counts
from hh_train.training.memory import Strategy
from hh_train.training.plan import CHECKPOINTING, LARGEST_CLUSTER, Plan
from hh_train.training.workload import Accelerator, Workload

GIB = 2**30
ROWS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "ema": "EMA",
    "frozen": "frozen weights",
    "communication": "buckets or gathered layers",
    "activations": "activations kept",
    "peak": "peak of a step",
}
ATTENTION = {
    True: "as on CPUs: bf16 scores of short clips written out",
    False: "flash kernels, which keep queries, keys, values, output and log-sum-exp",
}


def run(
    *,
    module: Workload,
    gpu: Accelerator,
    num_gpus: int,
    strategy: Strategy,
    clip: ClipShape,
    clips_per_gpu: int,
    mfu: float,
    usable_share: float,
    output: str | None = None,
) -> dict[str, Any]:
    """Prints the plan and returns it; writes `output/plan.json` when there is an output folder. Builds no weights.

    Args:
        module: what runs.
        gpu, num_gpus: on which devices.
        strategy: ddp keeps the whole state on every device, fsdp shards it.
        clip, clips_per_gpu: of a step.
        mfu: share of the peak rate that is reached, recomputed operations included.
        usable_share: of a device's memory; the rest is for its context, communication and fragments.

    Raises ValueError for counts below 1, shares outside (0, 1], and a clip that the model's patch does not divide.
    """
    if min(num_gpus, clips_per_gpu) < 1:
        raise ValueError(f"got num_gpus {num_gpus} and clips_per_gpu {clips_per_gpu}; wanted 1 or more of each")
    if not (0 < mfu <= 1 and 0 < usable_share <= 1):
        raise ValueError(f"got mfu {mfu} and usable_share {usable_share}; wanted shares above 0 and up to 1")
    plan = Plan(
        workload=module,
        gpu=gpu,
        num_gpus=num_gpus,
        strategy=strategy,
        layout=clip.layout(module.config.patch),
        clips_per_gpu=clips_per_gpu,
        mfu=mfu,
        usable_share=usable_share,
        kind=module.activation_checkpointing,
    )
    console = Console()
    with console.status("walking through the passes"):
        columns = {kind: replace(plan, kind=kind) for kind in (CHECKPOINTING if module.num_trained else (plan.kind,))}
        changes = [] if plan.fits else list(plan.changes())
        record = plan_record(plan, columns, changes)
    _print(record, console)
    if output is not None:
        file = Path(output) / "plan.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        unfinished.rename(file)
        console.print(f"wrote {file}", soft_wrap=True)
    return record


def plan_record(plan: Plan, columns: Mapping[ActivationCheckpointing, Plan], changes: Sequence[str]) -> dict[str, Any]:
    """All numbers of the plan; bytes and seconds for each kind of activation checkpointing."""
    config, layout = plan.workload.config, plan.layout
    counts = parameter_counts(config)
    forward = float(forward_flops(config, [layout]))
    return {
        "kind": plan.workload.kind,
        "parameters": {**asdict(counts), "total": counts.total, "trained": plan.workload.trained_parameters},
        "frozen": {
            "format": plan.workload.frozen.name if plan.workload.keeps_frozen else None,
            "offloaded_bytes": plan.workload.offloaded_bytes,
        },
        "clip": {
            "video_grid": list(layout.video),
            "video_tokens": layout.num_video,
            "audio_tokens": layout.audio,
            "text_tokens": layout.text,
            "tokens": layout.num_tokens,
            "forward_flops": forward,
            "training_flops": 3 * forward,
        },
        "devices": {
            "name": plan.gpu.name,
            "count": plan.num_gpus,
            "memory_gib": plan.gpu.memory_gib,
            "usable_bytes": plan.usable_bytes,
            "teraflops": plan.gpu.teraflops,
            "mfu": plan.mfu,
            "strategy": plan.strategy,
            "clips_per_device": plan.clips_per_gpu,
        },
        "attention": ATTENTION[plan.gpu.is_cpu],
        "step_flops_per_device": plan.workload.step_flops(plan.clips),
        "activation_checkpointing": plan.kind,
        "bytes_per_device": {kind: _bytes(column) for kind, column in columns.items()},
        "step_seconds": {kind: column.step_seconds for kind, column in columns.items()},
        "fits": {kind: column.fits for kind, column in columns.items()},
        "changes": list(changes),
    }


def _bytes(plan: Plan) -> dict[str, float]:
    device = plan.device_bytes
    rest = {name: getattr(device, name) for name in ("communication", "activations", "peak")}
    return {**asdict(device.state), **rest}


def _print(record: Mapping[str, Any], console: Console) -> None:
    """Four tables and a verdict."""
    for table in (_parameters(record), _clip(record), _memory(record), _time(record)):
        console.print(table)
    console.print(
        f"Attention: {record['attention']}. Layers are taken as not compiled; compiled ones keep less.", soft_wrap=True
    )
    if record["frozen"]["offloaded_bytes"]:
        offloaded = record["frozen"]["offloaded_bytes"] / GIB
        console.print(f"In the CPU's memory: {offloaded:,.2f} GiB of frozen weights.", soft_wrap=True)
    devices, kind = record["devices"], record["activation_checkpointing"]
    peak, usable = record["bytes_per_device"][kind]["peak"] / GIB, devices["usable_bytes"] / GIB
    fits = record["fits"][kind]
    verdict = f"{peak:,.1f} GiB of {usable:,.1f} GiB usable on each {devices['name']}"
    if fits:
        console.print(f"It fits: {verdict}.", soft_wrap=True)
        return
    console.print(f"It does not fit: {verdict}. What would:", soft_wrap=True)
    for change in record["changes"] or [
        f"no number of these devices up to {LARGEST_CLUSTER}: shorter or smaller clips, larger devices"
    ]:
        console.print(f"  {change}", soft_wrap=True, highlight=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index > 0)
    return table


def _parameters(record: Mapping[str, Any]) -> Table:
    table = _table("Parameters", "part", "count")
    names = {
        "adapter": "embedders",
        "modality_layers": "layers per modality",
        "shared_layers": "shared layers",
        "final": "output",
        "total": "total",
        "active_in_layers": "active per token in the layers",
        "trained": "trained, of each network",
    }
    for key, name in names.items():
        table.add_row(name, f"{record['parameters'][key]:,}")
    return table


def _clip(record: Mapping[str, Any]) -> Table:
    clip = record["clip"]
    grid = " x ".join(map(str, clip["video_grid"]))
    table = _table("One clip", "", "")
    table.add_row(f"video tokens ({grid})", f"{clip['video_tokens']:,}")
    table.add_row("audio tokens", f"{clip['audio_tokens']:,}")
    table.add_row("text tokens", f"{clip['text_tokens']:,}")
    table.add_row("tokens", f"{clip['tokens']:,}")
    table.add_row("forward pass", _operations(clip["forward_flops"]))
    table.add_row("forward and backward pass", _operations(clip["training_flops"]))
    return table


def _memory(record: Mapping[str, Any]) -> Table:
    devices, kinds = record["devices"], list(record["bytes_per_device"])
    where = (
        f"{devices['count']} x {devices['name']}, {devices['strategy']}, {devices['clips_per_device']} clips on each"
    )
    table = _table(f"GiB on each device ({record['kind']} on {where})", "activation checkpointing", *kinds)
    for key, name in ROWS.items():
        values = [record["bytes_per_device"][kind][key] for kind in kinds]
        if any(values):
            table.add_row(name, *(f"{value / GIB:,.2f}" for value in values))
    table.add_row("fits", *("yes" if record["fits"][kind] else "no" for kind in kinds))
    return table


def _time(record: Mapping[str, Any]) -> Table:
    devices, kinds = record["devices"], list(record["step_seconds"])
    clips = devices["count"] * devices["clips_per_device"]
    what = {
        "pretrain": "optimizer step",
        "finetune": "optimizer step",
        "distill": "critic step with its share of student steps",
        "inference": "sample",
    }[record["kind"]]
    title = f"One {what} at {devices['mfu']:.0%} of {devices['teraflops']:,.3g} TFLOP/s"
    table = _table(title, "activation checkpointing", *kinds)
    seconds = [record["step_seconds"][kind] for kind in kinds]
    operations = _operations(record["step_flops_per_device"])
    table.add_row("operations on each device, without recomputed ones", *(operations for _ in kinds))
    table.add_row("seconds", *(f"{value:,.3g}" for value in seconds))
    table.add_row("clips a second, all devices", *(f"{clips / value:,.3g}" for value in seconds))
    return table


def _operations(count: float) -> str:
    for unit, size in (("P", 1e15), ("T", 1e12)):
        if count >= size:
            return f"{count / size:,.3g} {unit}FLOP"
    return f"{count / 1e9:,.3g} GFLOP"
