import pytest
import torch

from prunus.core.errors import Invalid
from prunus.data import load
from prunus.data.dataset import Decoded, Split, hold_out


def decoded(train=100, test=10, classes=3):
    """Images that are their own number, so that they can be told apart."""

    def split(count, start):
        numbers = torch.arange(start, start + count)
        digits = torch.stack([numbers // 256 % 256, numbers % 256], 1).to(torch.uint8)
        return Split(digits.reshape(count, 2, 1, 1), numbers % classes)

    return Decoded(tuple(f"class {i}" for i in range(classes)), split(train, 0), split(test, train))


def numbers(split):
    high, low = split.images.flatten(1).long().unbind(1)
    return (high * 256 + low).tolist()


@pytest.mark.parametrize(
    ("total", "validation", "held"),
    [
        (60_000, None, 5000),
        (50_000, None, 5000),
        (49_000, None, 4900),
        (100, None, 10),
        (2, None, 1),
        (100, 1, 1),
        (100, 99, 99),
        (100, 0.25, 25),
        (100, 0.999, 99),
        (100, 1e-9, 1),
    ],
)
def test_how_many_are_held_out(total, validation, held):
    data = hold_out("data", decoded(total), validation, seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (total - held, held, 10)


@pytest.mark.parametrize("validation", [0, 100, -1, 1.0, 1.5, 0.0, float("nan"), True, "half"])
def test_a_validation_split_that_cannot_be_is_refused(validation):
    with pytest.raises(Invalid, match=rf"validation is {validation!r}; allowed: .* from 1 to 99"):
        hold_out("data", decoded(100), validation, seed=0)


def test_the_parts_are_disjoint_complete_and_keep_their_labels():
    source = decoded(1000)
    data = hold_out("data", source, None, seed=0)
    assert sorted(numbers(data.train) + numbers(data.validation)) == list(range(1000))
    for split in (data.train, data.validation):
        assert (split.labels == torch.tensor(numbers(split)) % 3).all()
        assert numbers(split) == sorted(numbers(split))
    assert numbers(data.test) == list(range(1000, 1010))


def test_the_split_is_drawn_at_random_from_the_seed_alone():
    source = decoded(1000)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    held = [numbers(hold_out("data", source, 0.5, seed).validation) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert held[0] == held[1] != held[2]
    # each example is as likely to be held out: the mean number of 500 out of 0 … 999 is near 499.5
    assert abs(sum(held[0]) / 500 - 499.5) < 5 * 1000 / 12**0.5 / 500**0.5


def test_moments_are_those_of_the_training_part_alone():
    data = hold_out("data", decoded(1000), None, seed=0)
    values = data.train.images.double().flatten(1) / 255
    torch.testing.assert_close(data.mean, values.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(data.std, values.std(0, correction=0), rtol=1e-12, atol=0)
    assert not torch.equal(data.mean, data.validation.images.double().flatten(1).mean(0) / 255)


def test_the_digest_is_of_images_labels_and_split_and_nothing_else():
    def digest(source=None, name="data", validation=None, seed=0):
        return hold_out(name, source or decoded(), validation, seed).digest

    def changed(what, part):
        source = decoded()
        tensor = getattr(getattr(source, part), what)
        tensor[0] = (tensor[0] + 1) % 3
        return source

    same = {digest(), digest(name="other"), digest(validation=10)}
    different = [digest(seed=1), digest(validation=11), digest(decoded(classes=4))]
    different += [digest(changed(what, part)) for what in ("images", "labels") for part in ("train", "test")]
    assert len(same) == 1
    assert len(same | set(different)) == 1 + len(different)


def test_to_moves_every_tensor():
    data = hold_out("data", decoded(), None, seed=0)
    moved = data.to("meta")
    tensors = [moved.mean, moved.std]
    tensors += [t for s in (moved.train, moved.validation, moved.test) for t in (s.images, s.labels)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.digest, moved.classes, moved.input_shape) == (data.digest, data.classes, (2, 1, 1))


def test_in_unit_range_images_are_only_divided_by_255():
    data = load("digits")
    plain = data.in_unit_range()
    images = data.test.images[:7]
    torch.testing.assert_close(plain.normalise(images), images / 255, rtol=0, atol=1e-7)
    assert plain.digest == data.digest
    standard = data.normalise(data.train.images).double()
    torch.testing.assert_close(standard.mean(), torch.tensor(0.0, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(standard.std(), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-3)


def test_a_part_of_the_training_examples_is_drawn_by_the_seed_and_nothing_else_changes():
    whole = load("digits", validation=97, seed=3)
    part = load("digits", validation=97, seed=3, examples=200)
    again = load("digits", validation=97, seed=3, examples=200)
    assert len(part.train) == 200
    assert torch.equal(part.train.images, again.train.images)
    assert torch.equal(part.validation.images, whole.validation.images)
    assert torch.equal(part.test.labels, whole.test.labels)
    assert part.digest != whole.digest
    known = {image.numpy().tobytes() for image in whole.train.images}
    assert all(image.numpy().tobytes() in known for image in part.train.images)
    assert not torch.equal(part.train.images, load("digits", validation=97, seed=4, examples=200).train.images)
    assert len(load("digits", validation=97, examples=len(whole.train)).train) == len(whole.train)


@pytest.mark.parametrize("examples", [0, -1, True, 10_000_000])
def test_a_part_that_there_is_not(examples):
    with pytest.raises(Invalid, match="examples is"):
        load("digits", examples=examples)
