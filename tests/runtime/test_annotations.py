"""Values from YAML against annotations: what fits, what is converted, what is refused."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, Optional, Protocol, Self, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from hh_train.runtime.annotations import Fault, Unbuilt, annotations_of, describe, fit


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Speaks(Protocol):
    def speak(self, word: str) -> str: ...


class Dog:
    def speak(self, word: str) -> str:
        return word

    @classmethod
    def born(cls, *, age: int) -> Self:
        return cls()


class Row(TypedDict):
    path: Path
    weight: NotRequired[float]


@dataclass(frozen=True)
class Size:
    width: int


def fitted(value: Any, annotation: Any) -> Any:
    faults: list[Fault] = []
    result = fit(value, annotation, "key", faults)
    assert not faults
    return result


def refused(value: Any, annotation: Any) -> list[Fault]:
    faults: list[Fault] = []
    fit(value, annotation, "key", faults)
    return faults


@pytest.mark.parametrize(
    ("value", "annotation", "wanted"),
    [
        (3, float, 3.0),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([1, 2], tuple[float, int], (1.0, 2)),
        ([[1, 2], [3, 4]], list[tuple[int, int]], [(1, 2), (3, 4)]),
        ([1, 2, 2], frozenset[int], frozenset({1, 2})),
        ("clips/", Path, Path("clips")),
        ("~/clips", Path, Path.home() / "clips"),
        (["a", "b"], Sequence[Path], [Path("a"), Path("b")]),
        ({"video": 1}, dict[str, float], {"video": 1.0}),
        ({"a": {"b": [1]}}, Mapping[str, dict[str, tuple[float, ...]]], {"a": {"b": (1.0,)}}),
        ("red", Color, Color.RED),
        (None, Path | None, None),
        ("x", Path | None, Path("x")),
        (3, float | None, 3.0),
        (3, int | float, 3),
        (3, float | int, 3),
        ("x", Path | str, "x"),
        ("fp32", Literal["bf16", "fp32"], "fp32"),
        ("auto", int | Literal["auto"], "auto"),
        ({"anything": [1]}, Any, {"anything": [1]}),
    ],
)
def test_converts_what_yaml_cannot_say(value: Any, annotation: Any, wanted: Any) -> None:
    result = fitted(value, annotation)
    assert result == wanted
    assert type(result) is type(wanted)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ("3", int),
        (3.5, int),
        (True, int),
        (True, float),
        (1, bool),
        ("yes", bool),
        (3, str),
        (None, int),
        (3, None),
        ("", Path),
        (3, Path),
        ("fp16", Literal["bf16", "fp32"]),
        (1, Literal[True]),
        ("green", Color),
        ("abc", list[str]),
        ([1, 2, 3], tuple[int, int]),
        ({"width": 3}, Size),
        ({"width": 3}, Size | None),
        ({"a": 1}, list[int]),
        ([1], dict[str, int]),
        ("x", int | float | None),
        (3, Callable[[int], int]),
        (3, Size),
    ],
)
def test_refuses_what_does_not_fit(value: Any, annotation: Any) -> None:
    (fault,) = refused(value, annotation)
    assert fault.key == "key"
    assert fault.message.startswith("got ")
    assert "wanted" in fault.message


def test_reports_every_element_where_it_stands() -> None:
    faults = refused({"a": ["x", 1, None], "b": [2, "y"]}, dict[str, list[int]] | None)
    assert [fault.key for fault in faults] == ["key.a.0", "key.a.2", "key.b.1"]


def test_mappings_of_known_keys() -> None:
    faults: list[Fault] = []
    rows = fit([{"path": "a", "weight": 1}, {"path": "b"}], Sequence[Row], "rows", faults)
    assert not faults and rows == [{"path": Path("a"), "weight": 1.0}, {"path": Path("b")}]
    assert type(rows[0]["weight"]) is float
    fit([{"wieght": 1.0}, {"path": 3}, "c"], Sequence[Row], "rows", faults)
    shown = "{path: Path, weight?: float}"
    fit("a.b", Sequence[Row], "rows", faults)
    assert str(faults.pop()).startswith("rows: got 'a.b' (str), wanted Sequence[")
    assert list(map(str, faults)) == [
        f"rows.0.path: is missing, in {shown}",
        f"rows.0.wieght: is unknown, wanted {shown}",
        "rows.1.path: got 3 (int), wanted Path",
        f"rows.2: got 'c' (str), wanted {shown}",
    ]


def test_a_mapping_for_an_object_is_told_about_targets() -> None:
    assert "_target_" in refused({"width": 3}, Size)[0].message


@pytest.mark.parametrize(
    ("made", "annotation", "fits"),
    [
        (Size, Size, True),
        (Size, Dog, False),
        (bool, int, True),
        (Size, Size | None, True),
        (Size | None, Size, True),
        (Size, Any, True),
        (Any, Size, True),
        (Size, list[Size], False),
        (list[Size], list[Size], True),
        (Dog, Speaks, True),
        (Size, Speaks, False),
        (Callable, Callable[[int], int], True),
        (Callable, Size, False),
        (Size, Callable[[int], int], False),
        (int, float, True),
        (Size, Literal["auto"], False),
        (Size, str, False),
        (Float[Tensor, "L C"], Float[Tensor, "L C"], True),
        (Float[Tensor, "L C"], Tensor, True),
        (Tensor, Float[Tensor, "L C"] | None, True),
        (Size, Float[Tensor, "L C"], False),
        (Float[Tensor, "L C"], Size, False),
    ],
)
def test_objects_are_judged_by_type_before_they_are_built(made: Any, annotation: Any, fits: bool) -> None:
    assert (not refused(Unbuilt(made), annotation)) is fits


def test_objects_inside_containers_are_judged_too() -> None:
    assert not refused({"ema": Unbuilt(Dog)}, dict[str, Dog])
    assert [fault.key for fault in refused([Unbuilt(Dog), Unbuilt(Size)], list[Dog])] == ["key.1"]


def test_built_objects_are_compared_with_protocols_by_method() -> None:
    assert fitted(Dog(), Speaks) is not None
    assert refused(Size(3), Speaks)


def test_annotations_of_a_class_a_function_and_a_named_constructor() -> None:
    def stage(*, size: Size, note: str | None = None) -> None: ...

    assert annotations_of(Size) == ({"width": int}, Size)
    assert annotations_of(stage) == ({"size": Size, "note": str | None}, type(None))
    assert annotations_of(Dog.born) == ({"age": int}, Dog)


def test_describes_annotations_as_one_writes_them() -> None:
    assert describe(Optional[int]) == "int | None"  # noqa: UP045 (the old spelling is what is tested)
    assert describe(dict[str, Path]) == "dict[str, pathlib.Path]"
    assert describe(None) == "None"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(value=plain)
def test_what_says_nothing_takes_everything_unchanged(value: Any) -> None:
    assert fitted(value, Any) is value


@given(value=plain)
def test_fitting_twice_changes_nothing_more(value: Any) -> None:
    annotation = dict[str, float | list[float] | None] | list[float] | float | str | None
    faults: list[Fault] = []
    once = fit(value, annotation, "key", faults)
    if not faults:
        assert fitted(once, annotation) == once
