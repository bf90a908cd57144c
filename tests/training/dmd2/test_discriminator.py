"""The discriminator's pooling."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hh_train.data.packing import pack
from hh_train.training.dmd2.discriminator import Discriminator, PooledLogit
from hh_train.types import LatentClip

CLIP = torch.tensor([0, 0, 1, 1, 1])
EVERY = torch.ones(5, dtype=torch.bool)


@pytest.fixture
def head() -> PooledLogit:
    head = PooledLogit(hidden_size=6, width=8, num_heads=2)
    head.init_weights(torch.Generator().manual_seed(0))
    return head


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


def test_attention_written_out(head: PooledLogit, hidden: torch.Tensor) -> None:
    normed = head.norm(hidden[2:])
    keys, values = head.key(normed).unflatten(1, (2, 4)), head.value(normed).unflatten(1, (2, 4))
    shares = torch.softmax((keys * head.query).sum(-1) / 2, dim=0)
    pooled = (shares[..., None] * values).sum(0).flatten()
    expected = head.logit(torch.nn.functional.silu(head.inner(pooled)))
    torch.testing.assert_close(head(hidden, EVERY, CLIP, 2)[1:], expected)


def test_clips_are_judged_apart_and_tokens_that_do_not_count_are_not_seen(
    head: PooledLogit, hidden: torch.Tensor
) -> None:
    counted = torch.tensor([True, True, True, True, False])
    plain = head(hidden, counted, CLIP, 2)
    changed = hidden.clone()
    changed[4] *= 100
    assert torch.equal(head(changed, counted, CLIP, 2), plain)
    changed[3] *= -3
    after = head(changed, counted, CLIP, 2)
    assert after[0] == plain[0] and after[1] != plain[1]


def test_large_scores_and_clips_without_tokens_stay_finite(head: PooledLogit, hidden: torch.Tensor) -> None:
    with torch.no_grad():
        head.query.mul_(1e4)
    hidden.requires_grad_()
    logits = head(hidden, torch.tensor([False, False, True, True, True]), CLIP, 3)
    logits.sum().backward()
    assert torch.isfinite(logits).all() and torch.isfinite(hidden.grad).all()


def test_the_weights_follow_from_the_seed_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(int(torch.randint(1000, ())))
        made = Discriminator(hidden_size=6, num_layers=2, width=8, num_heads=2, seed=seed)
        return torch.cat([parameter.detach().flatten() for parameter in made.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_each_modality_and_layer_has_a_head_and_text_none(make_clip: Callable[..., LatentClip]) -> None:
    batch = pack([make_clip("a"), make_clip("b")], patch=(1, 2, 2))
    made = Discriminator(hidden_size=6, num_layers=2, width=8, num_heads=2, seed=0)
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(batch.num_tokens, 6, generator=generator, requires_grad=True) for _ in range(2)]
    video, audio = made(states, batch)
    assert video.shape == audio.shape == (2,)
    for logits, modality in ((video, 0), (audio, 1)):
        gradients = torch.autograd.grad(logits.sum(), states, retain_graph=True)
        for gradient in gradients:
            sizes = [float(part.abs().sum()) for part in gradient.split(batch.modality_counts)]
            assert [size > 0 for size in sizes] == [modality == 0, modality == 1, False]


def test_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ValueError, match="a width of 9 for 2 heads"):
        PooledLogit(hidden_size=6, width=9, num_heads=2)
