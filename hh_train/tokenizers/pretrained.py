"""Codecs in folders: `config.json` and, where there are weights, `model.safetensors`; and what tells them apart."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

from hh_train.tokenizers.base import AudioTokenizer, TextTokenizer, VideoTokenizer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CLASS_KEY = "class"
TOKENIZERS_FOLDER = "tokenizers"
ROLES = {"video": VideoTokenizer, "audio": AudioTokenizer, "text": TextTokenizer}

Codec = TypeVar("Codec", bound="PretrainedTokenizer")


class PretrainedTokenizer(nn.Module):
    """Base of the codecs that live in a folder. A subclass states its constructor's arguments in `settings`."""

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that build this codec again, as plain JSON values."""
        raise NotImplementedError

    def check_fitted(self) -> None:
        """Raises ValueError when the codec still needs fitting. Codecs without weights are always ready."""

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes the codec into `directory`, which `from_pretrained` reads."""
        self.check_fitted()
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.cpu().contiguous() for name, value in self.state_dict().items()}
        if tensors:
            save_file(tensors, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(
            json.dumps({CLASS_KEY: class_path(type(self)), **self.settings()}, indent=2) + "\n"
        )

    @classmethod
    def from_pretrained(cls: type[Codec], directory: str | Path) -> Codec:
        """Reads what `save_pretrained` wrote.

        Raises:
            ValueError: there is no codec in the folder, or one of another class.
        """
        folder = Path(directory)
        config = read_config(folder)
        saved_class = config.pop(CLASS_KEY)
        if saved_class != class_path(cls):
            raise ValueError(
                f"{folder} holds a {saved_class}, wanted a {class_path(cls)}; use load_tokenizer to read either"
            )
        tokenizer = cls(**config)
        weights = folder / WEIGHTS_FILE
        tokenizer.load_state_dict(load_file(weights) if weights.exists() else {}, strict=True)
        return tokenizer.eval().requires_grad_(False)

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over class, settings and weights: equal fingerprints, equal latents."""
        self.check_fitted()
        digest = hashlib.sha256(class_path(type(self)).encode())
        digest.update(json.dumps(self.settings(), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def class_path(cls: type) -> str:
    """The dotted path by which the class can be imported."""
    return f"{cls.__module__}.{cls.__qualname__}"


def read_config(folder: Path) -> dict[str, Any]:
    """The settings saved in a codec's folder, the class among them.

    Raises:
        ValueError: the folder holds no codec.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"no {CONFIG_FILE} in {folder}: wanted a tokenizer's folder, as `hh-train tokenize` writes it")
    config: dict[str, Any] = json.loads(path.read_text())
    if CLASS_KEY not in config:
        raise ValueError(
            f"{path} names no {CLASS_KEY!r}: wanted a tokenizer's configuration, got the keys {sorted(config)}"
        )
    return config


def load_tokenizer(directory: str | Path) -> PretrainedTokenizer:
    """Reads the codec in `directory`, whatever its class is.

    Raises:
        ValueError: the folder holds no codec, or its class is not a `PretrainedTokenizer`.
    """
    folder = Path(directory)
    path = read_config(folder)[CLASS_KEY]
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{folder / CONFIG_FILE} names the class {path!r}, which cannot be imported: {error}"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, PretrainedTokenizer)):
        raise ValueError(f"{folder / CONFIG_FILE} names {path!r}, which is no PretrainedTokenizer")
    return cls.from_pretrained(folder)


@dataclass(frozen=True, kw_only=True)
class Tokenizers:
    """The three codecs that a model's latents belong to."""

    video: VideoTokenizer
    audio: AudioTokenizer
    text: TextTokenizer

    def fingerprints(self) -> dict[str, str]:
        """By modality, as manifests, checkpoints and bundles record them."""
        return {name: getattr(self, name).fingerprint() for name in ROLES}

    def save(self, folder: str | Path) -> None:
        """Writes `video`, `audio` and `text` folders into `folder`, which appears complete or not at all.

        Raises:
            ValueError: the folder exists, or a codec has no folder form or is not fitted.
        """
        final = Path(folder)
        if final.exists():
            raise ValueError(f"{final} exists already: choose another folder for the tokenizers, or delete it")
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name in ROLES:
            codec = getattr(self, name)
            if not isinstance(codec, PretrainedTokenizer):
                raise ValueError(f"the {name} tokenizer is a {type(codec).__name__}; wanted a PretrainedTokenizer")
            codec.save_pretrained(partial / name)
        partial.rename(final)


def load_tokenizers(folder: str | Path) -> Tokenizers:
    """The codecs in `folder/tokenizers`, where `folder` holds shards or a bundle, or in `folder` itself.

    Raises:
        ValueError: a codec is missing, or is none for its modality.
    """
    inner = Path(folder) / TOKENIZERS_FOLDER
    base = inner if inner.is_dir() else Path(folder)
    found: dict[str, Any] = {name: load_tokenizer(base / name) for name in ROLES}
    for name, role in ROLES.items():
        missing = [member for member in _members(role) if not hasattr(found[name], member)]
        if missing:
            raise ValueError(
                f"{base / name} holds a {class_path(type(found[name]))}, which is no {name} tokenizer: "
                f"it has no {', '.join(missing)}"
            )
    return Tokenizers(**found)


def _members(role: type) -> list[str]:
    return [name for name in vars(role) if not name.startswith("_")]
