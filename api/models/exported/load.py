"""Read the weights of a model: `weights = load("model.safetensors")`. It needs torch and nothing else."""

import json
from pathlib import Path

import torch


def load(path: str) -> dict[str, torch.Tensor]:
    """Return each parameter by its name, as a float32 tensor."""
    data = bytearray(Path(path).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    values = torch.frombuffer(data, dtype=torch.float32, offset=start)
    places = {name: [end // 4 for end in one["data_offsets"]] for name, one in header.items()}
    return {name: values[slice(*places[name])].reshape(one["shape"]) for name, one in header.items()}
