"""A small network that is one graph of channels: Discovering neural wirings, 2019, NeurIPS (its dynamic, discrete one).

Each of 800 nodes holds one channel. The image enters at the first 32, all others start at zero. In each of five steps
every node takes a weighted sum of all nodes and makes its next value of it; the last 100 nodes are read at the end. All
weighted sums are one matrix, which is a 1 × 1 convolution: `wiring.weight`, row v of which has the weights of the edges
into node v. Loops are allowed, and what reaches an output has gone over exactly five edges. The paper keeps 5 % of the
edges: the network then has 41,074 parameters.

Left open by the paper, and chosen here: a node normalises its sum over the image, then applies ReLU, then its own
3 × 3 convolution, so that a node without input stays zero. Instance norm has no parameters, and no convolution has a
bias. The way in is one 3 × 3 convolution of stride 2 and a mean over squares of pixels, without norm or ReLU, which
each node begins with anyway. Together they shrink the image by the largest power of 2 that leaves at least 7 pixels
a side: 8 × 8 of 32 × 32, 7 × 7 of 28 × 28. Images with sides below 14 are not shrunk; sides below 4 are refused.

`width` scales all three numbers of nodes. Convolutions start Kaiming normal by their inputs (9 for that of a node),
the linear layer in PyTorch's range with zero bias.
"""

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn

from prunus.models.blocks import convolution
from prunus.models.initial import initialise, initialised_by
from prunus.models.layers import Shape, check_sides, scaled

#: How many nodes there are, how many of them the image enters at, and how many are read.
NODES, INPUTS, OUTPUTS = 800, 32, 100
STEPS = 5
#: How many pixels the smaller side has at least after the way in, where the image has so many.
_SIDE = 7


class WiringGraph(nn.Module):
    """See the module.

    Args:
        stem: makes the state that the nodes start in, of a channel a node.
        nodes: how many nodes there are.
        outputs: how many of them, the last ones, are read.
        classes: how many outputs the linear layer has.
    """

    def __init__(self, stem: nn.Module, nodes: int, outputs: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.wiring = convolution(nodes, nodes, 1)
        own = convolution(nodes, nodes, 3, groups=nodes)
        self.node = nn.Sequential(OrderedDict(norm=nn.InstanceNorm2d(nodes), relu=nn.ReLU(), conv=own))
        self.mean = nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
        self.fc = nn.Linear(outputs, classes)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, classes)."""
        state = self.stem(x)
        for _ in range(STEPS):
            state = self.node(self.wiring(state))
        return self.fc(self.mean(state[:, -self.outputs :]))


@initialised_by(partial(initialise, scheme="kaiming-normal", linear="pytorch-uniform"))
def wiring_graph(input_shape: Shape, classes: int, width: float = 1.0) -> WiringGraph:
    """A graph of 800 channels that all feed each other for five steps; 0.04 M parameters with 5 % of its edges."""
    check_sides("wiring-graph", input_shape, 4, "its norms have too few pixels")
    nodes, inputs, outputs = (scaled(count, width) for count in (NODES, INPUTS, OUTPUTS))
    shrink = _shrink(min(input_shape[1:]))
    stem: OrderedDict[str, nn.Module] = OrderedDict(conv=convolution(input_shape[0], inputs, 3, min(shrink, 2)))
    if shrink > 2:
        stem["pool"] = nn.AvgPool2d(shrink // 2)
    stem["pad"] = nn.ZeroPad3d((0, 0, 0, 0, 0, nodes - inputs))
    return WiringGraph(nn.Sequential(stem), nodes, outputs, classes)


def _shrink(side: int) -> int:
    """The largest power of 2 that leaves so many pixels of a side, at least 1."""
    return 1 << max(0, (side // _SIDE).bit_length() - 1)
