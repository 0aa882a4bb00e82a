"""The one place that chooses a device, its precision and the number of threads."""

import os

import torch


def use_threads(n_threads: int) -> None:
    """Give torch the job's cores and no more: extra threads make small programs much slower."""
    torch.set_num_threads(max(1, n_threads))


def choose() -> torch.device:
    """The GPU the job was given, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def name(device: torch.device) -> str:
    """What the device is called: the GPU's model, or CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision where the device has it: a CPU may emulate bfloat16, 4-5 times slower."""
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def deterministic(seed: int) -> None:
    """Make torch repeat itself for a seed on one machine type."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
