"""At which step a model was best on clips that it does not train on."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

LARGEST_RISE = 1.02
"""Of a loss over its least: what lies below is chance."""


class HeldOutLosses(Callback):
    """Remembers the losses of every validation, the base's first, and says at the end where they were lowest."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[int, float]]] = {"video": [], "audio": []}
        """Step and loss by modality."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        for modality, seen in self.seen.items():
            if f"validation/{modality}" in trainer.callback_metrics:
                seen.append((trainer.global_step, float(trainer.callback_metrics[f"validation/{modality}"])))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]

    def warnings(self) -> list[str]:
        """A line for each modality whose loss has risen again."""
        found = []
        for modality, seen in self.seen.items():
            if not seen:
                continue
            step, least = min(seen, key=lambda one: one[1])
            last = seen[-1][1]
            if not last <= LARGEST_RISE * least:
                best = "before the first step" if step == 0 else f"at step {step}"
                found.append(
                    f"the held-out loss of {modality} was lowest {best} ({least:.4g}) and ends at {last:.4g}: the "
                    "clips are being learnt by heart. Train for fewer steps, at a lower rate or rank, or on more clips"
                )
        return found
