"""What a model takes, found out from the model itself."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.core.params import device_of
from prunus.core.probing import Batch, Probe, untouched

#: Sides of images, and lengths of sequences, that are tried: the usual ones, smaller ones first.
SIDES = (32, 28, 64, 84, 96, 112, 128, 160, 192, 224, 240, 256, 299, 384, 512, 16, 8)


def example_of(model: nn.Module, given: Any = None) -> Batch:
    """One input that the model takes.

    Args:
        model: any `nn.Module`.
        given: an input or a batch, in any of the usual forms. Default: what the model itself says that it takes
            (`dummy_inputs` or `image_size` of Transformers, `default_cfg` of timm); or else ones for its first
            layer, of the smallest usual size that it takes and where each tap of each convolution sees more than
            padding; or tokens, where the first layer is an embedding.

    Raises:
        Invalid: if nothing is given and nothing was found.
    """
    if given is not None:
        return Batch.read(given)
    said = _said(model)
    return said if said is not None else _tried(model)


def _said(model: nn.Module) -> Batch | None:
    main = getattr(model, "main_input_name", None)
    if main == "pixel_values":  # Transformers' dummy inputs are tokens for all models
        sizes: Any = getattr(model, "config", None)
        side = getattr(sizes, "image_size", 224)
        sides = (side, side) if isinstance(side, int) else tuple(side)
        return Batch((), {main: _ones(model, (getattr(sizes, "num_channels", 3), *sides))})
    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, dict) and dummy and main in (None, *dummy):
        return Batch((), dummy)
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else None
    return Batch((_ones(model, size),)) if size else None


def _tried(model: nn.Module) -> Batch:
    fallback = None
    double = any(p.dtype == torch.float64 for p in model.parameters())
    probe = Probe(model, {}, torch.float64 if double else torch.float32)
    for given in _candidates(model):
        taps: list[bool] = []
        hooks = [m.register_forward_hook(_sees(taps)) for m in model.modules() if isinstance(m, _CONVS)]
        batch = Batch((given,))
        try:
            with untouched(model), torch.no_grad():
                probe(batch)
        except Invalid:
            continue
        finally:
            for hook in hooks:
                hook.remove()
        if all(taps):
            return batch
        fallback = fallback or batch
    if fallback is None:
        raise Invalid(
            f"{type(model).__name__}: what it takes could not be found out; give an example, such as "
            "inputs=torch.ones(1, 3, 32, 32), as an option of SynFlow or of the analysis"
        )
    return fallback


_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _candidates(model: nn.Module) -> Iterator[Tensor]:
    first = next((m for m in model.modules() if isinstance(m, (nn.Embedding, nn.Linear, *_CONVS))), None)
    if isinstance(first, nn.Embedding):
        yield from (torch.zeros(1, length, dtype=torch.long, device=device_of(model)) for length in (8, 16, 32))
    else:
        yield from (_ones(model, shape) for shape in _shapes(first))


def _shapes(first: Any) -> Iterator[tuple[int, ...]]:
    if isinstance(first, nn.Linear):
        yield (first.in_features,)
        yield from ((side, first.in_features) for side in (8, 16, 32))  # a sequence
        side = round(first.in_features**0.5)
        if side * side == first.in_features:  # a grey image that is flattened
            yield (1, side, side)
        side = round((first.in_features / 3) ** 0.5)
        if 3 * side * side == first.in_features:
            yield (3, side, side)
    elif first is not None:
        dims = next(i for i, kind in enumerate(_CONVS, 1) if isinstance(first, kind))
        yield from ((first.in_channels, *[side] * dims) for side in SIDES)


def _sees(taps: list[bool]) -> Any:
    """Notes whether each tap of a convolution meets a pixel that is not padding."""

    def hook(conv: nn.Conv2d, args: tuple[Tensor, ...], output: Tensor) -> None:
        sides = zip(args[0].shape[2:], output.shape[2:], conv.kernel_size, strict=True)
        for i, (before, after, taps_here) in enumerate(sides):
            same = conv.dilation[i] * (taps_here - 1) // 2 if conv.padding == "same" else 0
            padding = same if isinstance(conv.padding, str) else conv.padding[i]
            for tap in range(taps_here):
                start = tap * conv.dilation[i] - padding
                places = range(start, start + conv.stride[i] * after, conv.stride[i])
                taps.append(any(0 <= place < before for place in places))

    return hook


def _ones(model: nn.Module, shape: Any) -> Tensor:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.ones(1, *shape, dtype=dtype, device=device_of(model))
