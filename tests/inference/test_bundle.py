"""Bundles: bit-equal clips here and in a fresh process, and refusals of what is not as it was written."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import RenoiseSolver, UniPCSolver
from hh_train.inference.bundle import (
    Bundle,
    Geometry,
    SamplerContract,
    clip_digest,
    read_fields,
    verify_in_fresh_process,
    write_bundle,
)
from hh_train.inference.generate import ClipGenerator
from hh_train.model.checkpoint import is_matrix_product_weight
from hh_train.model.transformer import SandwichTransformer

PROMPT = 'A woman\n\nDialogue:\n<Woman, English>: "hello there"'
GEOMETRY = Geometry(num_frames=9, size=(32, 16))


def write(folder: Path, generator: ClipGenerator, **changes: object) -> Path:
    return write_bundle(folder, generator, geometry=GEOMETRY, prompt=PROMPT, seed=3, **changes)


@pytest.fixture
def bundle(generator: ClipGenerator, tmp_path: Path) -> Path:
    return write(tmp_path / "bundle", generator)


def in_bfloat16(generator: ClipGenerator) -> ClipGenerator:
    model = SandwichTransformer(config=generator.model.config, compute_dtype="bfloat16")
    model.load_state_dict(generator.model.state_dict())
    return replace(generator, model=model.eval())


def test_a_loaded_bundle_makes_the_same_clip(bundle: Path, generator: ClipGenerator) -> None:
    loaded = Bundle.load(bundle)
    request = generator.request("clip", PROMPT, num_frames=9, size=(32, 16))
    wanted = generator.generate([request], seed=3)[0].clip
    got = loaded.generate(PROMPT, seed=3).clip
    assert torch.equal(got.frames, wanted.frames) and torch.equal(got.waveform, wanted.waveform)
    assert loaded.reference_digest() == clip_digest(wanted) == read_fields(bundle)["reference"]["sha256"]
    for name, tensor in generator.model.state_dict().items():
        assert torch.equal(loaded.generator.model.state_dict()[name], tensor), name
    assert not any(parameter.is_meta for parameter in loaded.generator.model.parameters())


def test_the_digest_tells_clips_apart(bundle: Path) -> None:
    loaded = Bundle.load(bundle)
    clip = loaded.generate(PROMPT, seed=3).clip
    others = [
        loaded.generate(PROMPT, seed=4).clip,
        replace(clip, waveform=None),
        replace(clip, waveform=clip.waveform + 1e-6),
        replace(clip, frames=clip.frames + 1),
    ]
    assert len({clip_digest(c) for c in [clip, *others]}) == 5


def test_other_lengths_and_sizes_can_be_asked_for(bundle: Path) -> None:
    made = Bundle.load(bundle).generate("A dog barks", num_frames=5, size=(16, 32))
    assert made.clip.frames.shape == (5, 16, 32, 3)
    assert made.num_evaluations == 2


def test_a_fresh_process_makes_the_same_clip(bundle: Path) -> None:
    verify_in_fresh_process(bundle)


def test_a_fresh_process_that_makes_another_clip_is_found(generator: ClipGenerator, tmp_path: Path) -> None:
    """Weights that were rounded for storage are not those that the reference clip was made with in fp32."""
    folder = write(tmp_path / "bundle", generator, bfloat16_products=True)
    with pytest.raises(ValueError, match="generates another clip in a fresh process"):
        verify_in_fresh_process(folder)


def test_bfloat16_products_make_the_same_clip_when_products_are_in_bfloat16(
    generator: ClipGenerator, tmp_path: Path
) -> None:
    rounded = in_bfloat16(generator)
    whole = write(tmp_path / "whole", rounded)
    half = write(tmp_path / "half", rounded, bfloat16_products=True)
    assert read_fields(half)["compute_dtype"] == "bfloat16"
    loaded = Bundle.load(half)
    assert loaded.reference_digest() == read_fields(half)["reference"]["sha256"]
    assert read_fields(half)["reference"] == read_fields(whole)["reference"]
    products = sum(
        tensor.numel() for name, tensor in rounded.model.state_dict().items() if is_matrix_product_weight(name)
    )
    sizes = [(folder / "model" / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[0] - sizes[1] == pytest.approx(2 * products, abs=512)


def test_every_missing_and_changed_file_is_listed(bundle: Path) -> None:
    (bundle / "tokenizers" / "text" / "config.json").unlink()
    weights = bundle / "model" / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"is not as it was written") as caught:
        Bundle.load(bundle)
    assert "model/model.safetensors is changed" in str(caught.value)
    assert "tokenizers/text/config.json is missing" in str(caught.value)
    assert "README.md" not in str(caught.value)


def test_every_file_but_the_list_itself_is_listed(bundle: Path) -> None:
    files = {str(file.relative_to(bundle)) for file in bundle.rglob("*") if file.is_file()}
    assert files - set(read_fields(bundle)["files"]) == {"bundle.json"}
    assert {"README.md", "model/config.json", "tokenizers/audio/model.safetensors"} <= files


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no inference bundle: it has no bundle\.json"):
        Bundle.load(tmp_path)


def test_another_format_is_refused(bundle: Path) -> None:
    fields = read_fields(bundle)
    (bundle / "bundle.json").write_text(json.dumps({**fields, "format_version": 2}))
    with pytest.raises(ValueError, match="has format version 2, this code reads 1"):
        Bundle.load(bundle)


def test_a_bundle_that_is_written_again_is_new(bundle: Path, generator: ClipGenerator) -> None:
    before = read_fields(bundle)["reference"]["sha256"]
    unfinished = bundle.with_name("bundle.unfinished")
    shutil.copytree(bundle, unfinished)  # as a killed export leaves it
    (unfinished / "rest").touch()
    write(bundle, replace(generator, solver=RenoiseSolver(num_steps=3)))
    assert read_fields(bundle)["reference"]["sha256"] != before
    assert not unfinished.exists() and not (bundle / "rest").exists()
    assert Bundle.load(bundle).generate(PROMPT).num_evaluations == 3


@pytest.mark.parametrize(
    "solver",
    [
        RenoiseSolver(num_steps=2, levels=(0.9, 0.4, 0.0)),
        RenoiseSolver(num_steps=4, shift=3.0),
        UniPCSolver(num_steps=5, shift=2.0, order=3),
    ],
)
def test_the_sampler_contract_survives_its_file(solver: RenoiseSolver | UniPCSolver) -> None:
    guidance = Guidance(video=5.0, audio=3.0, video_low_noise=2.0, low_noise_below=0.3)
    contract = SamplerContract.of(solver, guidance)
    read = SamplerContract(**json.loads(json.dumps(asdict(contract))))
    built, built_guidance = read.build()
    assert type(built) is type(solver) and built_guidance == guidance
    assert built.num_steps == solver.num_steps
    assert tuple(read.noise_levels) == built.noise_levels == solver.noise_levels
    assert not read.is_guidance_free and SamplerContract.of(solver, Guidance()).is_guidance_free
    if isinstance(solver, UniPCSolver):
        assert built == solver


def test_another_sampler_has_no_contract() -> None:
    class Euler(UniPCSolver):
        """Not one that a bundle can name."""

    with pytest.raises(ValueError, match=r"one of \['renoise', 'unipc'\], got Euler"):
        SamplerContract.of(Euler(), Guidance())
