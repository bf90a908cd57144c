"""Low-rank adapters (LoRA, arXiv:2106.09685; DoRA, arXiv:2402.09353) of a frozen transformer's matrix products.

The layers and the choice of what they adapt are this package's own: the packed rows of a matrix, the experts of a
modality and a second adapter for another network of the same base are nothing that `peft` can address. Files are in the
key styles of `peft`, ComfyUI and kohya's scripts, in which other tools read them.
"""

from hh_train.model.lora.attach import (
    AdaptedNetwork,
    AdapterSet,
    activate,
    active_adapters,
    adapter_names,
    adapter_set,
    attach_adapter,
    detach_adapter,
    initialize_adapter,
    without_adapters,
)
from hh_train.model.lora.chosen import AdapterChoice, as_records, convert_adapter, load_with_adapters
from hh_train.model.lora.files import AdapterFile, AdapterRecord, attach_file, read_adapter, write_adapter
from hh_train.model.lora.fingerprint import base_fingerprint, folder_fingerprint
from hh_train.model.lora.matrices import PairWeights, attach_weights, fill_adapter, matrix_changes
from hh_train.model.lora.merge import MergedAdapters, fold_adapters, merge_adapters, merged_state_dict
from hh_train.model.lora.targets import AdapterRecipe, AdapterRule, Cell, num_parameters

__all__ = [
    "AdaptedNetwork",
    "AdapterChoice",
    "AdapterFile",
    "AdapterRecipe",
    "AdapterRecord",
    "AdapterRule",
    "AdapterSet",
    "Cell",
    "MergedAdapters",
    "PairWeights",
    "activate",
    "active_adapters",
    "adapter_names",
    "adapter_set",
    "as_records",
    "attach_adapter",
    "attach_file",
    "attach_weights",
    "base_fingerprint",
    "convert_adapter",
    "detach_adapter",
    "fill_adapter",
    "fold_adapters",
    "folder_fingerprint",
    "initialize_adapter",
    "load_with_adapters",
    "matrix_changes",
    "merge_adapters",
    "merged_state_dict",
    "num_parameters",
    "read_adapter",
    "without_adapters",
    "write_adapter",
]
