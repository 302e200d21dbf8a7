"""What the recipe study compares: parts of the recipe, alone and together."""

#: The parts, as `Switches` names them.
PARTS = ("soft_neurons", "ghost_skips", "label_smoothing", "rescaled_init")

#: The arm without any of them. It is always trained.
PLAIN = "plain"

#: The parts of each other arm, in the order of the figures.
PARTS_OF = {
    "soft-neurons": ("soft_neurons",),
    "ghost-skips": ("ghost_skips",),
    "label-smoothing": ("label_smoothing",),
    "rescaled-init": ("rescaled_init",),
    "all-but-smoothing": ("soft_neurons", "ghost_skips", "rescaled_init"),
    "all": PARTS,
}

WORDS = {
    PLAIN: "plain training",
    "soft-neurons": "soft neurons",
    "ghost-skips": "ghost skips",
    "label-smoothing": "label smoothing",
    "rescaled-init": "rescaled initialisation",
    "all-but-smoothing": "all but label smoothing",
    "all": "all four",
}
