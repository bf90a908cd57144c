"""What is seen in a data set before time is spent on it: clips, captions, sound, and how often each clip will come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.loading.plan import PlannedClip
from hh_train.data.loading.shard_sets import OpenSet, open_shard_sets
from hh_train.data.shards.format import read_latent_clips
from hh_train.data.shards.manifest import Manifest
from hh_train.model.config import ModelConfig
from hh_train.training.checkpoints import Provenance

MAX_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Of the clips whose captions were read."""

    num_read: int
    empty: tuple[str, ...]
    """Keys of some without a caption."""
    num_empty: int
    commonest: str
    num_commonest: int
    """Clips that have just this caption."""
    trigger_word: str | None = None
    """That is to call what is learnt."""
    num_with_trigger: int = 0

    @classmethod
    def of(cls, captions: Sequence[tuple[str, str]], trigger_word: str | None = None) -> Captions:
        """Of keys and captions."""
        empty = [key for key, caption in captions if not caption.strip()]
        told = Counter(caption.strip() for _, caption in captions if caption.strip())
        commonest, count = told.most_common(1)[0] if told else ("", 0)
        return cls(
            num_read=len(captions),
            empty=tuple(empty[:MAX_EXAMPLES]),
            num_empty=len(empty),
            commonest=commonest,
            num_commonest=count,
            trigger_word=trigger_word,
            num_with_trigger=sum(trigger_word in caption for _, caption in captions) if trigger_word else 0,
        )


