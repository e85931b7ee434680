"""Which device a run uses, and in which precision."""

import torch

from anony_pipeline.errors import ConfigError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def torch_generator(seed: int) -> torch.Generator:
    """A CPU generator: noise drawn on the CPU is the same on every device."""
    return torch.Generator().manual_seed(seed)


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device that is there.

    Raises:
        ConfigError: If it is another name, or a CUDA device that is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    allowed = ["auto", "cpu", *(["cuda"] if here else []), *here]
    if name not in allowed:
        what = "no such CUDA device is here" if name.startswith("cuda") else "there is no such device"
        raise ConfigError(what, where="device", got=name, allowed=", ".join(allowed), do="set device: auto")
    return torch.device(name)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Turn ``fp32``, ``fp16`` or ``bf16`` into a dtype that the device computes in.

    Raises:
        ConfigError: If fp16 is asked for on a CPU, or bf16 on a GPU without it.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "fp16 needs a GPU", where="precision", got="fp16 on cpu", allowed="fp32, bf16", do="set precision: fp32"
        )
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        name = torch.cuda.get_device_name(device)
        raise ConfigError(
            "this GPU has no bf16",
            where="precision",
            got=f"bf16 on {name}",
            allowed="fp32, fp16",
            do="set precision: fp16",
        )
    return DTYPES[precision]


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU's or the host's memory is used up: the CPU's allocator has no class for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
