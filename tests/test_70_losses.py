"""Losses against brute force, pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from geouq.errors import InputError
from geouq.learning.training.extra import Sparse
from geouq.learning.training.freeze import freeze
from geouq.learning.training.losses import (
    LOSSES,
    border_cross_entropy,
    border_weights,
    cross_entropy,
    evaluate_loss,
    focal,
    for_classes,
    parse_loss,
    takes_shares,
)
from geouq.learning.training.regions import lovasz
from geouq.learning.training.train import TrainConfig
from tests.helpers import small_model


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator) * 3
    label = torch.randint(0, 4, (2, 5, 6), generator=generator)
    valid = (torch.rand(2, 5, 6, generator=generator) > 0.3).float()
    return logits, torch.where(valid > 0, label, -1), valid


def by_hand(logits, label, valid, weigh):
    total = count = 0.0
    for n, y, x in valid.nonzero().tolist():
        row = logits[n, :, y, x].tolist()
        k = int(label[n, y, x])
        p = math.exp(row[k]) / sum(map(math.exp, row))
        total -= weigh(p, n, y, x) * math.log(p)
        count += 1
    return total / count


def test_cross_entropy_is_the_mean_over_labelled_pixels(case):
    assert cross_entropy(*case).item() == pytest.approx(by_hand(*case, lambda p, *_: 1), rel=1e-5)
    logits, label, valid = case
    torchs = functional.cross_entropy(logits, label, ignore_index=-1)
    assert cross_entropy(*case).item() == pytest.approx(torchs.item(), rel=1e-6)


def test_focal_against_brute_force(case):
    assert focal(*case).item() == pytest.approx(by_hand(*case, lambda p, *_: (1 - p) ** 2), rel=1e-5)
    assert focal(*case, gamma=0).item() == pytest.approx(cross_entropy(*case).item())


def brute_border(label, strength, sigma):
    masks = []
    for value in set(np.unique(label)) - {0}:
        objects, count = ndimage.label(label == value)
        masks += [np.argwhere(objects == i + 1) for i in range(count)]
    weights = np.ones(label.shape)
    for y, x in np.argwhere(label == 0):
        distances = sorted(min(math.dist((y, x), q) for q in mask) for mask in masks)
        if len(distances) > 1:
            weights[y, x] += strength * math.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return weights


def test_border_weights_against_brute_force():
    rng = np.random.default_rng(1)
    label = (ndimage.gaussian_filter(rng.standard_normal((40, 44)), 2) > 0.08).astype(int)
    label[30:38, 30:40] *= 2
    for sigma in (1.0, 3.0):
        weights = border_weights(label, 10, sigma)
        assert weights.dtype == np.float32 and weights.max() > 2
        assert np.abs(weights - brute_border(label, 10, sigma)).max() < 1e-4
    assert (border_weights(np.zeros((5, 5), int)) == 1).all()


def test_border_cross_entropy_against_brute_force(case):
    logits, label, valid = case
    maps = [brute_border(np.where(v > 0, y, 0), 10, 5) for y, v in zip(label.numpy(), valid.numpy(), strict=True)]
    expected = by_hand(logits, label, valid, lambda p, n, y, x: maps[n][y, x])
    assert border_cross_entropy(logits, label, valid).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_one_logit_is_two_classes_and_what_is_not_valid_counts_for_nothing(name, case):
    logits, label, valid = case[0][:, :1].clone().requires_grad_(), (case[1] > 1).long(), case[2]
    loss = LOSSES[name](logits, torch.where(valid > 0, label, -1), valid)
    loss.backward()
    assert (logits.grad[:, 0][valid == 0] == 0).all() and torch.isfinite(logits.grad).all()
    other = torch.where(valid[:, None] > 0, logits.detach(), 99.0)
    assert LOSSES[name](other, label, valid).item() == pytest.approx(loss.item())
    nothing = LOSSES[name](logits, label, valid * 0)
    assert torch.isfinite(nothing)
    if name in ("bce", "cross_entropy"):
        expected = functional.binary_cross_entropy_with_logits(logits[:, 0][valid > 0], label[valid > 0].float())
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_bce_takes_shares(case):
    logits, share = case[0][:, :1], torch.rand(2, 5, 6)
    expected = functional.binary_cross_entropy_with_logits(logits[:, 0], share)
    assert LOSSES["bce"](logits, share, torch.ones(2, 5, 6)).item() == pytest.approx(expected.item(), rel=1e-5)


# --- by hand: four pixels, the last of which is not valid

ONE = torch.tensor([[[[2.0, -1.0, 0.0, 9.0]]]])  # p of class 1: .8808, .2689, .5
LABEL, VALID = torch.tensor([[[1, 0, 1, 0]]]), torch.tensor([[[1.0, 1.0, 1.0, 0.0]]])
TWO = torch.cat([torch.zeros_like(ONE), ONE], 1)
P = [1 / (1 + math.exp(-x)) for x in (2.0, -1.0, 0.0)]
BOTH, SUM = P[0] + P[2], sum(P)  # Σpy and Σp of class 1; Σy is 2
DRY = (1 - P[1], 3 - SUM, 1)  # the same of class 0


def brute_lovasz(errors, truth):
    """Σ of each error, from the largest on, times what 1 − IoU grows by when this pixel is wrong too."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    total = before = 0.0
    for k in range(1, len(order) + 1):
        wrong = set(order[:k])
        found = {i for i in range(len(truth)) if truth[i] != (i in wrong)}
        wanted = {i for i in range(len(truth)) if truth[i]}
        loss = 1 - len(found & wanted) / max(len(found | wanted), 1)
        total, before = total + errors[order[k - 1]] * (loss - before), loss
    return total


