"""`hh-train STAGE [KEY=VALUE ...]`: the one table of stages, and what happens around each of them.

A job is: check the configuration (every fault at once), save it beside what it makes, seed, build, run. Hydra composes
the configuration and brings multirun, launchers and `--cfg job`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from omegaconf import DictConfig

STAGES = {
    "tokenize": "turn a folder of clips into latent shards",
    "inspect": "decode random clips of latent shards, to look at (also: tokenize inspect)",
    "train_recognizer": "train the speech recognizer that scores word errors",
    "train_lip_reader": "train the lip reader that scores words by the mouth alone",
    "train_sync_expert": "train the network that scores lips against sound",
    "pretrain": "train the teacher on latent shards by flow matching",
    "finetune": "fine-tune a checkpoint on one's own clips, by adapters (LoRA) or as a whole",
    "distill": "distill the teacher into a student of few steps",
    "generate": "generate clips with sound from prompts",
    "evaluate": "score generated and real clips, and write the report",
    "compare": "compare finished evaluations, prompt by prompt (also: evaluate compare A B C)",
    "ablation": "put distillation runs into one table beside a base (also: evaluate ablation RUNS...)",
    "arena": "vote blind between checkpoints on a local web page",
    "export": "write an inference bundle, and verify it",
    "plan": "say what a model needs on given GPUs, and whether it fits",
}

_SECOND_WORDS: dict[tuple[str, ...], str | None] = {
    ("tokenize", "inspect"): None,
    ("evaluate", "compare"): "evaluations",
    ("evaluate", "ablation"): "runs",
}
"""Stages that are written as two words, with the key of what stands bare behind them."""
_FLAGS_WITH_VALUE: tuple[str, ...] = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--experimental-rerun")
_FLAGS_WITH_VALUE += ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
_MAX_NAME = 120
_ERROR, _CONFIG_ERROR, _INTERRUPTED = 1, 2, 130
_PACKAGE = Path(__file__).resolve().parent
_PATH_ERRORS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


class JobError(Exception):
    """A job of a multirun has failed, and has said why."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(exit_code)


def main() -> None:
    """The console command. Exit codes: 0 done, 1 failed, 2 wrong command or configuration, 130 interrupted."""
    arguments = sys.argv[1:] = in_one_form(sys.argv[1:])
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] == "--version":
        from hh_train.runtime.version import code_version

        print(f"hh-train {code_version()}")
        return
    if arguments[0] not in STAGES:
        print(_unknown_stage(arguments[0]), file=sys.stderr)
        sys.exit(_CONFIG_ERROR)
    try:
        sys.exit(_run_hydra(arguments[0], arguments[1:]))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)


def run_stage(*arguments: str) -> Any:
    """What `hh-train ARGUMENTS` does, in this process, for notebooks. Returns what the stage returns.

    Raises ValueError for an unknown stage and with every fault of the configuration at once, Hydra's errors for an
    override that names no key of the tree, and whatever the stage raises.
    """
    from hh_train.runtime.composition import compose_config
    from hh_train.runtime.overrides import leave_null_groups_out, quote_odd_values

    stage, *overrides = in_one_form(list(arguments))
    if stage not in STAGES:
        raise ValueError(_unknown_stage(stage))
    return _check_and_run(compose_config(stage, leave_null_groups_out(quote_odd_values(overrides))))


def in_one_form(arguments: list[str]) -> list[str]:
    """`tokenize inspect` and `evaluate compare A B` are stages of their own, and `--dry-run` is a key."""
    if tuple(arguments[:2]) in _SECOND_WORDS:
        listed, arguments = _SECOND_WORDS[arguments[0], arguments[1]], arguments[1:]
        before = dict(enumerate(arguments, start=1))
        bare = [
            argument
            for number, argument in enumerate(arguments)
            if number and before[number] not in _FLAGS_WITH_VALUE and _stands_bare(argument)
        ]
        if listed and bare:
            arguments = [argument for argument in arguments if argument not in bare]
            arguments.append(f"{listed}={json.dumps(bare, ensure_ascii=False)}")
    return ["dry_run=true" if argument == "--dry-run" else argument for argument in arguments]


def _stands_bare(argument: str) -> bool:
    """Whether it is no override and no flag. A folder of a multirun may be called `+key=value`."""
    return ("=" not in argument and argument[:1] not in "-~+") or Path(argument).is_dir()


def usage() -> str:
    """The table of stages."""
    width = max(map(len, STAGES))
    rows = [f"  {stage:<{width}}  {purpose}" for stage, purpose in STAGES.items()]
    head = ["usage: hh-train STAGE [KEY=VALUE ...] [GROUP=OPTION ...]", "", "Stages, in the order of the road:"]
    return "\n".join([*head, *rows, "", "Keys and groups of a stage: hh-train STAGE --help"])


