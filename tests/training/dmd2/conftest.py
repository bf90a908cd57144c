"""Networks that can be written down: on tokens of two channels, with and without closed forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from hh_train.data.packing import pack
from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.solvers import RenoiseSolver
from hh_train.inference.guided import Model
from hh_train.training.dmd2.rollout import BackwardSimulation, Exit
from hh_train.training.dmd2.turn import Networks, Part, Turn
from hh_train.types import LatentClip, Modality, PackedBatch, Prediction

CHANNELS = 2
LEVEL = 0.5
"""Noise level at which critic and teacher of these networks judge: they are not told any."""


@dataclass(frozen=True)
class OneLevel:
    """The same noise level at every draw."""

    level: float = LEVEL

    def sample(self, num_clips: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.full((num_clips,), self.level)


@dataclass(frozen=True)
class Mixture:
    """Equal parts of normals around `means` [K 2], all of the same deviation."""

    means: Tensor
    std: float

    def clean(self, x: Tensor, t: float = LEVEL) -> Tensor:
        """E[clean | noised x]: each part's own posterior mean, weighted by how likely the part is."""
        variance = (1 - t) ** 2 * self.std**2 + t**2
        away = x[:, None] - (1 - t) * self.means
        shares = torch.softmax(-away.square().sum(-1) / (2 * variance), dim=1)
        posterior = self.means + (1 - t) * self.std**2 / variance * away
        return (shares[..., None] * posterior).sum(1)

    def score(self, x: Tensor, t: float = LEVEL) -> Tensor:
        """Gradient of the log density of the noised distribution, by differentiation of the density itself."""
        x = x.detach().double().requires_grad_()
        variance = (1 - t) ** 2 * self.std**2 + t**2
        exponents = -(x[:, None] - (1 - t) * self.means.double()).square().sum(-1) / (2 * variance)
        (gradient,) = torch.autograd.grad(exponents.logsumexp(1).sum(), x)
        return gradient.float()

    def sample(self, num: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(self.means), (num,), generator=generator)
        return self.means[which] + self.std * torch.randn(num, CHANNELS, generator=generator)

    def model(self, batch: PackedBatch) -> Prediction:
        """The velocity that leads to `clean`, of every token by itself."""
        return velocity_to(self.clean, batch)


def velocity_to(clean: Callable[[Tensor], Tensor], batch: PackedBatch) -> Prediction:
    video, audio = ((x - clean(x)) / LEVEL for x in (batch.video, batch.audio))
    return Prediction(video=video, audio=audio)


class TokenNetwork(nn.Module):
    """Velocity of each token by itself: x - f(x), f linear or with two hidden layers."""

    def __init__(self, *, hidden: int | None = None) -> None:
        super().__init__()
        layers = [nn.Linear(CHANNELS, CHANNELS)]
        if hidden is not None:
            layers = [nn.Linear(CHANNELS, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()]
            layers.append(nn.Linear(hidden, CHANNELS))
        self.f = nn.Sequential(*layers)

    def forward(self, batch: PackedBatch) -> Prediction:
        return Prediction(video=batch.video - self.f(batch.video), audio=batch.audio - self.f(batch.audio))


@dataclass(frozen=True)
class Trio:
    student: Model
    critic: Model
    teacher: Model


def token_batch(num_tokens: int, *, num_clips: int = 1, prefix: str = "") -> PackedBatch:
    """Clips of that many video and audio tokens of two channels each: zeros, which students do not see. Text is 1."""
    clips = [
        LatentClip(
            key=f"{prefix}{index}",
            video=torch.zeros(CHANNELS, num_tokens, 1, 1),
            audio=torch.zeros(num_tokens, CHANNELS),
            text=torch.ones(1, 1),
        )
        for index in range(num_clips)
    ]
    return pack(clips, patch=(1, 1, 1))


@dataclass
class Loop:
    """The update rule without Lightning: every turn the critic's parts, every `ratio`-th one the student's too.

    A one-step student: it maps noise to its samples.
    """

    networks: Networks
    student_parts: Sequence[Part]
    critic_parts: Sequence[Part]
    ratio: int = 5
    learning_rate: float = 1e-2
    weights: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        self.rollout = BackwardSimulation(sampler=RenoiseSolver(num_steps=1, levels=[1.0, 0.0]))
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=self.learning_rate, betas=(0.0, 0.99))
            for network in (self.networks.student, self.networks.critic)
            if isinstance(network, nn.Module)
        ]
        self.steps = count()

    def turn(self, batch: PackedBatch, step: int) -> Turn:
        noise = partial(ClipNoise, batch, seed=0, step=step)
        return Turn(
            networks=self.networks,
            null_text=torch.zeros(1, 1),
            batch=batch,
            make_sample=lambda: self.rollout(self.networks.student, batch, noise(purpose="rollout"), exit_at=Exit(0)),
            trains_student=True,
            sampler=self.rollout.sampler,
            exit_at=Exit(0),
            noise=lambda purpose: noise(purpose=purpose),
            weights=dict(zip((Modality.VIDEO, Modality.AUDIO), self.weights, strict=True)),
        )

    def run(self, batch: PackedBatch, num_turns: int) -> None:
        for _ in range(num_turns):
            step = next(self.steps)
            turn = self.turn(batch, step)
            if (step + 1) % self.ratio == 0:
                self._descend(0, self.student_parts, turn)
            if self.critic_parts:
                self._descend(1, self.critic_parts, turn)

    def _descend(self, index: int, parts: Sequence[Part], turn: Turn) -> None:
        optimizer = self.optimizers[index]
        optimizer.zero_grad()
        torch.stack([part(turn).value for part in parts]).sum().backward()
        optimizer.step()

    def samples(self, num: int, seed: int = 1) -> Tensor:
        """The student's, of its video tokens."""
        noise = torch.randn(num, CHANNELS, generator=torch.Generator().manual_seed(seed))
        batch = token_batch(num)
        with torch.no_grad():
            return noise - self.networks.student(replace(batch, video=noise)).video


@dataclass(frozen=True)
class Toys:
    """All of the above, by name."""

    mixture: Callable[..., Mixture] = Mixture
    network: Callable[..., TokenNetwork] = TokenNetwork
    trio: Callable[..., Trio] = Trio
    loop: Callable[..., Loop] = Loop
    batch: Callable[..., PackedBatch] = token_batch
    one_level: OneLevel = OneLevel()
    level: float = LEVEL


@pytest.fixture(scope="session")
def toys() -> Toys:
    return Toys()
