"""What papers and maintainers have reported of the rows of the ablations, and whether ours point the same way."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hh_train.metrics.comparison.pooled import PooledDifference
from hh_train.metrics.measure import Measure
from hh_train.metrics.report.ablation import Verdict, signed

Expected = Literal["better", "worse", "same", "higher", "lower"]
PICTURES = ("fvd", "kvd")
"""What stands for the FID and the scores of pictures of the papers: the first that was measured."""
SOUND = ("fad", "kad")
SATURATION = ("video_latent_std", "saturation")
SAME_SHARE = 0.1
"""Two are the same where the whole interval lies within this share of the other's score."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """That one row is better or worse than another."""

    row: str
    against: str
    expected: Expected
    finding: str
    source: str
    measures: Sequence[str] = PICTURES


_DMD2 = "Yin et al., DMD2, arXiv:2405.14867"
_CAUSVID = "Yin et al., CausVid, arXiv:2412.07772"
PUBLISHED: tuple[Published, ...] = (
    Published(
        row="parts_with_gan",
        against="parts_full",
        expected="better",
        finding="with a discriminator: FID 1.51 against 2.61 (ImageNet-64, 1 step)",
        source=f"{_DMD2}, table 3",
    ),
    Published(
        row="parts_with_gan",
        against="parts_full",
        expected="better",
        finding="with a discriminator: FID 19.32 against 26.90, patch FID 20.86 against 27.66 (SDXL, 4 steps)",
        source=f"{_DMD2}, table 4",
    ),
    Published(
        row="parts_gan_only",
        against="parts_with_gan",
        expected="worse",
        finding="a discriminator alone: FID 2.56 against 1.51 (ImageNet-64, 1 step)",
        source=f"{_DMD2}, table 3",
    ),
    Published(
        row="parts_no_matching",
        against="parts_with_gan",
        expected="worse",
        finding="a discriminator and 5 critic steps without matching: FID 2.52 against 1.51 (ImageNet-64, 1 step)",
        source=f"{_DMD2}, table 3",
    ),
    Published(
        row="parts_no_matching",
        against="parts_with_gan",
        expected="worse",
        finding="without matching: patch FID 27.96 against 20.86, though FID 13.77 against 19.32 (SDXL, 4 steps)",
        source=f"{_DMD2}, table 4",
    ),
    Published(
        row="parts_ratio_1",
        against="parts_full",
        expected="worse",
        finding="1 critic step a student step: FID 3.48 against 2.61 with 5 (ImageNet-64, 1 step)",
        source=f"{_DMD2}, table 3",
    ),
    Published(
        row="parts_ratio_10",
        against="parts_full",
        expected="same",
        finding="10 critic steps a student step: as stable as 5, and slower",
        source=f"{_DMD2}, appendix C",
    ),
    Published(
        row="critic_rate_five_for_steps",
        against="parts_full",
        expected="worse",
        finding="a five times higher critic rate in place of 5 steps is worse",
        source=f"{_DMD2}, appendix C",
    ),
    Published(
        row="parts_no_simulation",
        against="parts_full",
        expected="worse",
        finding="without backward simulation: patch FID 24.21 against 20.86, FID 20.66 against 19.32 (SDXL, 4 steps)",
        source=f"{_DMD2}, table 4",
    ),
    Published(
        row="parts_no_simulation",
        against="parts_full",
        expected="worse",
        finding="noised data in place of own samples: VBench 82.76 against 84.31 (Wan 1.3B, chunk by chunk)",
        source="Huang et al., Self-Forcing, arXiv:2506.08009, ablation table",
    ),
    Published(
        row="parts_alignment",
        against="parts_full",
        expected="better",
        finding="with implicit distribution alignment an 8 B model converges that did not without",
        source="Ge et al., SenseFlow, arXiv:2506.00523",
    ),
    Published(
        row="baseline_with_regression",
        against="parts_full",
        expected="same",
        finding="regression beside matching: FID 2.62 against 2.61 without it, at 5 critic steps (ImageNet-64, 1 step)",
        source=f"{_DMD2}, table 3",
    ),
    Published(
        row="baseline_ode_regression",
        against="parts_full",
        expected="worse",
        finding="regression onto the ODE alone: frame quality 48.1 against 64.4 with matching after it",
        source=f"{_CAUSVID}, table 4",
    ),
    Published(
        row="ode_warm_start",
        against="parts_full",
        expected="better",
        finding="a start from ODE regression: frame quality 64.4 against 60.6",
        source=f"{_CAUSVID}, table 4",
    ),
    Published(
        row="adapters_rank_64",
        against="parts_full",
        expected="same",
        finding="adapters of rank 64: FID 19.68 against 19.32 (SDXL, 4 steps)",
        source="DMD2's repository, README",
    ),
    Published(
        row="steps_1",
        against="steps_4",
        expected="worse",
        finding="1 step: patch FID 26.98 against 20.86 with 4, though FID 19.01 against 19.32 (SDXL)",
        source=f"{_DMD2}, table 2",
    ),
    Published(
        row="steps_2",
        against="steps_4",
        expected="worse",
        finding="2 steps: VBench 84.53 against 84.72 with 4 (Wan 1.3B)",
        source="FastGen's repository, results of DMD2",
    ),
    Published(
        row="steps_16",
        against="steps_4",
        expected="higher",
        finding="8 steps and more are over-saturated",
        source="CausVid's repository, issue 18",
        measures=SATURATION,
    ),
    Published(
        row="steps_8",
        against="steps_4",
        expected="higher",
        finding="8 steps and more are over-saturated",
        source="CausVid's repository, issue 18",
        measures=SATURATION,
    ),
    Published(
        row="parts_full",
        against="teacher",
        expected="worse",
        finding="a joint sound and picture student: FVD 137.2 against its teacher's 125.4",
        source="OmniForcing, its main table",
    ),
    Published(
        row="parts_full",
        against="teacher",
        expected="worse",
        finding="a joint sound and picture student: FAD 5.7 against its teacher's 4.6",
        source="OmniForcing, its main table",
        measures=SOUND,
    ),
)


