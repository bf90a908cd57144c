"""Renders talking heads: mp4 clips with captions, transcripts and the truth about their mouths.

python data/talking_heads/render.py --output runs/default/footage --clips-per-split train=600,validation=40,test=40
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import cv2
import torch
from clips import FRAMES_PER_SECOND, SHORTEST_FRAMES, Recipe, clip_key, render_clip
from people import FRAMINGS, NEW_PEOPLE, SPEAKERS_PER_SPLIT
from speech import library_paths
from texts import CONTENTS, SPLITS, check_choices

Task = tuple[Recipe, str, int, Path]

_RECIPE_FILE = "recipe.json"
_SMALLEST_SIDE = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Renders what is missing; returns 1 when clips failed (each is listed with its reason) or the request is wrong."""
    options = _parser().parse_args(arguments)
    try:
        recipe = _recipe(options)
        counts = _counts(options.clips_per_split)
        library_paths()
        output = Path(options.output)
        _claim(output, recipe)
        failures = render_missing(recipe, counts, output, workers=options.workers)
    except (ValueError, ImportError) as error:
        print(f"render.py: {error}", file=sys.stderr)
        return 1
    for key, reason in failures.items():
        print(f"left out {key}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def render_missing(recipe: Recipe, counts: dict[str, int], output: Path, *, workers: int) -> dict[str, str]:
    """Renders the clips that are not there yet, with a progress line. Returns key -> reason of the clips left out."""
    tasks: list[Task] = []
    for split, count in counts.items():
        folder = output / split
        folder.mkdir(parents=True, exist_ok=True)
        missing = (index for index in range(count) if not (folder / f"{clip_key(split, index)}.mp4").exists())
        tasks += [(recipe, split, index, folder) for index in missing]
    total = sum(counts.values())
    print(f"{output}: {total - len(tasks)} of {total} clips are there, {len(tasks)} to render")
    failures: dict[str, str] = {}
    begin = time.monotonic()
    for done, (key, reason) in enumerate(_results(tasks, workers), 1):
        if reason is not None:
            failures[key] = reason
        if done % 10 == 0 or done == len(tasks):
            rate = 60 * done / (time.monotonic() - begin)
            print(f"\r{done}/{len(tasks)} clips, {rate:.0f} a minute", end="", flush=True)
    if tasks:
        print(f"\n{len(tasks) - len(failures)} rendered, {len(failures)} left out")
    return failures


def _results(tasks: list[Task], workers: int) -> Iterator[tuple[str, str | None]]:
    if workers <= 1:
        yield from map(_render_task, tasks)
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_use_one_thread) as pool:
        try:
            for future in as_completed([pool.submit(_render_task, task) for task in tasks]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _use_one_thread() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _render_task(task: Task) -> tuple[str, str | None]:
    """The clip's key, and why it failed or None."""
    recipe, split, index, folder = task
    try:
        render_clip(recipe, split, index, folder)
    except ImportError:
        raise
    except Exception as error:  # a clip that fails is listed and never stops the others
        return clip_key(split, index), f"{type(error).__name__}: {error}"
    return clip_key(split, index), None


def _claim(output: Path, recipe: Recipe) -> None:
    """Notes the recipe in the folder, so that a second run cannot mix two kinds of clips."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / _RECIPE_FILE
    wanted = json.dumps(recipe.to_json(), indent=2) + "\n"
    if not path.exists():
        path.write_text(wanted)
    elif path.read_text() != wanted:
        raise ValueError(f"{path} holds another recipe: choose another --output, delete the folder, or use its options")


def _recipe(options: argparse.Namespace) -> Recipe:
    languages = tuple(filter(None, options.languages.split(",")))
    fewest, _, most = options.digits.partition("-")
    if not (fewest.isdigit() and (most or fewest).isdigit()):
        raise ValueError(f"--digits {options.digits!r} is no range: write for example 2-3")
    digits = (int(fewest), int(most or fewest))
    check_choices(languages=languages, split=SPLITS[0], content=options.content, digits=digits)
    sides = options.size.split("x")
    if not all(side.isdigit() for side in sides) or len(sides) > 2:
        raise ValueError(f"--size {options.size!r} is no size: write for example 64 or 112x64 (width x height)")
    width, height = int(sides[0]), int(sides[-1])
    if min(width, height) < _SMALLEST_SIDE or width % 2 or height % 2:
        raise ValueError(f"--size {options.size} must be even and at least {_SMALLEST_SIDE}: try 64")
    if options.max_seconds * FRAMES_PER_SECOND < SHORTEST_FRAMES:
        raise ValueError(f"--max-seconds {options.max_seconds} is too short: the shortest clip is 1 second")
    if not 0 <= options.two_shot_share <= 1:
        raise ValueError(f"--two-shot-share {options.two_shot_share} is no share: choose from 0 to 1")
    framings = tuple(filter(None, options.framings.split(",")))
    if not framings or not set(framings) <= set(FRAMINGS):
        raise ValueError(f"--framings {options.framings!r}: choose one or more of {', '.join(FRAMINGS)}")
    if not 0 <= options.head_motion <= 2:
        raise ValueError(f"--head-motion {options.head_motion} is out of range: choose from 0 (still heads) to 2")
    num_people = SPEAKERS_PER_SPLIT[NEW_PEOPLE]
    if options.person is not None and not 0 <= options.person < num_people:
        raise ValueError(f"--person {options.person} is no {NEW_PEOPLE} speaker: choose from 0 to {num_people - 1}")
    return Recipe(
        seed=options.seed,
        languages=languages,
        content=options.content,
        digits=digits,
        width=width,
        height=height,
        max_seconds=options.max_seconds,
        two_shot_share=options.two_shot_share,
        framings=framings,
        head_motion=options.head_motion,
        person=options.person,
    )


def _counts(text: str) -> dict[str, int]:
    counts = {}
    for part in filter(None, text.split(",")):
        split, _, count = part.partition("=")
        if split not in SPLITS or not count.isdigit():
            raise ValueError(f"--clips-per-split {part!r} is not SPLIT=COUNT with SPLIT one of {', '.join(SPLITS)}")
        counts[split] = int(count)
    return counts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Render talking heads with speech.")
    parser.add_argument("--output", required=True, help="footage folder; a second run renders only what is missing")
    parser.add_argument("--clips-per-split", default="train=600,validation=40,test=40")
    parser.add_argument("--languages", default="en", help="comma-separated, of zh,yue,en,ja,ko,de,fr")
    parser.add_argument("--content", default="digits", choices=CONTENTS)
    parser.add_argument("--digits", default="2-3", help="fewest-most digits in a string")
    parser.add_argument("--size", default="64", help="side in pixels, or WIDTHxHEIGHT")
    parser.add_argument("--max-seconds", type=float, default=4.0)
    parser.add_argument("--two-shot-share", type=float, default=0.0, help="share of clips with a hard cut")
    parser.add_argument("--framings", default=",".join(FRAMINGS), help="comma-separated, of " + ", ".join(FRAMINGS))
    parser.add_argument("--head-motion", type=float, default=1.0, help="size of the heads' sway; 0 holds them still")
    parser.add_argument("--person", type=int, help="one test speaker, 0 to 15, in every clip of every split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    return parser


if __name__ == "__main__":
    sys.exit(main())
