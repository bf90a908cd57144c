"""A composed configuration: its faults, all at once and before anything is built, and the objects it stands for.

A mapping with a `_target_` stands for a call: the signature of the target is the schema of the mapping, at the root as
everywhere below. `_partial_: true` stands for the function with these arguments bound. There is nothing else to know.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hh_train.runtime.annotations import Fault, Unbuilt, annotations_of, fit

TARGET, PARTIAL = "_target_", "_partial_"
SHARED_GROUPS = ("paths", "hydra")
"""Root keys that other keys refer to and that are no arguments of the stage."""

_UNKNOWN = Unbuilt(Any)


class ConfigError(ValueError):
    """A configuration with faults: the message lists every one."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        noun = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"The configuration has {noun}:", *(f"  {fault}" for fault in faults)]))


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?`, or nothing when no known word is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def config_faults(config: DictConfig) -> list[Fault]:
    """Everything that is wrong; empty when the configuration can be built.

    Reported: a key that its target does not take, an argument that is missing, a value that does not fit its
    annotation, a target that cannot be imported, a mapping without a target where an object is wanted, a value that is
    still `???`, an interpolation that leads nowhere, and one that leads to an object (it would be built twice).
    """
    faults: list[Fault] = []
    for group in SHARED_GROUPS:
        if group in config and not OmegaConf.is_missing(config, group):
            _inspect(config[group], group, faults)
    root = {name: value for name, value in _children(config, "", faults) if name not in SHARED_GROUPS}
    if TARGET in root:
        _judge_call(root, "", faults)
    else:
        faults.append(Fault("", f"the root needs a `{TARGET}`: the function that this configuration calls"))
    return list(dict.fromkeys(faults))


def instantiate(config: DictConfig) -> Any:
    """Builds what the configuration stands for, every argument as its annotation wants it, without the shared groups.

    Hydra's own `instantiate` would hand on strings for paths and lists for tuples. Raises ConfigError for a value that
    does not fit; an error raised by a target carries a note that says where it was built.
    """
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if not isinstance(resolved, dict):
        raise TypeError(f"got a {type(resolved).__name__}, wanted a mapping")
    return _build({str(name): value for name, value in resolved.items() if name not in SHARED_GROUPS}, "")


# --------------------------------------------------------------------------------------------------------------- check


def _children(node: DictConfig | ListConfig, key: str, faults: list[Fault]) -> Iterator[tuple[Any, Any]]:
    """The elements of a container in plain form, an `Unbuilt` for every object; one without a value is reported."""
    names: list[Any] = list(range(len(node))) if isinstance(node, ListConfig) else list(node.keys())
    for name in names:
        where = f"{key}.{name}" if key else str(name)
        if OmegaConf.is_missing(node, name):
            faults.append(Fault(where, f"has no value yet (???): set it with `{where}=VALUE`"))
            yield name, _UNKNOWN
            continue
        try:
            value = node[name]
        except OmegaConfBaseException as error:
            reason = str(error.msg if hasattr(error, "msg") else error).splitlines()[0]
            faults.append(Fault(where, f"this interpolation leads nowhere: {reason}"))
            yield name, _UNKNOWN
            continue
        if OmegaConf.is_interpolation(node, name) and isinstance(value, Container):
            yield name, _inspect_reference(value, where, faults)
        else:
            yield name, _inspect(value, where, faults)


def _inspect(node: Any, key: str, faults: list[Fault]) -> Any:
    if isinstance(node, ListConfig):
        return [value for _, value in _children(node, key, faults)]
    if isinstance(node, DictConfig):
        children = dict(_children(node, key, faults))
        return _judge_call(children, key, faults) if TARGET in children else children
    return node


def _inspect_reference(node: Any, key: str, faults: list[Fault]) -> Any:
    """What an interpolation leads to. Its own faults are told where it stands, so only its kind is judged here."""
    value = _inspect(node, key, [])
    if any(isinstance(part, Unbuilt) and not _may_be_built_twice(part.annotation) for part in _walk(value)):
        faults.append(
            Fault(key, "this interpolation leads to an object, which it would build twice: refer to its values")
        )
        return _UNKNOWN
    return value


def _may_be_built_twice(annotation: Any) -> bool:
    return annotation is Any or is_dataclass(annotation)


def _walk(value: Any) -> Iterator[Any]:
    yield value
    for element in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _walk(element)


def _judge_call(children: dict[str, Any], key: str, faults: list[Fault]) -> Unbuilt:
    """Compares a mapping with the signature of its target; the result stands for the object."""
    arguments = {name: value for name, value in children.items() if name not in (TARGET, PARTIAL)}
    is_partial = children.get(PARTIAL, False)
    if not isinstance(is_partial, bool):
        faults.append(Fault(_sub(key, PARTIAL), f"got {is_partial!r}, wanted true or false"))
    try:
        function = _locate(children[TARGET])
    except ConfigError as error:
        faults.extend(Fault(_sub(key, TARGET), fault.message) for fault in error.faults)
        return _UNKNOWN
    hints, result = annotations_of(function)
    parameters, takes_any = _parameters(function)
    for name, value in arguments.items():
        if name in parameters:
            fit(value, hints.get(name, Any), _sub(key, name), faults)
        elif not takes_any:
            faults.append(Fault(_sub(key, name), _unknown(name, children[TARGET], parameters, arguments)))
    required = (name for name, parameter in parameters.items() if parameter.default is parameter.empty)
    for name in () if is_partial is True else required:
        if name not in arguments:
            faults.append(Fault(_sub(key, name), f"is missing: `{children[TARGET]}` needs it"))
    return Unbuilt(Callable if is_partial is True else result)


def _unknown(name: str, target: str, parameters: Collection[str], given: Collection[str]) -> str:
    if name in ("_args_", "_convert_", "_recursive_"):
        return f"`{name}` is not used here: arguments are named, and converted by their annotations"
    free = [parameter for parameter in parameters if parameter not in given]
    return f"`{target}` takes no such argument{did_you_mean(name, free)}"


def _parameters(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters that can be given by name, and whether any other name is taken too."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions written in C tell nothing
        return {}, True
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    return {parameter.name: parameter for parameter in parameters if parameter.kind in named}, takes_any


def _locate(target: Any) -> Callable[..., Any]:
    """Raises ConfigError when the target cannot be imported or called."""
    if not isinstance(target, str):
        raise ConfigError([Fault("", f"got {target!r}, wanted the dotted name of a class or function")])
    try:
        found = _import(target)
    except Exception as error:  # the module is foreign code: importing it may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError([Fault("", f"cannot import `{target}`: {reason}")]) from error
    if not callable(found):
        raise ConfigError([Fault("", f"`{target}` is a {type(found).__name__}, wanted a class or function")])
    function: Callable[..., Any] = found
    return function


def _import(dotted: str) -> Any:
    """The object of that name, in the longest part of it that is a module. Raises what importing raises."""
    first, *rest = dotted.split(".")
    found: Any = importlib.import_module(first)
    for i, name in enumerate(rest):
        if not hasattr(found, name) and isinstance(found, ModuleType):
            path = ".".join([first, *rest[: i + 1]])
            try:
                importlib.import_module(path)
            except ModuleNotFoundError as error:
                if error.name != path:  # a module that the wanted one needs
                    raise
        if not hasattr(found, name):
            owner = ".".join([first, *rest[:i]])
            raise AttributeError(f"there is no {name!r} in {owner}{did_you_mean(name, dir(found))}")
        found = getattr(found, name)
    return found


def _sub(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


# --------------------------------------------------------------------------------------------------------------- build


def _build(node: Any, key: str) -> Any:
    if isinstance(node, list):
        return [_build(element, _sub(key, str(i))) for i, element in enumerate(node)]
    if not isinstance(node, dict):
        return node
    children = {str(name): _build(value, _sub(key, str(name))) for name, value in node.items()}
    return _call(children, key) if TARGET in children else children


def _call(children: dict[str, Any], key: str) -> Any:
    function = _locate(children.pop(TARGET))
    is_partial = children.pop(PARTIAL, False)
    hints, _ = annotations_of(function)
    faults: list[Fault] = []
    arguments = {name: fit(value, hints.get(name, Any), _sub(key, name), faults) for name, value in children.items()}
    if faults:
        raise ConfigError(faults)
    if is_partial:
        return functools.partial(function, **arguments)
    if not key:
        return function(**arguments)
    try:
        return function(**arguments)
    except Exception as error:
        error.add_note(f"while building `{key}`")
        raise
