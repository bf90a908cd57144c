"""Real or generated: a logit for each clip's video and one for its audio, from a transformer's hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hh_train.runtime.seeds import derived_seed
from hh_train.training.flow_matching import GENERATED
from hh_train.types import PackedBatch


class PooledLogit(nn.Module):
    """Learned queries attend to a clip's tokens; what they gather becomes one logit (section 3.2, arXiv:2501.08316)."""

    def __init__(self, *, hidden_size: int, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"got a width of {width} for {num_heads} heads, wanted a multiple")
        self.num_heads = num_heads
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.key = nn.Linear(hidden_size, width, bias=False)
        self.value = nn.Linear(hidden_size, width, bias=False)
        self.query = nn.Parameter(torch.empty(num_heads, width // num_heads))
        self.inner = nn.Linear(width, width)
        self.logit = nn.Linear(width, 1)

    def init_weights(self, generator: torch.Generator) -> None:
        """Draws every matrix from the generator, whatever the process's own random state."""
        for parameter in self.parameters():
            if parameter.dim() < 2:
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
        nn.init.ones_(self.norm.weight)

    def forward(
        self,
        hidden: Float[Tensor, "N hidden"],
        counted: Bool[Tensor, " N"],
        clip: Int[Tensor, " N"],
        num_clips: int,
    ) -> Float[Tensor, " B"]:
        """One logit a clip, from its counted tokens. That of a clip without any means nothing."""
        normed = self.norm(hidden.float())
        keys, values = (part.unflatten(-1, self.query.shape) for part in (self.key(normed), self.value(normed)))
        scores = (keys * self.query).sum(-1) * self.query.shape[1] ** -0.5
        shares = _softmax_by_clip(scores.masked_fill(~counted[:, None], -torch.inf), clip, num_clips)
        pooled = scores.new_zeros(num_clips, *self.query.shape).index_add(0, clip, shares[..., None] * values)
        logits: Tensor = self.logit(F.silu(self.inner(pooled.flatten(1))))
        return logits.squeeze(-1)


def _softmax_by_clip(scores: Tensor, clip: Tensor, num_clips: int) -> Tensor:
    """Over the tokens of each clip; zeros where all of a clip's scores are minus infinity."""
    owner = clip[:, None].expand_as(scores)
    highest = scores.new_full((num_clips, scores.shape[1]), -torch.inf).scatter_reduce(
        0, owner, scores.detach(), "amax"
    )
    raised = torch.exp(scores - highest.nan_to_num(neginf=0.0)[clip])
    total = scores.new_zeros(num_clips, scores.shape[1]).index_add(0, clip, raised)
    return raised / total.clamp(min=torch.finfo(total.dtype).tiny)[clip]


class Discriminator(nn.Module):
    """One head for each modality and layer that is read; a modality's logit is the mean over layers.

    The weights follow from the seed alone: they are the same on every rank.
    """

    def __init__(self, *, hidden_size: int, num_layers: int, width: int, num_heads: int, seed: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            PooledLogit(hidden_size=hidden_size, width=width, num_heads=num_heads)
            for _ in range(num_layers * len(GENERATED))
        )
        generator = torch.Generator().manual_seed(derived_seed(seed, "discriminator"))
        for head in self.heads:
            assert isinstance(head, PooledLogit)
            head.init_weights(generator)

    def forward(
        self, hidden: Sequence[Float[Tensor, "N hidden"]], batch: PackedBatch
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Logits of video and audio. `hidden` of each layer stands grouped by modality; given tokens are not looked at.

        Every head takes part in every pass, so that no rank's gradients lack one.
        """
        counted = (~batch.video_is_given, ~batch.audio_is_given)
        clip = (batch.video_clip, batch.audio_clip)
        parts = [states.split(batch.modality_counts) for states in hidden]
        video, audio = (
            torch.stack(
                [
                    self.heads[layer * len(GENERATED) + m](states[m], counted[m], clip[m], batch.num_clips)
                    for layer, states in enumerate(parts)
                ]
            ).mean(0)
            for m in GENERATED
        )
        return video, audio
