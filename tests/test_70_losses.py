"""Losses against brute force, pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from geouq.learning.training.losses import LOSSES, border_cross_entropy, border_weights, cross_entropy, focal


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
