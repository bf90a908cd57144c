"""The tables of an evaluation for Weights & Biases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hh_train.stages.evaluation_record import EvaluationRecord


@dataclass(frozen=True, kw_only=True)
class WandbTable:
    """Logs the scores, the differences, every clip and the report as one run.

    Args:
        project: of the run.
        name: of the run; null lets W&B choose.
        offline: writes to disk, to be sent later with `wandb sync`.
    """

    project: str = "hh_train"
    name: str | None = None
    offline: bool = True

    def log(self, record: EvaluationRecord, page: Path) -> None:
        """Logs an evaluation whose page is written."""
        import wandb

        mode: Literal["offline"] | None = "offline" if self.offline else None  # None: as WANDB_MODE says
        with wandb.init(
            project=self.project,
            name=self.name,
            dir=str(page.parent),
            job_type="evaluation",
            mode=mode,
            config={"protocol": record.protocol.to_json()},
        ) as run:
            for name, rows in record.tables().items():
                if rows:
                    columns: list[str | int] = list(dict.fromkeys(column for row in rows for column in row))
                    table = wandb.Table(
                        columns=columns, data=[[row.get(str(column)) for column in columns] for row in rows]
                    )
                    run.log({name: table})
            run.log({"report": wandb.Html(page.read_text(encoding="utf-8"), inject=False)})
            for report in record.reports:
                for name, score in report.scores.items():
                    run.summary[f"{report.name}/{name}"] = score.mean
