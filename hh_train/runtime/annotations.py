"""Whether a value from YAML fits a Python annotation, and the value as that annotation wants it.

YAML knows numbers, strings, lists and mappings only, so what a user may expect is converted: an int where a float is
wanted, a list where a tuple or set is wanted, a string where a path or the name of an enum member is wanted. A mapping
without a `_target_` fits a TypedDict.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import Any

from jaxtyping import AbstractArray

_ABSTRACT_LISTS = ("Sequence", "MutableSequence", "Iterable", "Collection", "Reversible")
_SEQUENCES: tuple[Any, ...] = (list, *(getattr(collections.abc, name) for name in _ABSTRACT_LISTS))
_SETS: tuple[Any, ...] = (set, frozenset, collections.abc.Set, collections.abc.MutableSet)
_MAPPINGS: tuple[Any, ...] = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_CALLABLE: Any = collections.abc.Callable


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a configuration."""

    key: str
    """Where, with dots: `datamodule.batch_tokens`. Empty for the root."""
    message: str

    def __str__(self) -> str:
        return f"{self.key or '(root)'}: {self.message}"


@dataclass(frozen=True)
class Unbuilt:
    """Stands for an object that is not built yet: all that is known is its type, Any when not even that."""

    annotation: Any


def describe(annotation: Any) -> str:
    """The annotation as one would write it in a signature."""
    if annotation is None or annotation is types.NoneType:
        return "None"
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return " | ".join(describe(part) for part in typing.get_args(annotation))
    if typing.is_typeddict(annotation):
        keys = (f"{name}{'' if wanted else '?'}: {describe(of)}" for name, (of, wanted) in _entries(annotation).items())
        return f"{{{', '.join(keys)}}}"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")


def fit(value: Any, annotation: Any, key: str, faults: list[Fault]) -> Any:
    """`value` as `annotation` wants it. What does not fit is added to `faults`, and returned as it is.

    An `Unbuilt` is judged by its type. An annotation that says nothing checkable fits everything.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return fit(value, arguments[0], key, faults)
    if origin in (typing.Union, types.UnionType):
        return _fit_union(value, arguments, key, faults)
    if isinstance(value, Unbuilt):
        if not _produces(value.annotation, annotation):
            faults.append(_misfit(describe(value.annotation), annotation, key))
        return value
    if origin is typing.Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            faults.append(Fault(key, f"got {value!r}, wanted one of {', '.join(map(repr, arguments))}"))
        return value
    if typing.is_typeddict(annotation):
        return _fit_entries(value, annotation, key, faults)
    kind = origin or annotation
    if isinstance(value, list | tuple) and (kind in _SEQUENCES or kind in _SETS or kind is tuple):
        return _fit_elements(value, kind, arguments, key, faults)
    if isinstance(value, Mapping) and kind in _MAPPINGS:
        of_key, of_value = arguments or (Any, Any)
        return {
            fit(name, of_key, _join(key, name), faults): fit(element, of_value, _join(key, name), faults)
            for name, element in value.items()
        }
    return _fit_leaf(value, annotation, key, faults)


def _fit_union(value: Any, members: tuple[Any, ...], key: str, faults: list[Fault]) -> Any:
    """The first member that takes the value unchanged, else the first that converts it."""
    fitting, nearest = [], None
    for member in members:
        inner: list[Fault] = []
        fitted = fit(value, member, key, inner)
        if not inner:
            fitting.append(fitted)
        elif all(fault.key != key for fault in inner):
            nearest = nearest or inner  # the container fits, something inside does not
    unchanged = [fitted for fitted in fitting if type(fitted) is type(value) and fitted == value]
    if unchanged or fitting:
        return (unchanged or fitting)[0]
    got = describe(value.annotation) if isinstance(value, Unbuilt) else _show(value)
    faults.extend(nearest or [_misfit(got, typing.Union[members], key)])  # noqa: UP007 (built at run time)
    return value


def _fit_entries(value: Any, annotation: Any, key: str, faults: list[Fault]) -> Any:
    entries = _entries(annotation)
    if not isinstance(value, Mapping):
        faults.append(_misfit(_show(value), annotation, key))
        return value
    missing = [name for name, (_, is_required) in entries.items() if is_required and name not in value]
    faults.extend(Fault(_join(key, name), f"is missing, in {describe(annotation)}") for name in missing)
    unknown = [name for name in value if name not in entries]
    faults.extend(Fault(_join(key, name), f"is unknown, wanted {describe(annotation)}") for name in unknown)
    return {
        name: fit(element, entries.get(name, (Any, False))[0], _join(key, name), faults)
        for name, element in value.items()
    }


def _entries(annotation: Any) -> dict[str, tuple[Any, bool]]:
    """Of a TypedDict: each key's annotation, and whether it must be there."""
    hints = typing.get_type_hints(annotation, include_extras=True)
    optional = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.NotRequired}
    return {
        name: (typing.get_args(hint)[0] if name in optional else hint, name not in optional)
        for name, hint in hints.items()
    }


