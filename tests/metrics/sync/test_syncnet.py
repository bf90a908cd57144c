"""The towers have the published weights' names and shapes, see and hear what the protocol says, and load by path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hh_train.metrics.sync.mfcc import mfcc
from hh_train.metrics.sync.syncnet import SyncNet, crop_faces

PUBLISHED = {
    "netcnnaud.0": (64, 1, 3, 3),
    "netcnnaud.4": (192, 64, 3, 3),
    "netcnnaud.8": (384, 192, 3, 3),
    "netcnnaud.11": (256, 384, 3, 3),
    "netcnnaud.14": (256, 256, 3, 3),
    "netcnnaud.18": (512, 256, 5, 4),
    "netfcaud.0": (512, 512),
    "netfcaud.3": (1024, 512),
    "netfclip.0": (512, 512),
    "netfclip.3": (1024, 512),
    "netcnnlip.0": (96, 3, 5, 7, 7),
    "netcnnlip.4": (256, 96, 1, 5, 5),
    "netcnnlip.8": (256, 256, 1, 3, 3),
    "netcnnlip.11": (256, 256, 1, 3, 3),
    "netcnnlip.14": (256, 256, 1, 3, 3),
    "netcnnlip.18": (512, 256, 1, 6, 6),
}
"""Convolutions and linear layers of `syncnet_v2`."""
NORMS = {"netcnnaud": (1, 5, 9, 12, 15, 19), "netfcaud": (1,), "netfclip": (1,), "netcnnlip": (1, 5, 9, 12, 15, 19)}


@pytest.fixture(scope="module")
def network() -> SyncNet:
    torch.manual_seed(0)
    return SyncNet().eval()


def test_names_and_shapes_are_those_of_the_published_weights(network: SyncNet) -> None:
    state = network.state_dict()
    weights = {name.removesuffix(".weight"): tuple(v.shape) for name, v in state.items() if v.ndim > 1}
    assert weights == PUBLISHED
    norms = {name.rsplit(".", 1)[0] for name in state if name.endswith("running_mean")}
    assert norms == {f"{tower}.{i}" for tower, places in NORMS.items() for i in places}
    assert sum(p.numel() for p in network.parameters()) == 13_631_616


def test_windows_are_those_of_the_protocol(network: SyncNet) -> None:
    """Window t begins at frame t and at step 4 t; one fewer than fit; colors are blue first."""
    generator = torch.Generator().manual_seed(1)
    faces = torch.randint(0, 256, (8, 224, 224, 3), generator=generator, dtype=torch.uint8)
    waveform = torch.randn(8 * 640, generator=generator) * 0.1
    seen, heard = network.embed(faces, waveform)
    assert seen.shape == heard.shape == (3, 1024)
    with torch.inference_mode():
        window = faces[2:7].numpy()[..., ::-1].transpose(3, 0, 1, 2)
        picture = network.forward_lip(torch.from_numpy(np.ascontiguousarray(window))[None].float())
        sound = network.forward_aud(mfcc(waveform)[None, None, :, 8:28])
    assert torch.allclose(seen[2], picture[0], atol=1e-4) and torch.allclose(heard[2], sound[0], atol=1e-4)
    assert not torch.allclose(seen[1], seen[2], atol=1e-4) and not torch.allclose(heard[1], heard[2], atol=1e-4)
    assert network.embed(faces, waveform[: 7 * 640])[0].shape[0] == 2
    with pytest.raises(ValueError, match="wanted 6 or more"):
        network.embed(faces[:5], waveform)


@pytest.mark.parametrize("kind", ["state.pth", "state.safetensors"])
def test_weights_load_by_path(network: SyncNet, tmp_path: Path, kind: str) -> None:
    """Old weights know nothing of counted batches."""
    state = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    if kind.endswith("pth"):
        torch.save(state, tmp_path / kind)
    else:
        save_file(state, tmp_path / kind)
    loaded = SyncNet.load(tmp_path / kind)
    assert loaded.fingerprint() == network.fingerprint() != SyncNet().fingerprint()
    assert not loaded.training


def test_other_files_are_refused(network: SyncNet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        SyncNet.load(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="holds no weights of SyncNet"):
        SyncNet.load(tmp_path / "text.pth")
    torch.save({"netfclip.0.weight": network.netfclip[0].weight.detach(), "head": torch.ones(1)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"it lacks .* has \['head'\]"):
        SyncNet.load(tmp_path / "part.pth")


def test_a_face_is_cropped_as_the_pipeline_does() -> None:
    """A box of 40 pixels: 56 wide about its middle, from its top to 16 below its bottom."""
    frames = torch.zeros(4, 120, 160, 3, dtype=torch.uint8)
    frames[:, 30:86, 52:108] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    box = torch.tensor([60 / 160, 30 / 120, 100 / 160, 70 / 120]).expand(4, 4)
    crops = crop_faces(frames, box, side=56)
    assert crops.shape == (4, 56, 56, 3) and (crops == torch.tensor([255, 0, 0], dtype=torch.uint8)).all()
    moved = crop_faces(frames, box + torch.tensor([1 / 160, 0, 1 / 160, 0]), side=56)
    assert (moved[:, :, -1] == 0).all() and (moved[:, :, :-1, 0] == 255).all()


def test_beyond_the_picture_is_gray_and_one_outlier_is_ignored() -> None:
    frames = torch.full((9, 64, 64, 3), 200, dtype=torch.uint8)
    box = torch.tensor([0.0, 0.2, 0.5, 0.7]).repeat(9, 1)
    crops = crop_faces(frames, box, side=32)
    assert (crops[:, :, 0] == 110).all() and (crops[:, :5, 16] == 200).all()
    box[4] += 0.3
    assert torch.equal(crop_faces(frames, box, side=32), crops)