def _unknown_stage(word: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, STAGES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"error: there is no stage {word!r}{hint}\n\n{usage()}"


def _run_hydra(stage: str, arguments: list[str]) -> int:
    """Lets Hydra parse the flags, compose and launch; the exit code."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from hh_train.runtime.composition import VERSION_BASE, config_folder
    from hh_train.runtime.overrides import explain_composition_error, leave_null_groups_out, quote_odd_values

    command_line = sys.argv

    own = [f"hydra.job.name={stage}", "hydra.output_subdir=null", "hydra/output=hh_train", "hydra/help=hh_train"]
    own += ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    flags, given = _split(arguments)
    overrides = leave_null_groups_out(quote_odd_values(given))

    def task(config: DictConfig) -> None:
        sys.argv = command_line  # processes of a distributed run are started by the same command
        run_job(config, overrides)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    sys.argv = [command_line[0], *overrides, *own, *flags]
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(config_folder()), config_name=stage)(task)()
    except JobError as error:
        return error.exit_code
    except (HydraException, OmegaConfBaseException) as error:
        if _wants_traceback():
            traceback.print_exception(error)
        print(f"error: {explain_composition_error(error, stage, overrides)}", file=sys.stderr)
        return _CONFIG_ERROR
    except Exception as error:
        return report(error)
    finally:
        sys.argv = command_line
    return 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and overrides, which may stand in any order."""
    flags: list[str] = []
    overrides: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_flag = argument.startswith("-") or before in _FLAGS_WITH_VALUE
        (flags if is_flag else overrides).append(argument)
    return flags, overrides


def run_job(config: DictConfig, overrides: Sequence[str]) -> None:
    """One job: a single run, or one of a multirun of these overrides, where a failed job leaves the others running."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    is_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if is_multirun:
            _stand_alone(config, list(HydraConfig.get().overrides.task), overrides)
        _check_and_run(config)
    except Exception as error:
        exit_code = report(error)
        if is_multirun:
            raise JobError(exit_code) from None
        sys.exit(exit_code)


def _check_and_run(config: DictConfig) -> Any:
    from hh_train.runtime.config import ConfigError, config_faults, instantiate
    from hh_train.runtime.logging import configure_logging

    configure_logging()
    faults = config_faults(config)
    if faults:
        raise ConfigError(faults)
    if config.get("seed") is not None:
        from hh_train.runtime.distributed import use_own_device
        from hh_train.runtime.seeds import seed_everything

        use_own_device()
        seed_everything(config.seed)
    if config.get("output") is None:
        return instantiate(config)
    from hh_train.runtime.records import save_config

    output = Path(config.output).expanduser()
    save_config(config, output)
    result = instantiate(config)
    save_config(config, output)  # again: a stage may have made the folder anew
    return result


def _stand_alone(config: DictConfig, own: list[str], given: Sequence[str]) -> None:
    """Gives the job of a multirun the output folder and the command line of a single run.

    The folder is named by the overrides that are swept, unless they say themselves where the output goes.
    """
    from hh_train.runtime.overrides import swept
    from hh_train.runtime.seeds import derived_seed

    apart = swept(own, given)
    arguments = own
    if apart and config.get("output") is not None and not any(override.startswith("output=") for override in apart):
        name = re.sub(r"[^\w.,=+-]+", "_", ",".join(apart))
        if len(name) > _MAX_NAME:
            name = f"{name[: _MAX_NAME - 20]}-{derived_seed(name):x}"
        config.output = f"{config.output}/{name}"
        arguments = [*(override for override in own if not override.startswith("output=")), f"output={config.output}"]
    flags = [flag for flag in _split(sys.argv[2:])[0] if flag not in ("-m", "--multirun")]
    sys.argv = [*sys.argv[:2], *arguments, *flags]


def report(error: Exception) -> int:
    """Prints an error, with the traceback when it is no user's; the exit code."""
    from hh_train.runtime.config import ConfigError

    is_config_error = isinstance(error, ConfigError)
    if _wants_traceback() or not _is_users(error):
        traceback.print_exception(error)
    else:
        notes = "".join(f"\n  ({note})" for note in getattr(error, "__notes__", ()))
        more = "" if is_config_error else "\n(for the traceback: HH_TRAIN_TRACEBACK=1)"
        print(f"error: {str(error) or type(error).__name__}{notes}{more}", file=sys.stderr)
    return _CONFIG_ERROR if is_config_error else _ERROR


def _wants_traceback() -> bool:
    return os.environ.get("HH_TRAIN_TRACEBACK", "0") not in ("", "0")


def _is_users(error: Exception) -> bool:
    """Whether the error speaks to the user: a path that cannot be used, or a ValueError that this package raised."""
    if isinstance(error, _PATH_ERRORS):
        return True
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, for a trainer that this machine cannot run
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ValueError) and bool(frames) and Path(frames[-1].filename).is_relative_to(_PACKAGE)


if __name__ == "__main__":
    main()
