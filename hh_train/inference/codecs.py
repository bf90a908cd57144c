"""The codecs of shards, wherever the shards lie."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from hh_train.data.loading.storage import Storage
from hh_train.tokenizers import Tokenizers, load_tokenizers
from hh_train.tokenizers.pretrained import CONFIG_FILE, ROLES, TOKENIZERS_FOLDER, WEIGHTS_FILE


def tokenizers_of(shards: str | Path) -> Tokenizers:
    """The codecs that the latents in a folder, or at a URL, belong to.

    Raises:
        ValueError: a codec is missing, or is none for its modality.
    """
    storage = Storage(shards)
    if storage.is_local:
        return load_tokenizers(shards)
    with tempfile.TemporaryDirectory() as temporary:
        for role in ROLES:
            for file in (CONFIG_FILE, WEIGHTS_FILE):
                path = Path(temporary, TOKENIZERS_FOLDER, role, file)
                path.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # some have no weights; one without a configuration is told below
                    path.write_bytes(storage.read(f"{TOKENIZERS_FOLDER}/{role}/{file}"))
        try:
            return load_tokenizers(temporary)
        except ValueError as error:
            raise ValueError(f"the codecs of {storage} cannot be read: {error}") from error
