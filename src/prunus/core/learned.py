"""`LearnedMask`: what `masks_of` asks where a mask is learned behind a parametrization and not held by `apply`."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn


class LearnedMask(nn.Module):
    """A parametrization of one weight that masks it."""

    def mask(self) -> Tensor:
        """The mask now, a bool tensor of the weight's shape that nobody else holds."""
        raise NotImplementedError

    def together(self) -> Mapping["LearnedMask", Tensor]:
        """The masks of this weight and of those that are cheaper to have with it."""
        return {self: self.mask()}


def learned_masks(model: nn.Module) -> Iterator[tuple[str, LearnedMask]]:
    """The learned masks of `model`, each with the name that its weight has in the plain model; tied ones once."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        for attribute, chain in getattr(module, "parametrizations", {}).items():
            for part in chain:
                if isinstance(part, LearnedMask) and id(part) not in seen:
                    seen.add(id(part))
                    yield f"{path}.{attribute}".lstrip("."), part


def masks_learned(model: nn.Module) -> dict[str, Tensor]:
    """The masks of `learned_masks(model)` now."""
    found = dict(learned_masks(model))
    masks: dict[LearnedMask, Tensor] = {}
    for learned in found.values():
        if learned not in masks:
            masks |= learned.together()
    return {name: masks[learned] for name, learned in found.items()}