HINGE = brute_lovasz([max(0, 1 - 2), max(0, 1 - 1), 1.0], [True, False, True])
SOFTMAX = (
    brute_lovasz([1 - P[0], P[1], 1 - P[2]], [True, False, True])
    + brute_lovasz([1 - P[0], P[1], 1 - P[2]], [False, True, False])
) / 2
CE = -(math.log(P[0]) + math.log(1 - P[1]) + math.log(P[2])) / 3
BY_HAND = {  # loss → of one logit, of two
    "bce": (CE, None),
    "cross_entropy": (CE, CE),
    "dice": (1 - (2 * BOTH + 1) / (SUM + 3), 1 - ((2 * BOTH + 1) / (SUM + 3) + (2 * DRY[0] + 1) / (DRY[1] + 2)) / 2),
    "jaccard": (
        1 - (BOTH + 1) / (SUM + 2 - BOTH + 1),
        1 - ((BOTH + 1) / (SUM + 3 - BOTH) + (DRY[0] + 1) / (DRY[1] + 2 - DRY[0])) / 2,
    ),
    "tversky(0.2, 0.9)": (1 - (BOTH + 1) / (BOTH + 0.2 * P[1] + 0.9 * (2 - BOTH) + 1), None),
    "tversky(0.5, 0.5)": (1 - (BOTH + 1) / ((SUM + 2) / 2 + 1), None),
    "lovasz": (HINGE, SOFTMAX),
    "focal(0)": (CE, CE),
    "bce + 0.5*dice": (CE + 0.5 * (1 - (2 * BOTH + 1) / (SUM + 3)), None),
}


@pytest.mark.parametrize("loss", BY_HAND)
def test_losses_by_hand(loss):
    for logits, expected in zip((ONE, TWO), BY_HAND[loss], strict=True):
        if expected is not None:
            assert evaluate_loss(loss, logits, (LABEL, VALID)).item() == pytest.approx(expected, rel=1e-5)