def _fit_elements(value: list[Any] | tuple[Any, ...], kind: Any, arguments: Any, key: str, faults: list[Fault]) -> Any:
    of_each: tuple[Any, ...]
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        of_each = arguments
        if len(value) != len(of_each):
            faults.append(Fault(key, f"got {len(value)} values {_show(value)}, wanted {len(of_each)}"))
            return value
    else:
        of_each = (arguments[0] if arguments else Any,) * len(value)
    fitted = [fit(element, of_each[i], _join(key, i), faults) for i, element in enumerate(value)]
    if kind is tuple:
        return tuple(fitted)
    if kind in _SETS:
        hashable = all(isinstance(element, collections.abc.Hashable) for element in fitted)
        return (frozenset if kind is frozenset else set)(fitted) if hashable else fitted
    return fitted


def _fit_leaf(value: Any, annotation: Any, key: str, faults: list[Fault]) -> Any:
    kind = typing.get_origin(annotation) or annotation
    if kind is None or kind is types.NoneType:
        if value is not None:
            faults.append(_misfit(_show(value), None, key))
        return value
    if not isinstance(kind, type) or kind in (Any, object):
        return value  # or a type variable: nothing to check
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is complex and isinstance(value, int | float) and not isinstance(value, bool):
        return complex(value)
    if kind in (Path, PathLike) and isinstance(value, str | Path) and str(value):
        return Path(value).expanduser()
    if issubclass(kind, Enum) and isinstance(value, str):
        names = {name.lower(): member for name, member in kind.__members__.items()}
        if value.lower() not in names:
            faults.append(Fault(key, f"got {value!r}, wanted one of {', '.join(names)}"))
        return names.get(value.lower(), value)
    if isinstance(value, Mapping):
        got = f"a mapping without `_target_` (keys: {', '.join(map(str, value))})"
        faults.append(_misfit(got, annotation, key))
        return value
    if not _is_instance(value, kind) or (isinstance(value, str) and kind in _SEQUENCES):  # no list of its letters
        faults.append(_misfit(_show(value), annotation, key))
    return value


def _is_instance(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind in (bool, collections.abc.Hashable)
    try:
        return isinstance(value, kind)
    except TypeError:  # a Protocol that cannot be asked: methods are compared
        return _has_methods_of(type(value), kind)


def _produces(produced: Any, wanted: Any) -> bool:
    """Whether an object annotated as `produced` may stand where `wanted` is asked for. Doubt counts as yes."""
    if typing.get_origin(produced) is typing.Annotated:
        produced = typing.get_args(produced)[0]
    produced, wanted = _without_shape(produced), _without_shape(wanted)
    if isinstance(produced, types.UnionType) or typing.get_origin(produced) is typing.Union:
        return any(_produces(part, wanted) for part in typing.get_args(produced))
    if typing.get_origin(wanted) is typing.Literal:
        return produced in (Any, *(type(choice) for choice in typing.get_args(wanted)))
    made = typing.get_origin(produced) or produced
    kind = typing.get_origin(wanted) or wanted
    if kind is None:
        kind = types.NoneType
    if Any in (made, kind) or not isinstance(made, type) or not isinstance(kind, type):
        return True
    if kind is _CALLABLE:
        return made is kind or any("__call__" in vars(base) for base in made.__mro__)
    if made is _CALLABLE:
        return kind is object or "__call__" in vars(kind)
    if getattr(kind, "_is_protocol", False):
        return _has_methods_of(made, kind)
    try:
        return issubclass(made, kind) or (kind is float and made is int)
    except TypeError:
        return True


def _without_shape(annotation: Any) -> Any:
    """`Tensor` for `Float[Tensor, "L C"]`: shapes and dtypes are known only when the tensor is there."""
    is_array = isinstance(annotation, type) and issubclass(annotation, AbstractArray)
    return annotation.array_type if is_array else annotation


def _has_methods_of(made: type, protocol: type) -> bool:
    wanted = {
        name
        for base in protocol.__mro__
        if getattr(base, "_is_protocol", False) and base is not typing.Protocol
        for name, member in vars(base).items()
        if inspect.isfunction(member) and (not name.startswith("_") or name == "__call__")
    }
    return all(callable(getattr(made, name, None)) for name in wanted)


def _misfit(got: str, wanted: Any, key: str) -> Fault:
    return Fault(key, f"got {got}, wanted {describe(wanted)}")


def _show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value)
    return f"{text[:60]}{'...' if len(text) > 60 else ''} ({type(value).__name__})"


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def annotations_of(function: Callable[..., Any]) -> tuple[dict[str, Any], Any]:
    """Annotations of the parameters, and of the result (the class itself for a class). What cannot be told is Any."""
    constructor: Any = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(constructor, include_extras=True)
    except (NameError, TypeError, AttributeError):
        hints = {}
    result = hints.pop("return", Any)
    if isinstance(function, type):
        result = function
    elif result is typing.Self:
        owner = getattr(function, "__self__", Any)
        result = owner if isinstance(owner, type) else Any
    return hints, result
