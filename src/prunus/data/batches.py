"""Batches made ready on the device: pad-crop and flip, then normalisation."""

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_with


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """`(images / 255 − mean) / std` as float32.

    Args:
        images: uint8 [N, C, H, W].
        mean: [C], in units of the full range (0 black, 1 white), as in `DataSet.mean`.
        std: [C], in the same units.
    """
    return scale_and_shift(images, *constants(mean, std, images.device))


def constants(mean: Tensor, std: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift, float32 [C, 1, 1], such that `scale · image + shift` is the normalised image; rounded once."""
    std = std.to(torch.float64)
    scale, shift = 1 / (255 * std), -mean.to(torch.float64) / std
    scale, shift = (t.to(device, torch.float32).reshape(-1, 1, 1) for t in (scale, shift))
    return scale, shift


def scale_and_shift(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`scale · images + shift` as a new float32 tensor."""
    return images.to(torch.float32, copy=True).mul_(scale).add_(shift)


def augment(images: Tensor, generator: torch.Generator, pad: int = 4, flip: bool = True) -> Tensor:
    """Each image padded by `pad` black pixels on every side, cropped to its size at random, and flipped or not.

    Each of the (2 · pad + 1)² crops is equally likely, as is each side of the horizontal flip. The padding is
    zero, which is black as long as the images are not normalised: so augment first, then `normalise`.

    Args:
        images: [N, C, H, W] of any dtype, best uint8.
        generator: draws offsets down, offsets across, and flips, in this order; a CPU generator gives
            the same batch on any device.
        pad: pixels of padding; 0 for no crop. Default: 4, the usual for 32 × 32 images.
        flip: whether to mirror half of the images. Default: yes (not for digits and letters).

    Returns:
        A new tensor of the same shape and dtype.
    """
    count, channels, height, width = images.shape
    device = images.device

    def draw(below: int) -> Tensor:
        drawn = torch.randint(below, (count, 1), generator=generator, device=generator.device)
        return drawn.to(device)

    down, across = draw(2 * pad + 1), draw(2 * pad + 1)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device).expand(count, width)
    if flip:
        columns = torch.where(draw(2).bool(), columns.flip(1), columns)
    padded = pad_with(images, (pad, pad, pad, pad))
    # where each pixel comes from in its padded plane: [N, H, W], the same for all channels
    source = (rows + down)[:, :, None] * padded.shape[3] + (columns + across)[:, None, :]
    source = source.reshape(count, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, source).reshape(images.shape)


def standardisation(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images [N, C, H, W], in [0, 1], float64 [C] on the CPU.

    Counted exactly, so they do not depend on the order of the images. A channel that is constant gets the standard
    deviation 1, as there is nothing to divide by.
    """
    counts = torch.stack([torch.bincount(plane.reshape(-1), minlength=256) for plane in images.unbind(1)])
    frequencies = counts.cpu().to(torch.float64) / counts.sum(1, keepdim=True).cpu()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (frequencies * values).sum(1)
    variance = (frequencies * (values - mean[:, None]) ** 2).sum(1)
    constant = (counts > 0).sum(1).cpu() == 1
    return mean, torch.where(constant, 1.0, variance.sqrt())
