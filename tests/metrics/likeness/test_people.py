"""Likeness in a space of known people: closed forms, invariances, and what carries no person taken out."""

from __future__ import annotations

import pytest
import torch

from hh_train.metrics.likeness.people import enrol


def test_people_of_one_clip_each_are_compared_by_their_angle() -> None:
    corners = {"a": [[2.0, 0.0]], "b": [[-2.0, 0.0]], "c": [[0.0, 2.0]], "d": [[0.0, -2.0]]}
    people = enrol({name: torch.tensor(rows) for name, rows in corners.items()})
    halfway = torch.tensor([1.0, 1.0])
    found = {name: float(people.likeness(halfway, name)) for name in corners}
    assert found == pytest.approx({"a": 0.5**0.5, "b": -(0.5**0.5), "c": 0.5**0.5, "d": -(0.5**0.5)})
    assert float(people.likeness(torch.tensor([7.0, 0.0]), "a")) == pytest.approx(1.0)


def noisy_people(num_clips: int = 12) -> dict[str, torch.Tensor]:
    """Four people that differ in two directions, among eight in which clips vary far more."""
    generator = torch.Generator().manual_seed(0)
    rows = {}
    for number, name in enumerate("abcd"):
        clips = torch.randn(num_clips, 10, generator=generator)
        clips[:, :8] *= 30
        clips[:, 8:] = 0.2 * clips[:, 8:] + torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])[number]
        rows[name] = clips
    return rows


def test_what_changes_within_a_person_hardly_counts() -> None:
    rows = noisy_people(24)
    people = enrol({name: clips[:12] for name, clips in rows.items()})
    hits = [
        max(rows, key=lambda other: float(people.likeness(clip, other))) == name
        for name, clips in rows.items()
        for clip in clips[12:]
    ]
    assert sum(hits) / len(hits) > 0.9  # one in four by chance
    plain = torch.stack([clips[:12].mean(0) for clips in rows.values()])
    near = [int((plain - clip).norm(dim=1).argmin()) for clips in rows.values() for clip in clips[12:]]
    assert sum(found == i // 12 for i, found in enumerate(near)) / len(near) < 0.5


def test_units_of_the_features_do_not_matter() -> None:
    rows = noisy_people()
    factors = torch.logspace(-1, 1, 10)
    plain, scaled = enrol(rows), enrol({name: clips * factors + 3 for name, clips in rows.items()})
    probe = rows["b"][0] + 0.1
    for name in rows:
        want = float(plain.likeness(probe, name))
        assert float(scaled.likeness(probe * factors + 3, name)) == pytest.approx(want, abs=1e-6)


def test_a_mixture_is_less_like_the_first_the_more_it_has_of_the_second() -> None:
    rows = noisy_people()
    people = enrol(rows)
    first, second = rows["a"].mean(0), rows["d"].mean(0)
    mixed = [first + share * (second - first) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    to_first, to_second = ([float(people.likeness(clip, name)) for clip in mixed] for name in "ad")
    assert to_first == sorted(to_first, reverse=True) and to_second == sorted(to_second)
    assert to_first[0] > 0.8 > -0.2 > to_first[-1]


def test_a_clip_of_the_person_is_compared_with_the_others_of_theirs() -> None:
    rows = noisy_people()
    people = enrol(rows)
    with_itself = float(people.likeness(rows["a"][3], "a"))
    without = float(people.likeness(rows["a"][3], "a", without=3))
    units = people.clips["a"]
    rest = torch.cat((units[:3], units[4:])).mean(0)
    assert without == pytest.approx(float(units[3] @ rest / rest.norm()))
    assert without < with_itself < 1


def test_embeddings_that_say_nothing_and_too_few_people_are_refused() -> None:
    with pytest.raises(ValueError, match="are alike"):
        enrol({name: torch.ones(3, 4) for name in "abc"})
    with pytest.raises(ValueError, match="clips of 1 people"):
        enrol({"a": torch.randn(3, 4)})
