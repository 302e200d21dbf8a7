"""`Processes`: the processes that train one network together, and what they tell each other.

Each is started with its place in the environment (`RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `LOCAL_WORLD_SIZE`,
`MASTER_ADDR`, `MASTER_PORT`), as torchrun does it, and joins the others through `accelerate`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prunus.core.errors import Invalid

if TYPE_CHECKING:
    from accelerate import Accelerator

#: What torchrun says to each process that it starts.
PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: Ways of accelerate's that take the network apart, by what asks for them in the environment.
_APART = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron",
}


@dataclass(frozen=True)
class Processes:
    """The group that this process belongs to.

    Attributes:
        rank: the place of this process, from 0.
        world: how many there are.
        device: what this process computes on.
    """

    rank: int
    world: int
    device: torch.device
    _accelerator: "Accelerator"

    @classmethod
    def join(cls, device: str) -> "Processes":
        """Meet the others; the place of this process is in the environment.

        Args:
            device: "cpu", or "cuda" for the GPU whose number is the process's place on its machine.

        Raises:
            Invalid: if accelerate is not installed, the environment lacks something or asks for what is not
                supported, there is no such device, or the others cannot be met.
        """
        check_accelerate()
        if missing := [name for name in PLACE if name not in os.environ]:
            raise Invalid(f"{missing[0]} is not set, though RANK or WORLD_SIZE is; torchrun sets them all")
        local = int(os.environ["LOCAL_RANK"])
        if device == "cuda" and local >= (there := torch.cuda.device_count()):
            raise Invalid(f"process {local} of this machine needs GPU {local}; here there are {there}, counted from 0")
        accelerator = _accelerator(device)
        place = torch.device("cpu") if device == "cpu" else accelerator.device
        return cls(dist.get_rank(), dist.get_world_size(), place, accelerator)

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model` so wrapped that each backward pass leaves the mean of all processes' gradients."""
        return self._accelerator.prepare_model(model)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, the same to the last bit in each; `tensor` is overwritten by it."""
        dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Each process's `tensor`, of the same shape, stacked by rank."""
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(parts, tensor)
        return torch.stack(parts)

    def agreed(self, value: Any) -> Any:
        """What process 0 has for `value`."""
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def same(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether all processes hold the same bits, told by a checksum."""
        checksum = torch.zeros(1, dtype=torch.int64, device=self.device)
        for place, tensor in enumerate(tensors.values(), 1):
            checksum += place * _bits(tensor).sum(dtype=torch.int64).to(self.device)
        # the largest and the smallest, in one go
        extremes = torch.cat([checksum, ~checksum])
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        largest, smallest = extremes.tolist()
        return largest == ~smallest

    def wait(self) -> None:
        """Go on when all are here."""
        dist.barrier(device_ids=None if self.device.index is None else [self.device.index])

    def forget_models(self) -> None:
        """Let go of what `parallel` wrapped."""
        self._accelerator.free_memory()

    def leave(self) -> None:
        """Part from the others."""
        self._accelerator.end_training()


def check_accelerate() -> None:
    """Raises Invalid if accelerate cannot be used as the environment is."""
    if find_spec("accelerate") is None:
        raise Invalid("--launch needs accelerate: install prunus[train]")
    for variable, what in _APART.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise Invalid(f"{variable} is set, but {what} is not supported: each process holds the whole network (DDP)")


def _accelerator(device: str) -> "Accelerator":
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, check_cuda_p2p_ib_support

    # else accelerate sets the number of threads itself, with a warning
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    if device == "cuda" and not check_cuda_p2p_ib_support():
        os.environ |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}  # as `accelerate launch` does it
    try:
        return Accelerator(
            cpu=device == "cpu",
            mixed_precision="no",
            kwargs_handlers=[
                InitProcessGroupKwargs(backend="gloo" if device == "cpu" else "nccl"),
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            ],
        )
    except (dist.DistError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise Invalid(f"the other processes cannot be met at {where} ({str(error).splitlines()[0]})") from error


def _bits(tensor: Tensor) -> Tensor:
    """The tensor's bytes as whole numbers."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = tensor.detach().reshape(-1)
    return flat.view(whole.get(flat.element_size(), torch.uint8))
