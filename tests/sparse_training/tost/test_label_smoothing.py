from math import log

import pytest
import torch
from torch.nn import functional as F

from prunus.core.errors import Invalid
from prunus.sparse_training.tost import LabelSmoothing


def drawn(*shape, classes=5):
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, classes, generator=draws, dtype=torch.float64)
    return logits, torch.randint(classes, shape, generator=draws)


def test_the_target_is_one_less_a_on_the_true_class_and_its_share_elsewhere():
    logits, labels = drawn(7)
    target = torch.full((7, 5), 0.3 / 4, dtype=torch.float64)
    target[range(7), labels] = 0.7
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(LabelSmoothing(0.3)(logits, labels), expected)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_pytorch_spreads_over_all_classes(classes):
    logits, labels = drawn(20, classes=classes)
    spread = F.cross_entropy(logits, labels, label_smoothing=0.1 * classes / (classes - 1))
    torch.testing.assert_close(LabelSmoothing(0.1)(logits, labels), spread)


def test_the_least_loss_is_the_entropy_of_the_target():
    logits = torch.tensor([[log(0.9), log(0.05), log(0.05)]], dtype=torch.float64)
    entropy = -0.9 * log(0.9) - 0.1 * log(0.05)
    assert float(LabelSmoothing(0.1)(logits, torch.tensor([0]))) == pytest.approx(entropy)


def test_plain_cross_entropy_afterwards():
    logits, labels = drawn(20)
    loss = LabelSmoothing(0.1, 10, until=0.3)
    for turn in range(6):
        assert torch.equal(loss(logits, labels), F.cross_entropy(logits, labels)) == (turn >= 3)
        loss.step()


def test_without_a_length_it_goes_on_until_it_is_finished():
    logits, labels = drawn(20)
    loss = LabelSmoothing()
    for _ in range(1000):
        loss.step()
    assert not torch.equal(loss(logits, labels), F.cross_entropy(logits, labels))
    loss.finish()
    assert torch.equal(loss(logits, labels), F.cross_entropy(logits, labels))


def test_tokens_and_pixels_are_rows_too_and_some_may_be_left_out():
    logits, labels = drawn(4, 6)
    loss = LabelSmoothing(0.2)
    rows = loss(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(loss(logits, labels), rows)
    torch.testing.assert_close(loss(logits.movedim(-1, 1), labels), rows)
    labels[0] = -100
    torch.testing.assert_close(loss(logits, labels), loss(logits[1:], labels[1:]))


def test_no_smoothing_is_cross_entropy():
    logits, labels = drawn(20)
    assert torch.equal(LabelSmoothing(0)(logits, labels), F.cross_entropy(logits, labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": 1}, r"smoothing is 1; allowed: a number in \[0, 1\)"),
        ({"smoothing": -0.1}, "smoothing is -0.1"),
        ({"until": 0.5}, "until is 0.5 without total_steps"),
        ({"until": 0.5, "total_steps": True}, "total_steps is True"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(Invalid, match=message):
        LabelSmoothing(**options)


def test_so_much_smoothing_needs_more_classes():
    with pytest.raises(Invalid, match=r"smoothing is 0.7; allowed: at most 0.5 for 2 classes"):
        LabelSmoothing(0.7)(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
