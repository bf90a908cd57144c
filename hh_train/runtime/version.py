"""Which code a run was made with."""

from __future__ import annotations

import functools
import subprocess
from importlib import metadata
from pathlib import Path


@functools.cache
def code_version() -> str:
    """`0.1.0`, in a git checkout `0.1.0+g<commit>`, with local changes `0.1.0+g<commit>.dirty`."""
    try:
        version = metadata.version("hh-train")
    except metadata.PackageNotFoundError:
        version = "0.0.0"
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return version
    commit = _git(checkout, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return version
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return f"{version}+g{commit}{'.dirty' if changed else ''}"


def _git(folder: Path, *arguments: str) -> str:
    try:
        command = ["git", *arguments]
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