@dataclass(frozen=True, kw_only=True)
class SetSurvey:
    """One set of shards, and what a run makes of it."""

    source: str
    num_clips: int
    num_silent: int
    """Without a sound track: trained on their picture, with no loss of sound."""
    num_pictures: int
    """With one latent frame."""
    num_dropped: int
    num_held_out: int
    """For validation."""
    num_values: int
    """Numbers in the latents of its clips: what there is to learn."""
    buckets: tuple[tuple[str, int], ...]
    """Latent frames x rows x columns, and how many clips have them; the commonest first."""
    clips_per_epoch: int
    tokens_per_epoch: int
    captions: Captions | None
    """None where they were not read: from afar."""

    @property
    def passes_per_epoch(self) -> float:
        """How often each of its clips comes in an epoch, on average."""
        return self.clips_per_epoch / self.num_clips


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A fine-tuning run before it starts. The first set is the footage to learn; others keep what is known.

    `trained_parameters` counts those with gradients.
    """

    sets: tuple[SetSurvey, ...]
    steps_per_epoch: int
    num_steps: int
    trained_parameters: int

    @property
    def epochs(self) -> float:
        return self.num_steps / self.steps_per_epoch

    def times_seen(self, one: SetSurvey) -> float:
        """How often each clip of a set comes in the whole run."""
        return self.epochs * one.passes_per_epoch

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "epochs": self.epochs, "times_seen": [self.times_seen(one) for one in self.sets]}

    def table(self) -> Table:
        """A row for each set."""
        title = (
            f"{self.num_steps:,} steps, {self.steps_per_epoch:,} an epoch: {self.epochs:.1f} epochs; "
            f"{self.trained_parameters:,} trained parameters"
        )
        table = Table(title=title, title_justify="left")
        columns = (
            "set",
            "clips",
            "left out",
            "silent",
            "pictures",
            "tokens an epoch",
            "times seen",
            "sizes (T x h x w)",
        )
        for column in columns:
            table.add_column(column, justify="left" if column in ("set", columns[-1]) else "right")
        for one in self.sets:
            sizes = "\n".join(f"{size}: {count}" for size, count in one.buckets[:MAX_EXAMPLES])
            table.add_row(
                one.source, f"{one.num_clips:,}", str(one.num_dropped), str(one.num_silent), str(one.num_pictures),
                f"{one.tokens_per_epoch:,}", f"{self.times_seen(one):.1f}", sizes,
            )  # fmt: skip
        return table


@dataclass(frozen=True, kw_only=True)
class Guards:
    """Limits beyond which a warning is due. They are rules of thumb: a run may be meant to pass them.

    Args:
        max_times_seen: how often each clip to learn may come.
        times_seen_with_many_parameters: the same where there are more trained parameters than numbers in the latents.
        max_silent_share: of the clips to learn.
        max_equal_captions: share of the clips to learn that may have one and the same caption.
        num_captions: read of each set.
    """

    max_times_seen: float = 200.0
    times_seen_with_many_parameters: float = 50.0
    max_silent_share: float = 0.2
    max_equal_captions: float = 0.5
    num_captions: int = 256

    def warnings(self, survey: Survey) -> list[str]:
        """What is wrong with a run as it is planned, and what to change."""
        return [
            *self._of_held_out(survey),
            *self._of_sound(survey),
            *self._of_captions(survey),
            *self._of_memorizing(survey),
        ]

    @staticmethod
    def _of_held_out(survey: Survey) -> list[str]:
        if survey.sets[0].num_held_out:
            return []
        return [
            "no clip is held out for validation: nothing will tell learning from learning by heart. Put a few into a "
            "folder `validation/`, or raise held_out_share, and tokenize again"
        ]

    def _of_sound(self, survey: Survey) -> list[str]:
        own = survey.sets[0]
        if own.num_silent <= self.max_silent_share * own.num_clips:
            return []
        rest = survey.sets[1:]
        keeps = sum(one.num_clips - one.num_silent for one in rest) > 0
        remedy = "the other sets keep the voice" if keeps else "mix in a set with sound, or the voice may be lost"
        return [f"{own.num_silent} of {own.num_clips} clips have no sound and train the picture alone: {remedy}"]

    def _of_captions(self, survey: Survey) -> list[str]:
        found, captions = [], survey.sets[0].captions
        if captions is None:
            return []
        if captions.num_empty:
            found.append(
                f"{captions.num_empty} of {captions.num_read} captions are empty (such as {', '.join(captions.empty)}) "
                "and prompts would not bring back what is learnt; write captions and tokenize again"
            )
        if captions.num_commonest > max(1.0, self.max_equal_captions * captions.num_read):
            found.append(
                f"{captions.num_commonest} of {captions.num_read} clips have the same caption "
                f"({captions.commonest[:60]!r}): what sets them apart goes into every video; say in each what is in it"
            )
        if captions.trigger_word and captions.num_with_trigger < captions.num_read:
            found.append(
                f"the trigger word {captions.trigger_word!r} is in {captions.num_with_trigger} of {captions.num_read} "
                "captions: it calls what is learnt only if it stands in them; write it into each and tokenize again"
            )
        return found

    def _of_memorizing(self, survey: Survey) -> list[str]:
        own = survey.sets[0]
        seen, many = survey.times_seen(own), survey.trained_parameters > own.num_values
        limit = self.times_seen_with_many_parameters if many else self.max_times_seen
        if seen <= limit:
            return []
        because = f", with {survey.trained_parameters:,} parameters for {own.num_values:,} numbers" if many else ""
        return [
            f"each of the {own.num_clips} clips comes {seen:.0f} times{because}: they will be learnt by heart. "
            f"Train for {max(1, int(survey.num_steps * limit / seen)):,} steps or fewer, add clips, lower the rank, or "
            "mix in other sets"
        ]


def survey_run(
    datamodule: LatentDataModule,
    *,
    num_steps: int,
    trained_parameters: int,
    world_size: int = 1,
    num_captions: int = 256,
    trigger_word: str | None = None,
) -> Survey:
    """Counts what the data module will hand out; it must be set up. Reads manifests and some captions.

    Raises ValueError as `LatentDataModule.setup`.
    """
    batches = datamodule.plan.epoch(0)
    drawn: dict[int, list[PlannedClip]] = {}
    for clip in (clip for batch in batches for clip in batch):
        drawn.setdefault(clip.set_number, []).append(clip)
    sets = open_shard_sets(datamodule.shards, datamodule.reading)
    return Survey(
        sets=tuple(
            _survey_set(one, drawn.get(number, []), datamodule, num_captions, trigger_word if number == 0 else None)
            for number, one in enumerate(sets)
        ),
        steps_per_epoch=max(1, len(batches) // world_size),
        num_steps=num_steps,
        trained_parameters=trained_parameters,
    )


def require_base(manifest: Manifest, config: ModelConfig, provenance: Provenance | None, *, owner: str) -> None:
    """Checks that a base model goes with latents: channels always; codecs and rates where the checkpoint names them.

    Raises ValueError that names every difference.
    """
    takes = {
        "video": config.video_in_channels // config.patch_volume,
        "audio": config.audio_in_channels,
        "text": config.text_in_channels,
    }
    faults = [
        f"{name}: {manifest.channels[name]} channels in the shards, the model takes {channels}"
        for name, channels in takes.items()
        if manifest.channels.get(name) not in (None, channels)
    ]
    if faults:
        raise ValueError(
            f"{owner} takes other latents than these shards hold: {'; '.join(faults)}; tokenize the footage with the "
            "tokenizers that it was trained with"
        )
    if provenance is None:
        return
    manifest.require_compatible(provenance.tokenizers, owner=owner)
    for name in ("frames_per_second", "samples_per_second"):
        trained, here = getattr(provenance, name), getattr(manifest, name)
        if trained is not None and trained != here:
            raise ValueError(
                f"{owner} was trained at {trained:g} {name.replace('_', ' ')}, these shards have {here:g}: tokenize "
                "the footage alike"
            )


def _survey_set(
    one: OpenSet,
    drawn: Sequence[PlannedClip],
    datamodule: LatentDataModule,
    num_captions: int,
    trigger_word: str | None,
) -> SetSurvey:
    samples, channels = one.manifest.samples_of("train"), one.manifest.channels
    sizes = Counter(" x ".join(map(str, sample.video)) if sample.video else "sound alone" for sample in samples)
    values = 0
    for sample in samples:
        frames, rows, columns = sample.video or (0, 0, 0)
        values += channels.get("video", 0) * frames * rows * columns + channels.get("audio", 0) * (sample.audio or 0)
    captions = None
    if one.storage.is_local:
        read = read_latent_clips(one.settings.path, "train", max_clips=num_captions)
        captions = Captions.of([(metadata.key, metadata.prompt.compose()) for _, metadata in read], trigger_word)
    return SetSurvey(
        source=str(one.storage),
        num_clips=len(samples),
        num_silent=sum(sample.audio is None for sample in samples),
        num_pictures=sum(sample.video is not None and sample.video[0] == 1 for sample in samples),
        num_dropped=sum(len(shard.dropped) for shard in one.manifest.shards if shard.split == "train"),
        num_held_out=len(one.manifest.samples_of("validation")),
        num_values=values,
        buckets=tuple(sizes.most_common()),
        clips_per_epoch=len(drawn),
        tokens_per_epoch=sum(datamodule.budget.tokens(clip) for clip in drawn),
        captions=captions,
    )
