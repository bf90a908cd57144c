"""Codecs trained elsewhere: their weights stay where they are, and what was made with them knows their hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hh_train.runtime.distributed import own_device
from hh_train.tokenizers.pretrained import CLASS_KEY, CONFIG_FILE, PretrainedTokenizer, class_path

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
BLOB_NAME = re.compile(r"[0-9a-f]{64}")
"""In the hub's cache a file of weights is a link to a blob that is named by its SHA-256."""
WITHOUT_MEANING = ("transformers_version", "torch_dtype", "dtype", "architectures")
"""Keys of a model's config.json that say who saved it and how, beside those that begin with an underscore."""


class ReferencedTokenizer(PretrainedTokenizer):
    """Base of codecs that are a model of diffusers or transformers, found by path or by id on the hub.

    `save_pretrained` writes a reference: the source, the settings, and a hash of the model's configuration and weights.
    A codec that is read back refuses a source whose content has changed. The model is loaded when it is first used;
    it is no submodule, so `device` alone says where it runs.

    Args:
        source: a folder that `save_pretrained` wrote, or an id on the hub such as `google/t5gemma-9b-9b-ul2`.
        subfolder: where in the source the model lies.
        revision: branch, tag or commit of an id.
        dtype: of the weights and of the arithmetic: float32, bfloat16 or float16. Latents are float32 in any case.
        device: null is the accelerator that the launcher gave to this process, or else the CPU.
        content: the hash that the source must have; null takes it as it is.

    Raises:
        ValueError: the dtype is not known. When first used: nothing is found at the source, or another content.
    """

    weights_name = "model.safetensors"
    further_files: tuple[str, ...] = ()
    """Beside configuration and weights, the files that decide the latents, where they exist."""

    def __init__(
        self,
        *,
        source: str,
        subfolder: str | None,
        revision: str | None,
        dtype: str,
        device: str | None,
        content: str | None,
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"got dtype {dtype!r}; wanted one of {', '.join(DTYPES)}")
        self._source = source
        self._subfolder = subfolder
        self._revision = revision
        self._dtype = dtype
        self._device = device
        self._wanted_content = content

    def latent_settings(self) -> dict[str, Any]:
        """The arguments, beside the weights, that decide the latents."""
        return {"dtype": self._dtype}

    def settings(self) -> dict[str, Any]:
        """What decides the latents. Where the weights are found does not: `location` tells it."""
        return {**self.latent_settings(), "content": self.content}

    def location(self) -> dict[str, Any]:
        """The arguments that tell where the model is: an absolute path, or an id with the commit that was found."""
        if Path(self._source).is_dir():
            found = {"source": str(Path(self._source).resolve()), "revision": None}
        else:
            found = {"source": self._source, "revision": self.root.name}
        return {**found, "subfolder": self._subfolder}

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes settings and reference, no weights; `from_pretrained` reads them."""
        fields = {CLASS_KEY: class_path(type(self)), **self.settings(), **self.location()}
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over class, settings and the content of the source, wherever it lies."""
        payload = json.dumps([class_path(type(self)), self.settings()], sort_keys=True)
        return hashlib.sha256(payload.encode()).hexdigest()[:16]

    @cached_property
    def root(self) -> Path:
        """The source as a folder; downloaded first where it is an id that is not in the hub's cache."""
        return Path(self._source) if Path(self._source).is_dir() else self._download()

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the model."""
        folder = self.root / self._subfolder if self._subfolder else self.root
        if not (folder / CONFIG_FILE).is_file():
            raise ValueError(
                f"no {CONFIG_FILE} in {folder}: wanted a folder that save_pretrained wrote; change source or subfolder"
            )
        return folder

    @cached_property
    def model_config(self) -> dict[str, Any]:
        """The model's own configuration, without the keys that do not matter to its output."""
        fields: dict[str, Any] = json.loads((self.folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return {k: v for k, v in fields.items() if not k.startswith("_") and k not in WITHOUT_MEANING}

    @cached_property
    def content(self) -> str:
        """32 hex digits of SHA-256 over the model's configuration and files. Raises ValueError when not as wanted."""
        digest = hashlib.sha256(json.dumps(self.model_config, sort_keys=True).encode())
        others = [path for path in map(self.folder.joinpath, self.further_files) if path.is_file()]
        for path in [*weight_files(self.folder, self.weights_name), *others]:
            digest.update(bytes.fromhex(file_digest(path)))
        found = digest.hexdigest()[:32]
        if self._wanted_content not in (None, found):
            raise ValueError(
                f"{self.folder} has the content {found}, wanted {self._wanted_content}: these are not the weights that "
                f"the latents were made with; point source in the tokenizer's {CONFIG_FILE} at those"
            )
        return found

    @cached_property
    def device(self) -> torch.device:
        return torch.device(self._device) if self._device is not None else own_device()

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self._dtype]

    @cached_property
    def model(self) -> Any:
        """The model on its device, in evaluation mode."""
        assert self.content
        return self.load_model().to(self.device).eval().requires_grad_(False)

    def load_model(self) -> Any:
        """Reads the model from `folder` in `dtype`. Raises ValueError when weights are missing."""
        raise NotImplementedError

    def check_loaded(self, info: dict[str, Any]) -> None:
        """Raises ValueError when the weights did not fill the model; the libraries only warn."""
        lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        if lacking:
            raise ValueError(
                f"{self.folder} lacks {len(lacking)} of the weights that its {CONFIG_FILE} promises, "
                f"such as {lacking[0]}: fetch it again"
            )

    def _download(self) -> Path:
        if not HUB_ID.fullmatch(self._source):
            raise ValueError(
                f"the folder {self._source} does not exist: wanted a folder or an id on the hub; change source, in the "
                f"configuration or in the saved tokenizer's {CONFIG_FILE}"
            )
        from huggingface_hub import snapshot_download

        inside = f"{self._subfolder}/" if self._subfolder else ""
        patterns = [f"{inside}{pattern}" for pattern in ("*.json", "*.safetensors", "*.model")]
        try:
            return Path(snapshot_download(self._source, revision=self._revision, allow_patterns=patterns))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self._source} is neither a folder nor can it be had from the hub: {error} "
                "(accept its licence and log in by `hf auth login`, or give the path of a copy as source)"
            ) from error


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors files of a model: the one of this name, or those that its index names.

    Raises:
        ValueError: there is neither, or a file of the index is missing.
    """
    index = folder / f"{name}.index.json"
    if (folder / name).is_file():
        return [folder / name]
    if not index.is_file():
        raise ValueError(f"no {name} and no {index.name} in {folder}: wanted a model's weights as safetensors")
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which {index.name} names: fetch it again")
    return [folder / name for name in names]


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hex. Taken from the name of a blob in the hub's cache; else read once a process."""
    real = path.resolve()
    if real.parent.name == "blobs" and BLOB_NAME.fullmatch(real.name):
        return real.name
    facts = real.stat()
    return _read_digest(real, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1024)
def _read_digest(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def by_shape(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The indices of tensors that can be stacked, in the order in which the shapes first come."""
    groups: dict[torch.Size, list[int]] = {}
    for index, tensor in enumerate(tensors):
        groups.setdefault(tensor.shape, []).append(index)
    return list(groups.values())
