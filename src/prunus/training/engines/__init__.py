"""How the lanes of a stack are computed: one file an engine.

| engine | takes | computes |
| --- | --- | --- |
| kernel | fully-connected networks on a CPU | whole steps in C++, dense or sparse layer by layer, a lane on each core |
| batched | networks that are alike, on an accelerator | all lanes as one batched computation |
| single | any network | one lane at a time; on a CPU several, each on cores of its own |
| distributed | any network, for `prunus run --launch` | one lane at a time, by several processes together |
"""

from prunus.training.engines.batched import BatchedEngine
from prunus.training.engines.engine import Engine
from prunus.training.engines.kernel import KernelEngine
from prunus.training.engines.single import SingleEngine
from prunus.training.lane import Lane

__all__ = ["BatchedEngine", "Engine", "KernelEngine", "SingleEngine", "engine_for", "fastest"]


def engine_for(lane: Lane, cores: int) -> Engine:
    """The fastest engine that takes `lane`.

    Args:
        lane: the first lane of a stack.
        cores: how many cores the engine may use.
    """
    engine = fastest(lane)(cores)
    engine.takes(lane)  # from then on it takes what is like this one
    return engine


def fastest(lane: Lane) -> type[KernelEngine | BatchedEngine | SingleEngine]:
    """The kind of engine that computes `lane`, whatever others are computed: engines differ in the last bits."""
    return next((kind for kind in (KernelEngine, BatchedEngine) if kind.can(lane)), SingleEngine)
