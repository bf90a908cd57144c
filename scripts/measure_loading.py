"""Peak memory of reading a checkpoint, as a multiple of the loaded model's own bytes; each reading in a fresh process.

python scripts/measure_loading.py [--preset sandwich_1b3] [--max-file-size 1GB] [--folder DIR]

The checkpoint is random (bf16 matrix products, the rest fp32) and removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# The package is imported in the fresh processes alone: one that starts them inherits its own peak to them.


def peak_bytes() -> int:
    """Most memory that this process has had resident so far."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_checkpoint(folder: str, preset: str, max_file_size: str) -> None:
    import torch

    from hh_train.model.checkpoint import is_matrix_product_weight, save_model
    from hh_train.runtime.composition import compose_config
    from hh_train.runtime.config import instantiate

    config = compose_config("pretrain", [f"model={preset}"])
    with torch.device("meta"):
        model = instantiate(config.module.model)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in model.state_dict().items():
        dtype = torch.bfloat16 if is_matrix_product_weight(name) else torch.float32
        state[name] = torch.empty(tensor.shape, dtype=dtype).uniform_(-0.02, 0.02, generator=generator)
    save_model(state, model.config, folder, max_file_size=max_file_size)


def measure(folder: str, parameter_dtype: str) -> None:
    """Prints what one reading took, as JSON."""
    import time

    import torch

    from hh_train.model.checkpoint import load_model

    torch.set_num_threads(1)
    before, start = peak_bytes(), time.perf_counter()
    model = load_model(folder, parameter_dtype=parameter_dtype)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    after = peak_bytes()
    own = sum(tensor.nbytes for tensor in model.state_dict().values())
    print(json.dumps({"before": before, "after": after, "model": own, "seconds": seconds}))


def in_fresh_process(*arguments: str) -> str:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="sandwich_1b3", help="a file of configs/model/")
    parser.add_argument("--max-file-size", default="1GB", help="of one safetensors file")
    parser.add_argument("--folder", help="where the checkpoint is written for a while")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        return write_checkpoint(arguments.write, arguments.preset, arguments.max_file_size)
    if arguments.read:
        return measure(*arguments.read)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = str(Path(temporary) / "model")
        print(f"writing a random checkpoint of {arguments.preset} ...", flush=True)
        in_fresh_process("--write", folder, "--preset", arguments.preset, "--max-file-size", arguments.max_file_size)
        files = sorted(Path(folder).glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        print(
            f"{len(files)} files, {size / 1e9:.2f} GB, the largest {max(f.stat().st_size for f in files) / 1e9:.2f} GB"
        )
        print("parameters   model GB   peak while reading GB   peak / model   seconds")
        for parameter_dtype in ("as_stored", "float32"):
            told = re.findall(r"^{.*}$", in_fresh_process("--read", folder, parameter_dtype), re.MULTILINE)
            found = json.loads(told[-1])
            peak = found["after"] - found["before"]
            print(
                f"{parameter_dtype:10}   {found['model'] / 1e9:8.2f}   {peak / 1e9:21.2f}   "
                f"{peak / found['model']:12.2f}   {found['seconds']:7.1f}",
                flush=True,
            )
    return None


if __name__ == "__main__":
    main()