RECIPE = "parts_full"
NAMES_OF_RECIPE = (
    "parts_full", "steps_8", "guidance_2", "exits_uniform", "normalizer_per_modality", "audio_weight_1",
    "critic_rate_base", "adapters_none",
)  # fmt: skip
"""The recipe that every sweep starts from has a name in each of them."""


def rows_at_hand(names: Collection[str], published: Sequence[Published] = PUBLISHED) -> list[Published]:
    """Those whose two rows are there, the recipe under any of its names."""
    recipe = next((name for name in NAMES_OF_RECIPE if name in names), RECIPE)
    own = {RECIPE: recipe}
    known = [
        replace(one, row=own.get(one.row, one.row), against=own.get(one.against, one.against)) for one in published
    ]
    return [one for one in known if one.row in names and one.against in names and one.row != one.against]


def judge(
    one: Published,
    differences: Mapping[str, PooledDifference],
    measures: Sequence[Measure],
    *,
    other_scores: Mapping[str, float | None],
) -> Verdict:
    """Whether a difference of ours, row minus the other, points where the published one does.

    A direction is agreed or disagreed with where the 95 % interval leaves out zero, and the test, if there is one,
    says so too; sameness where the whole interval is narrow, by a tenth of the other's score on either side.

    Args:
        one: what was published.
        differences: ours by measure, each tested alone.
        measures: all that were measured.
        other_scores: of the row that it is compared with, by measure.
    """
    known = {measure.name: measure for measure in measures}
    name = next((name for name in one.measures if name in differences and name in known), None)
    shared = {"finding": one.finding, "source": one.source, "row": one.row, "against": one.against}
    if name is None:
        missing = " or ".join(one.measures)
        return Verdict(
            **shared, measure=missing, expected=one.expected, observed="not measured in both", verdict="cannot tell"
        )
    measure, found = known[name], differences[name].difference
    observed = f"{signed(measure, found.mean)} ({signed(measure, found.low)} to {signed(measure, found.high)})"
    limit = SAME_SHARE * abs(other_scores.get(name) or 0.0)
    return Verdict(
        **shared,
        measure=measure.title,
        expected=one.expected,
        observed=observed,
        verdict=_verdict(one.expected, measure, found.mean, (found.low, found.high), found.is_significant, limit),
    )


def _verdict(
    expected: Expected,
    measure: Measure,
    mean: float | None,
    interval: tuple[float | None, float | None],
    is_significant: bool,
    limit: float,
) -> str:
    low, high = interval
    if mean is None or low is None or high is None:
        return "cannot tell"
    if expected == "same":
        if -limit <= low and high <= limit:
            return "agree"
        return "disagree" if is_significant and (low > limit or high < -limit) else "cannot tell"
    if not is_significant or low <= 0 <= high:
        return "cannot tell"
    direction = "higher" if mean > 0 else "lower"
    if expected in ("better", "worse"):
        if measure.better is None:
            return "cannot tell"
        direction = "better" if direction == measure.better else "worse"
    return "agree" if direction == expected else "disagree"
