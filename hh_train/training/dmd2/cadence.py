"""Who trains when: the two-time-scale update rule (section 4.2, arXiv:2405.14867), counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(kw_only=True)
class Cadence:
    """Every turn trains the critic once; every `critic_steps_per_student_step`-th turn trains the student too.

    A turn takes `batches_per_turn` batches, whose gradients add up. Raises ValueError for numbers below 1.
    """

    critic_steps_per_student_step: int
    batches_per_turn: int = 1
    student_steps: int = 0
    critic_steps: int = 0
    """Turns so far."""
    batches: int = 0
    """Of the turn at hand so far."""

    def __post_init__(self) -> None:
        if self.critic_steps_per_student_step < 1:
            raise ValueError(f"want at least 1 critic step per student step, got {self.critic_steps_per_student_step}")
        if self.batches_per_turn < 1:
            raise ValueError(f"want at least 1 batch per turn, got {self.batches_per_turn}")

    @property
    def trains_student(self) -> bool:
        """Whether the turn at hand does."""
        return (self.critic_steps + 1) % self.critic_steps_per_student_step == 0

    @property
    def is_between_turns(self) -> bool:
        """Whether no gradients have been gathered."""
        return self.batches == 0

    def count_batch(self) -> bool:
        """Counts a batch; whether it is the last of its turn."""
        self.batches = (self.batches + 1) % self.batches_per_turn
        return self.is_between_turns

    def count_turn(self) -> None:
        """After the optimizer steps of a turn."""
        self.student_steps += self.trains_student
        self.critic_steps += 1

    def state_dict(self) -> dict[str, int]:
        return asdict(self)

    def load_state_dict(self, saved: dict[str, int]) -> None:
        """Goes on where a checkpoint between turns left off. Raises ValueError when it has another cadence."""
        ours = asdict(self)
        fixed = ("critic_steps_per_student_step", "batches_per_turn")
        if saved["critic_steps_per_student_step"] != self.critic_steps_per_student_step or saved["batches"]:
            raise ValueError(
                f"got a checkpoint of {saved}, wanted one between two turns with the cadence "
                f"{ {name: ours[name] for name in fixed} }: resume with the run's own settings, from a checkpoint that "
                "TurnCheckpoint has written"
            )
        self.student_steps, self.critic_steps, self.batches = saved["student_steps"], saved["critic_steps"], 0
