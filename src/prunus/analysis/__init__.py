"""What there is to know about a network's masks before and after training."""

from prunus.analysis.collapse import Collapse, collapse, max_compression
from prunus.analysis.conservation import Conservation, LayerFlow, UnitFlow, conservation
from prunus.analysis.costs import Cost, Costs, costs
from prunus.analysis.critical import Critical, critical_compression, critical_compression_of
from prunus.analysis.effective import effective, effective_density
from prunus.analysis.exploration import Exploration
from prunus.analysis.topology import DeadUnits, LayerTopology, Topology

__all__ = [
    "Collapse",
    "Conservation",
    "Cost",
    "Costs",
    "Critical",
    "DeadUnits",
    "Exploration",
    "LayerFlow",
    "LayerTopology",
    "Topology",
    "UnitFlow",
    "collapse",
    "conservation",
    "costs",
    "critical_compression",
    "critical_compression_of",
    "effective",
    "effective_density",
    "max_compression",
]
