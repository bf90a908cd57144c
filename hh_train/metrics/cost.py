"""What a clip cost to generate, as `generate` wrote it beside the clip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from hh_train.metrics.clip_metric import ClipMetric
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Sample


class GenerationCost(ClipMetric):
    """Seconds and model evaluations a clip. A real clip has no cost and is undefined."""

    names: ClassVar[tuple[str, ...]] = ("seconds", "num_function_evaluations")

    def update(self, key: str, fields: Mapping[str, Any]) -> None:
        """Adds a clip by its json."""
        self.record(key, generation_cost(fields))


def generation_cost(fields: Mapping[str, Any]) -> dict[str, float | None]:
    """`GenerationCost.names` from the `generation` of a clip's json; None where it has none."""
    written = fields.get("generation")
    cost = written if isinstance(written, Mapping) else {}
    values = {name: cost.get(name) for name in GenerationCost.names}
    return {name: float(v) if isinstance(v, int | float) and math.isfinite(v) else None for name, v in values.items()}


class CostMeasurer:
    """`GenerationCost` as a measurer."""

    measures: ClassVar[tuple[Measure, ...]] = (
        Measure(name="num_function_evaluations", title="model evaluations a clip", digits=0),
        Measure(name="seconds", title="seconds a clip", better="lower"),
    )

    def protocol(self) -> Mapping[str, str]:
        """Nothing: what is written beside the clip is taken as it is."""
        return {}

    def measure(self, sample: Sample) -> Measured:
        """Reads the clip's json. A clip that nobody generated has no cost, not even an undefined one."""
        return Measured(values=generation_cost(sample.fields) if "generation" in sample.fields else {})
