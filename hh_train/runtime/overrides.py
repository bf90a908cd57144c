"""Command-line overrides: values that Hydra's grammar refuses are quoted, and its errors become one plain sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from hh_train.runtime.composition import compose_config, config_folder
from hh_train.runtime.config import did_you_mean

_OF_EXTRA = [("hydra/launcher", "submitit_slurm"), ("hydra/launcher", "submitit_local")]


def quote_odd_values(overrides: Sequence[str]) -> list[str]:
    """Quotes the value of every override that Hydra cannot read as it stands, as `footage=clips (2024)/`.

    Lists, mappings and values that are quoted already are left alone, so that a slip in them is reported.
    """
    return [_quoted(override) if _is_unreadable(override) else override for override in overrides]


def leave_null_groups_out(overrides: Sequence[str]) -> list[str]:
    """`GROUP=null` in Hydra's own words, `~GROUP`: null for a group stands in files alone, and fails elsewhere."""
    groups = set(_groups())
    return [
        f"~{key}" if value == "null" and key.partition("@")[0] in groups else override
        for override, (key, _, value) in ((override, override.partition("=")) for override in overrides)
    ]


def _is_unreadable(override: str) -> bool:
    if override.startswith("-") or "=" not in override:
        return False
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return True
    return False


def _quoted(override: str) -> str:
    key, _, value = override.partition("=")
    if not value or value[0] in "'\"[{":
        return override
    escaped = value.replace("\\'", "\\\\'").replace("'", "\\'")
    return f"{key}='{escaped}'"


def swept(job: Sequence[str], given: Sequence[str]) -> list[str]:
    """Those overrides of one job of a multirun that set it apart from the others; `given` is its command line."""
    parser = OverridesParser.create()
    shared = {each.get_key_element() for each in parser.parse_overrides(list(given)) if not each.is_sweep_override()}
    parsed = parser.parse_overrides(list(job))
    return [text for text, each in zip(job, parsed, strict=True) if each.get_key_element() not in shared]


def explain_composition_error(error: Exception, stage: str, overrides: Sequence[str]) -> str:
    """What is wrong with the command line, in one sentence, with the nearest key or option that exists."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _explain_missing_option(error.missing_cfg_file, error.options or (), stage)
    if isinstance(error, OverrideParseException):
        reason = str(error.message).splitlines()[0]
        return f"cannot read the override {error.override!r}, wanted KEY=VALUE ({reason})"
    several = re.search(r"Ambiguous value for argument '([^=']+)=(.*)'", str(error))
    if several:
        key, values = several.groups()
        return f"got several values for {key}: for a list write {key}=[{values}], for a run with each of them add -m"
    twice = re.match(r"Multiple values for (\S+)\. To override", str(error))
    if twice:
        return f"the group {twice.group(1)!r} has an option already: write {twice.group(1)}=OPTION, without a plus"
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    if unknown:
        key = unknown.group(1)
        known = [*known_keys(stage, overrides), *_groups()]
        if key in known:
            return f"{key} holds other names: add one with +{key}.NAME=VALUE, leave one out with ~{key}.NAME"
        hint = _nearest(key, known)
        return f"`hh-train {stage}` has no key {key!r}{hint} (all keys: hh-train {stage} --help)"
    causes = (str(part).strip() for part in (error, error.__cause__) if part)
    return "\n".join(dict.fromkeys(causes))


def known_keys(stage: str, overrides: Sequence[str] = ()) -> list[str]:
    """Every key of the stage's configuration, with dots, under the groups that the overrides choose."""
    groups = set(_groups())
    choices = [override for override in overrides if override.lstrip("+").partition("=")[0].partition("@")[0] in groups]
    for chosen in (choices, []):
        try:
            config = compose_config(stage, chosen)
        except (HydraException, OmegaConfBaseException):
            continue
        return list(_keys_below(config, ""))
    return []


def _keys_below(node: object, prefix: str) -> list[str]:
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
        return []
    keys = []
    for name in node:
        key = f"{prefix}{name!s}"
        keys += [key, *_keys_below(node._get_node(name), f"{key}.")]
    return keys


def _groups() -> list[str]:
    """Groups of the tree: every folder below `configs/`, written with slashes."""
    root = config_folder()
    folders = (path for path in root.rglob("*") if path.is_dir() and any(path.glob("*.yaml")))
    return sorted(str(path.relative_to(root)) for path in folders if not path.is_relative_to(root / "hydra"))


def _nearest(key: str, known: Sequence[str]) -> str:
    """A near key, or the key elsewhere whose last part is the one that was meant."""
    hint = did_you_mean(key, known)
    if hint:
        return hint
    last = key.rpartition(".")[2]
    by_last = {name.rpartition(".")[2]: name for name in reversed(known)}
    near = re.search(r"'(.+)'", did_you_mean(last, list(by_last)))
    return f"; did you mean {by_last[near.group(1)]!r}?" if near else ""


def _explain_missing_option(missing: str, options: Sequence[str], stage: str) -> str:
    group, _, option = missing.removesuffix(".yaml").rpartition("/")
    if not group:
        return f"there is no configuration {option!r} in {config_folder()}" + did_you_mean(option, options)
    names = ", ".join(sorted(options)) or "none"
    hint = did_you_mean(option, options)
    if (group, option) in _OF_EXTRA:
        hint = "; it comes with `pip install hh-train[slurm]`"
    return f"the group {group!r} has no option {option!r}{hint} (options: {names}; all groups: hh-train {stage} --help)"
