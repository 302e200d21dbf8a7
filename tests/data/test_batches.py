import torch
from hypothesis import given
from hypothesis import strategies as st

from prunus.core.seeds import generator
from prunus.data import augment, normalise
from prunus.data.batches import standardisation


def some_images(count, channels, height, width, seed=0):
    draws = generator(seed, "images")
    return torch.randint(0, 256, (count, channels, height, width), generator=draws, dtype=torch.uint8)


def augmented_one_by_one(images, draws, pad, flip):
    """Crop and flip as the documentation says it, an image at a time, with the documented order of draws."""
    count, channels, height, width = images.shape
    down = torch.randint(2 * pad + 1, (count,), generator=draws)
    across = torch.randint(2 * pad + 1, (count,), generator=draws)
    flips = torch.randint(2, (count,), generator=draws) if flip else torch.zeros(count)
    out = []
    for image, top, left, mirrored in zip(images, down.tolist(), across.tolist(), flips.tolist(), strict=True):
        canvas = torch.zeros(channels, height + 2 * pad, width + 2 * pad, dtype=images.dtype)
        canvas[:, pad : pad + height, pad : pad + width] = image
        crop = canvas[:, top : top + height, left : left + width]
        out.append(crop.flip(2) if mirrored else crop)
    return torch.stack(out)


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(0, 5), st.booleans())
def test_augment_equals_the_reference_image_by_image(count, channels, height, width, pad, flip):
    images = some_images(count, channels, height, width)
    result = augment(images, generator(1), pad, flip)
    assert torch.equal(result, augmented_one_by_one(images, generator(1), pad, flip))
    assert result.dtype == torch.uint8
    assert result.is_contiguous()


def test_every_offset_and_both_sides_are_equally_likely():
    count, side, pad = 20_000, 8, 2
    # every pixel of the image is another number, so what came out says where it was cut and whether it was flipped
    image = torch.arange(1, side * side + 1, dtype=torch.uint8).reshape(1, 1, side, side)
    result = augment(image.expand(count, 1, side, side), generator(0), pad).int()
    middle = result[:, 0, side // 2, side // 2 - 1 : side // 2 + 1]
    flipped = middle[:, 1] < middle[:, 0]
    row, column = (middle[:, 0] - 1) // side - side // 2, (middle[:, 0] - 1) % side
    column = torch.where(flipped, column - side // 2, column - (side // 2 - 1))
    cells = ((row + pad) * (2 * pad + 1) + column + pad) * 2 + flipped
    counts = torch.bincount(cells, minlength=2 * (2 * pad + 1) ** 2).double()
    expected = count / len(counts)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert len(counts) == 50
    assert chi_square < 49 + 5 * (2 * 49) ** 0.5  # five standard deviations above its mean
    assert abs(flipped.double().mean() - 0.5) < 5 * 0.5 / count**0.5


def test_augment_pads_with_black_and_leaves_its_input_and_the_global_generator():
    images = torch.full((500, 3, 4, 4), 255, dtype=torch.uint8)
    before = torch.get_rng_state()
    result = augment(images, generator(0), pad=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert (images == 255).all()
    assert set(result.unique().tolist()) == {0, 255}
    assert (result == result[:, :1]).all()  # all channels move together


def test_nothing_to_do_is_the_identity():
    images = some_images(5, 3, 6, 4)
    assert torch.equal(augment(images, generator(0), pad=0, flip=False), images)


def test_normalise_is_the_formula():
    images = some_images(6, 3, 5, 4)
    mean, std = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), torch.tensor([0.2, 1.0, 0.05]).double()
    result = normalise(images, mean, std)
    expected = (images.double() / 255 - mean[:, None, None]) / std[:, None, None]
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-5)


def test_images_normalised_by_their_own_moments_have_mean_0_and_deviation_1():
    images = some_images(300, 3, 5, 4) // torch.tensor([1, 2, 5], dtype=torch.uint8)[:, None, None]
    mean, std = standardisation(images)
    assert mean.dtype == std.dtype == torch.float64
    scaled = normalise(images, mean, std).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(scaled.mean(1), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(scaled.std(1, correction=0), torch.ones(3).double(), rtol=0, atol=1e-6)


def test_a_constant_channel_is_not_divided_by_zero():
    images = torch.full((4, 2, 3, 3), 51, dtype=torch.uint8)
    images[0, 1] = 0
    mean, std = standardisation(images)
    assert std[0] == 1
    assert std[1] < 1
    assert normalise(images, mean, std)[:, 0].abs().max() < 1e-6
