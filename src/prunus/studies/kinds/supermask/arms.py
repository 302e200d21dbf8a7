"""What the studies of supermasks compare."""

#: Ways to find a mask, in the order of the figures, and their words. The method of an arm is its name, unless it is
#: told another.
WORDS = {
    "edge-popup": "edge-popup",
    "edge-popup-global": "edge-popup, global",
    "gem-miner": "Gem-Miner",
    "bernoulli": "Zhou's supermask",
    "bernoulli-rescaled": "Zhou's, rescaled",
    "biprop": "biprop",
    "neural-wirings": "neural wirings",
}

#: The method of an arm whose name is not one, and the options that make it what it is called.
METHOD_OF = {"edge-popup-global": "edge-popup", "bernoulli-rescaled": "bernoulli"}
OPTIONS_OF = {"edge-popup-global": {"scope": "global"}, "bernoulli-rescaled": {"rescale": True}}
