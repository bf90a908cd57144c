"""Which backend runs, and what an unmet request says."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from hh_train.model.attention import (
    AttentionChoice,
    FlashAttention,
    FlexAttention,
    PerClipAttention,
    VarlenAttention,
    attention_backend,
    attention_pattern,
    choice,
)
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import ClipLayout

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def unmade_choices() -> Iterator[None]:
    choice._resolve.cache_clear()
    yield
    choice._resolve.cache_clear()


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


class Machine:
    """A make-believe machine with one GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capability = (9, 0)
        self.flash_versions: tuple[int, ...] = ()
        self.triton = True
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: self.capability)
        monkeypatch.setattr(choice, "has_triton", lambda: self.triton)
        monkeypatch.setattr(choice, "flash_function", self.flash_function)

    def flash_function(self, version: int) -> None:
        if version not in self.flash_versions:
            raise ImportError(f"no module of version {version}")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def resolve(name: choice.AttentionName = "auto", **kinds: object) -> choice.Backend:
    settings = {"dtype": BF16, "head_dim": 128, "device": CUDA} | kinds
    return AttentionChoice(name=name).resolve(**settings)


def test_on_a_cpu_it_is_sdpa_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    layouts = (ClipLayout((4, 1, 1), 2, 1),)
    query = torch.randn(7, 2, 16)
    with caplog.at_level(logging.INFO, logger="hh_train"):
        for _ in range(3):
            for attend in (AttentionChoice(name="auto"), AttentionChoice(name="auto")):
                output = attend(query, query, query, attention_pattern(layouts))
    torch.testing.assert_close(output, PerClipAttention()(query, query, query, attention_pattern(layouts)))
    assert [record.getMessage() for record in caplog.records] == ["full attention: sdpa, clip by clip (auto)"]


@pytest.mark.parametrize(
    ("installed", "capability", "expected"),
    [
        ((), (9, 0), VarlenAttention()),
        ((2,), (9, 0), FlashAttention(version=2)),
        ((2, 3), (9, 0), FlashAttention(version=3)),
        ((2, 3, 4), (9, 0), FlashAttention(version=4)),
        ((2, 3), (10, 0), FlashAttention(version=2)),
        ((2, 3, 4), (8, 0), FlashAttention(version=2)),
        ((3, 4), (8, 6), VarlenAttention()),
        ((2, 3, 4), (7, 5), PerClipAttention()),
    ],
)
def test_auto_on_a_gpu(
    installed: tuple[int, ...], capability: tuple[int, int], expected: choice.Backend, machine: Machine
) -> None:
    machine.flash_versions, machine.capability = installed, capability
    assert resolve() == expected


def test_auto_takes_masks_for_local_layers_and_gathers_without_triton(machine: Machine) -> None:
    assert resolve(local=True) == FlexAttention()
    choice._resolve.cache_clear()
    machine.triton = False
    assert resolve(local=True) == VarlenAttention()


def test_auto_in_fp32_or_for_wide_heads_is_sdpa(machine: Machine) -> None:
    machine.flash_versions = (2, 3, 4)
    assert resolve(dtype=torch.float32) == PerClipAttention()
    assert resolve(head_dim=512) == PerClipAttention()
    assert resolve(head_dim=192) == FlashAttention(version=3)  # version 4 is for 128 at most


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="got attention 'fast'; wanted one of auto, sdpa, varlen, flash, flex"):
        AttentionChoice(name="fast")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["varlen", "flash", "flex"])
def test_without_cuda(name: choice.AttentionName) -> None:
    with pytest.raises(ValueError, match=f'attention "{name}" cannot run:.*it needs CUDA, and torch sees no CUDA'):
        resolve(name)
    with pytest.raises(ValueError, match=r'needs CUDA.*Set attention to "auto"'):
        attention_backend(name, dtype=BF16, head_dim=128)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("name", ["varlen", "flash", "flex"])
def test_a_model_left_on_the_cpu(name: choice.AttentionName) -> None:
    with pytest.raises(ValueError, match="it needs CUDA, and the model is on cpu"):
        resolve(name, device=CPU)


def test_flash_attention_that_is_not_installed_or_cannot_run_here(machine: Machine) -> None:
    with pytest.raises(ValueError, match=r"flash-attn 4: not installed \(no module.*flash-attn 2: not installed"):
        resolve("flash")
    machine.flash_versions, machine.capability = (3,), (8, 0)
    with pytest.raises(ValueError, match=r"flash-attn 3: no kernels for compute capability 8.0, which has 9.x"):
        resolve("flash")


@pytest.mark.parametrize("name", ["varlen", "flash"])
def test_dtype_and_head_faults_are_told_together(name: choice.AttentionName, machine: Machine) -> None:
    machine.flash_versions = (2,)
    with pytest.raises(
        ValueError, match=r"in bfloat16 or float16, not in float32.*multiple of 8 up to 256, not of 260"
    ):
        resolve(name, dtype=torch.float32, head_dim=260)


def test_flex_faults(machine: Machine) -> None:
    with pytest.raises(ValueError, match="heads of 16 or more, not of 8"):
        resolve("flex", head_dim=8)
    machine.triton = False
    with pytest.raises(ValueError, match="need triton"):
        resolve("flex")
    with pytest.raises(ValueError, match="not in float64"):
        resolve("flex", dtype=torch.float64)


def test_varlen_of_an_old_torch(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.flash_versions = ()
    monkeypatch.setattr(choice, "varlen_attn", lambda query, key, value: query)
    with pytest.raises(ValueError, match="knows no shared key-value heads"):
        resolve("varlen")


@pytest.mark.usefixtures("no_gpu")
def test_a_model_says_so_when_it_is_built_and_on_meta_when_it_first_runs(tiny_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="torch sees no CUDA"):
        SandwichTransformer(config=tiny_config, attention="flex")
    with torch.device("meta"):
        model = SandwichTransformer(config=tiny_config, attention="flex")
    query = torch.randn(7, 2, 16)
    with pytest.raises(ValueError, match="torch sees no CUDA"):
        model.attend(query, query, query, attention_pattern((ClipLayout((4, 1, 1), 2, 1),)))


def test_a_given_backend_is_used_as_it_is(tiny_config: ModelConfig) -> None:
    backend = PerClipAttention(longest_written_out=3)
    assert SandwichTransformer(config=tiny_config, attention=backend).attend is backend


def test_the_installed_flash_attention_is_found_or_its_absence_explained() -> None:
    for version, module in choice.FLASH_MODULES.items():
        try:
            assert callable(choice.flash_function(version))
        except ImportError as error:
            assert module in str(error)
