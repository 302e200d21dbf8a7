"""How much memory is taken and free."""

import os
from pathlib import Path

import torch

#: Bytes that are taken to be free where the operating system does not tell.
_UNKNOWN = 2**30


def allocated(device: torch.device) -> int:
    """Bytes that tensors on an accelerator take; 0 where it does not count them."""
    return torch.get_device_module(device).memory_allocated(device) if _counts(device) else 0


def at_most(device: torch.device) -> int | None:
    """Bytes that tensors took at most since `forget_peak`; None where the device does not count them."""
    return torch.get_device_module(device).max_memory_allocated(device) if _counts(device) else None


def forget_peak(device: torch.device) -> None:
    """Begin anew what `at_most` tells."""
    if _counts(device):
        torch.get_device_module(device).reset_peak_memory_stats(device)


def free(device: torch.device) -> int:
    """Bytes that are free on `device`."""
    if _counts(device):
        return torch.get_device_module(device).mem_get_info(device)[0]
    known = Path("/proc/meminfo")
    if known.exists():
        fields = dict(line.split(":") for line in known.read_text().splitlines())
        return 1024 * int(fields["MemAvailable"].split()[0])
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _UNKNOWN


def _counts(device: torch.device) -> bool:
    return device.type != "cpu" and hasattr(torch.get_device_module(device), "mem_get_info")