def test_class_weights_by_hand():
    parts = [-math.log(P[0]), -math.log(1 - P[1]), -math.log(P[2])]
    weighted = (3 * parts[0] + parts[1] + 3 * parts[2]) / 7
    for loss, logits in (("bce", ONE), ("cross_entropy", ONE), ("cross_entropy", TWO), ("focal(0)", TWO)):
        found = evaluate_loss(loss, logits, (LABEL, VALID), (1.0, 3.0))
        assert found.item() == pytest.approx(weighted, rel=1e-5)
    wet, dry = 1 - (2 * BOTH + 1) / (SUM + 3), 1 - (2 * DRY[0] + 1) / (DRY[1] + 2)
    assert evaluate_loss("dice", TWO, (LABEL, VALID), (1.0, 3.0)).item() == pytest.approx((dry + 3 * wet) / 4, rel=1e-5)
    assert evaluate_loss("dice", ONE, (LABEL, VALID), (1.0, 3.0)).item() == pytest.approx(wet, rel=1e-5)


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("loss", [*(name for name in LOSSES if not name.startswith("bce")), "cross_entropy + lovasz"])
def test_losses_of_every_number_of_logits(loss, classes, case):
    """What is not valid changes nothing, gradients are finite, and nothing is better than what is right throughout."""
    label = torch.where(case[2] > 0, case[1].clamp(max=max(classes, 2) - 1), -1)
    logits, valid = case[0][:, :classes].clone().requires_grad_(), case[2]
    found = evaluate_loss(loss, logits, (label, valid))
    found.backward()
    assert torch.isfinite(logits.grad).all() and (logits.grad.movedim(1, -1)[valid == 0] == 0).all()
    assert logits.grad.abs().sum() > 0
    changed = torch.where(valid[:, None] > 0, logits.detach(), 50.0), torch.where(valid > 0, label, 1)
    assert evaluate_loss(loss, changed[0], (changed[1], valid)).item() == pytest.approx(found.item(), rel=1e-6)
    wanted = label.clamp(min=0)
    right = (2.0 * wanted - 1)[:, None] * 30 if classes == 1 else functional.one_hot(wanted, classes).movedim(3, 1) * 30
    least = evaluate_loss(loss, right.float(), (label, valid)).item()
    assert -1e-6 < least < 1e-3 < found.item()
    assert torch.isfinite(evaluate_loss(loss, logits, (label, valid * 0)))


def test_lovasz_is_the_iou_loss_where_predictions_are_sure():
    label = torch.tensor([[[1, 1, 1, 0, 0, 0]]])
    wrong = torch.tensor([[[[30.0, 30.0, -30.0, 30.0, -30.0, -30.0]]]])  # IoU 2 of 4
    two = torch.cat([-wrong, wrong], 1)
    assert lovasz(two, label, torch.ones(1, 1, 6)).item() == pytest.approx(1 - (2 / 4 + 2 / 4) / 2, abs=1e-5)


@pytest.mark.parametrize(
    "loss, says",
    [
        ("best", "'best' is none of bce"),
        ("bce + ", "is none of bce"),
        ("bce(3)", "takes no parameters"),
        ("tversky(1, 2, 3)", "takes alpha, beta"),
        ("2x * dice", "no number"),
        ("focal(two)", "no number"),
        ("-1 * dice", "below 0"),
        ("nan * dice", "not finite"),
    ],
)
def test_losses_that_are_none_are_named(loss, says):
    with pytest.raises(InputError) as caught:
        TrainConfig(loss=loss)
    assert says in str(caught.value)


def test_what_a_loss_says():
    assert parse_loss("1e+1 * tversky(0.3, 7e-1)+bce")[0] == (10.0, "tversky", (0.3, 0.7))
    assert takes_shares("bce + 2 * jaccard") and not takes_shares("bce + lovasz") and not takes_shares("ssn")
    assert (
        for_classes("bce + 0.5 * dice") == "cross_entropy + 0.5 * dice" and for_classes("bce_dice") == "cross_entropy"
    )
    for wrong in ("even", (1.0, 0.0), (1.0, math.inf)):
        with pytest.raises(InputError, match="class_weights"):
            TrainConfig(class_weights=wrong)


def test_a_sum_needs_no_spaces():
    assert parse_loss("bce+dice") == parse_loss("bce + dice") and parse_loss("1e+1*bce") == parse_loss("10 * bce")


def test_parts_are_named_alike_whatever_loss_is_added():
    network = small_model().network
    freeze(Sparse(network, "head", (0.3, 0.1, 0.3)), ["down.0"])
    assert not network.down[0].training and network.down[1].training
