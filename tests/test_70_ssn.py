"""The SSN's loss and training, several raters, and how samples are compared with them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from geouq.errors import InputError
from geouq.grid import Roi
from geouq.learning.data.chip import one_rater
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.loading import load_label
from geouq.learning.judging.agreement import Agreement
from geouq.learning.judging.evaluate import evaluate
from geouq.learning.training.fit import FitOptions, train_model
from geouq.learning.training.ssn_loss import Integral, draw, log_likelihoods, ssn_nll, usable
from geouq.learning.training.train import Judge, TrainConfig, train
from geouq.networks.model import Model
from geouq.networks.ssn import SSN, Distribution
from geouq.networks.unet import UNet, UNetConfig
from tests.helpers import small_ssn


def distribution(rank=3, classes=1, images=2, seed=0) -> Distribution:
    torch.manual_seed(seed)
    shape = (images, classes, 6, 5)
    return Distribution(torch.randn(shape), torch.rand(shape), torch.randn(images, rank, classes, 6, 5))


def generator(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the loss


@pytest.mark.parametrize("classes", [1, 3])
def test_the_loss_is_its_definition(classes):
    d, valid = distribution(classes=classes), (torch.rand(2, 6, 5) > 0.3).float()
    label = torch.randint(0, max(classes, 2), (2, 6, 5)).float()
    label[valid == 0] = torch.nan if classes == 1 else -1
    loss, left_out = ssn_nll(d, label, valid, Integral(7, antithetic=False), generator())
    logits = draw(usable(d, valid)[0], Integral(7, antithetic=False), generator()).double().numpy()
    p = 1 / (1 + np.exp(-logits)) if classes == 1 else np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    p = np.concatenate([1 - p, p], 2) if classes == 1 else p
    total = 0.0
    for n in range(2):
        where = np.nonzero(valid[n].numpy())
        picked = p[:, n, label[n][where].long().numpy(), where[0], where[1]]
        total -= math.log(np.mean(picked.prod(1)))
    assert float(loss) == pytest.approx(total / 2 / (float(valid.sum()) / 2), rel=1e-5)
    assert left_out == 0


def test_draws_have_the_distributions_moments_and_are_antithetic():
    d = distribution()
    drawn = draw(d, Integral(40_000), generator())
    assert torch.allclose(drawn[:20_000] + drawn[20_000:], 2 * d.mean.expand(20_000, -1, -1, -1, -1), atol=1e-4)
    flat = drawn[:, 0].flatten(1).double()
    flat = flat - flat.mean(0)
    factor, diagonal = d.factor[0].flatten(1).double(), d.diagonal[0].flatten().double()
    expected = factor.T @ factor + torch.diag(diagonal)
    assert (flat.T @ flat / len(flat) - expected).abs().max() < 0.15 * expected.max()
    assert len(draw(d, Integral(5), generator())) == 5


def test_a_long_unlikely_map_stays_finite():
    d = Distribution(torch.full((1, 1, 300, 300), -40.0), torch.ones(1, 1, 300, 300), torch.zeros(1, 2, 1, 300, 300))
    d.mean.requires_grad_()
    loss, _ = ssn_nll(d, torch.ones(1, 300, 300), torch.ones(1, 300, 300), Integral(4), generator())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(40, abs=0.1) and torch.isfinite(d.mean.grad).all()


def test_what_is_not_valid_counts_for_nothing():
    d, label = distribution(), torch.ones(2, 6, 5)
    valid = torch.ones(2, 6, 5)
    valid[:, :, 3:] = 0
    parts = [p.clone().requires_grad_() for p in d]
    loss, _ = ssn_nll(Distribution(*parts), label, valid, Integral(), generator())
    loss.backward()
    assert all((p.grad[..., 3:] == 0).all() and (p.grad[..., :3] != 0).any() for p in parts)


def test_a_factor_out_of_bounds_is_left_out_and_counted():
    d = distribution()
    d.factor[1, 0, 0, 2, 2] = 1e9
    loss, left_out = ssn_nll(d, torch.ones(2, 6, 5), torch.ones(2, 6, 5), Integral(), generator())
    assert left_out == 1 and torch.isfinite(loss)
    kept, _ = usable(d, torch.ones(2, 6, 5))
    assert (kept.factor[1] == 0).all() and torch.equal(kept.factor[0], d.factor[0])
    d.factor[1, 0, 0, 2, 2] = torch.nan
    assert ssn_nll(d, torch.ones(2, 6, 5), torch.ones(2, 6, 5), Integral(), generator())[1] == 1


def test_low_rank_learns_that_pixels_go_together_and_a_diagonal_cannot():
    """The paper's toy in small: two raters who differ on 8 pixels at once; best −ln 2, independent −8 ln 2."""
    raters = torch.zeros(2, 1, 8)
    raters[1] = 1
    found = {}
    for rank in (1, 0):
        rng, parts = generator(), [torch.zeros(1, 1, 1, 8), torch.full((1, 1, 1, 8), -3.0)]
        parts.append(torch.randn(1, rank, 1, 1, 8, generator=rng))
        parts = [p.requires_grad_() for p in parts]
        optimiser = torch.optim.Adam(parts, lr=1.0)
        for _ in range(160):
            mean, logarithm, factor = (p.expand(2, *p.shape[1:]) for p in parts)
            d = Distribution(mean, logarithm.clamp(-10, 10).exp(), factor)
            loss, _ = ssn_nll(d, raters, torch.ones(2, 1, 8), Integral(60), rng)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        log_p = log_likelihoods(draw(d, Integral(20_000), rng), raters, torch.ones(2, 1, 8))
        found[rank] = float((torch.logsumexp(log_p, 0) - math.log(20_000)).mean().detach())
    assert found[1] > -math.log(2) - 0.25
    assert found[0] == pytest.approx(-8 * math.log(2), abs=0.1)


# --- training


def test_training_begins_with_the_mean_and_reports_fallbacks():
    network = SSN(UNet(UNetConfig(widths=(4, 6), classes=5, dropout={})), 1, 3)
    before = network.network.head.weight.clone()
    pixels, label = np.random.default_rng(0).normal(size=(2, 2, 16, 16)).astype(np.float32), np.ones((2, 16, 16))
    batch = pixels, label.astype(np.float32), np.ones((2, 16, 16), bool)
    rows: list = []
    config = TrainConfig(steps=4, every=2, loss="ssn", mean_steps=2, average=0.0, decay=0.0, optimiser="adam")
    heads = []
    train(
        network,
        lambda step: batch,
        config,
        on_step=lambda step, loss: heads.append(network.network.head.weight.detach().clone()),
        judge=Judge(lambda n: {"val_loss": 0.0}, lambda r: rows.append(r[-1])),
    )
    assert torch.equal(heads[1][1:], before[1:]) and not torch.equal(heads[1][:1], before[:1])
    assert not torch.equal(heads[3][2:], before[2:])
    assert rows[-1]["fallbacks"] == 0
    with pytest.raises(InputError, match="Stochastic Segmentation"):
        train(UNet(UNetConfig(widths=(4, 6), dropout={})), lambda step: batch, config)


def dataset(folder, raters=3):
    """Two places of two pictures each, a square that raters see at unequal sizes."""
    rng = np.random.default_rng(1)
    rows = ["image,label,place,units,bands"]
    for i in range(4):
        pixels = rng.integers(0, 60, (40, 40)).astype(np.uint8)
        pixels[10:25, 10:25] += 120
        Image.fromarray(pixels).save(folder / f"i{i}.png")
        for r in range(raters):
            label = np.zeros((40, 40), np.uint8)
            label[10 - 2 * r : 25 + 2 * r, 10 - 2 * r : 25 + 2 * r] = 1
            Image.fromarray(label).save(folder / f"l{i}_{r}.png")
        labels = ";".join(f"l{i}_{r}.png" for r in range(raters))
        rows.append(f"i{i}.png,{labels},place{i % 2},rgb,grey")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_several_raters_of_one_image(tmp_path):
    chips = read_dataset(dataset(tmp_path))
    assert [len(chip.by_rater()) for chip in chips] == [3] * 4
    rng = np.random.default_rng(0)
    drawn = [one_rater(chips[0], rng) for _ in range(60)]
    assert {chip.label.name for chip in drawn} == {"l0_0.png", "l0_1.png", "l0_2.png"} and not drawn[0].raters
    whole = load_label(drawn[0], Roi(0, 40, 0, 40))
    assert whole.sum() in (15**2, 19**2, 23**2)
    single = read_dataset(dataset(tmp_path, raters=1))[0]
    state = rng.bit_generator.state
    assert one_rater(single, rng) is single and rng.bit_generator.state == state


def test_the_recipe_trains_an_ssn_on_several_raters(tmp_path):
    data, out = dataset(tmp_path), tmp_path / "run"
    path = train_model(data, "ssn", out, FitOptions(steps=3, validation=("place1",)))
    model = Model.load(path)
    assert model.spec.sampler == "ssn" and model.spec.correlation == 256 and isinstance(model.network, SSN)
    assert model.network.rank == 10 and "val_loss" in model.spec.scores
    assert "fallbacks" in (out / "log.csv").read_text()


def test_a_fresh_head_has_small_deviations():
    model = small_ssn()
    parts = model.network.split(model.network(torch.randn(1, 2, 16, 16)))
    assert parts.mean.shape == (1, 1, 16, 16) and parts.factor.shape == (1, 3, 1, 16, 16)
    network = SSN(UNet(UNetConfig(widths=(4, 6), classes=5)), 1, 3).start_near_mean(0.0, -3.0)
    parts = network.split(network(torch.randn(1, 2, 16, 16)))
    assert torch.allclose(parts.diagonal, torch.tensor(math.exp(-3) + 1e-5))


# --- samples against raters


def by_definition(samples, raters):
    def d(a, b):
        a, b = a.astype(bool), b.astype(bool)
        return 1 - (1.0 if not (a | b).any() else (a & b).sum() / (a | b).sum())

    across = np.mean([d(s, y) for s in samples for y in raters])
    among, between = ([d(a, b) for a in maps for b in maps] for maps in (samples, raters))
    return across, np.array(among), np.array(between)


def test_ged_is_its_definition_biased_and_unbiased():
    rng = np.random.default_rng(3)
    samples, raters, mask = rng.random((5, 90)) < 0.3, rng.random((3, 90)) < 0.4, rng.random(90) < 0.3
    samples[0] = raters[0] = False
    agreement = Agreement(5, 3)
    agreement.add(samples[:, :40], mask[:40], raters[:, :40])
    agreement.add(samples[:, 40:], mask[40:], raters[:, 40:])
    found = agreement.scores()
    across, among, between = by_definition(samples, raters)
    assert found["ged"] == pytest.approx(2 * across - among.mean() - between.mean())
    assert found["diversity"] == pytest.approx(among.mean())
    unbiased = 2 * across - among.sum() / 20 - between.sum() / 6
    assert found["ged_unbiased"] == pytest.approx(unbiased)
    dice = [2 * (mask & r).sum() / (mask.sum() + r.sum()) for r in raters]
    assert found["dice_raters"] == pytest.approx(np.mean(dice))


def test_ged_of_equal_sets_is_zero_and_of_one_empty_pair_too():
    maps = np.random.default_rng(0).random((4, 50)) < 0.5
    agreement = Agreement(4, 4)
    agreement.add(maps, maps[0], maps)
    assert agreement.scores()["ged"] == pytest.approx(0, abs=1e-12)
    empty = Agreement(1, 1)
    empty.add(np.zeros((1, 9)), np.zeros(9), np.zeros((1, 9)))
    scores = empty.scores()
    assert scores["ged"] == 0 and math.isnan(scores["dice_raters"]) and math.isnan(scores["ged_unbiased"])


def test_evaluate_scores_samples_against_all_raters(tmp_path):
    chips = read_dataset(dataset(tmp_path))
    model = small_ssn(bands=1).with_spec(units="rgb", mean=(128.0,), std=(60.0,), clip=(0.0, 255.0), bands=("grey",))
    found = evaluate(model, chips, samples=6, most_pictures=0).scores
    assert found["sampler"] == "ssn" and found["chips"][0]["raters"] == 3
    again = evaluate([model, model.with_spec(spread=0.0)], chips, samples=6, most_pictures=0).scores
    assert again["sampler"] == "ensemble"
    assert 0 < again["agreement"]["diversity"] < 1 and found["agreement"]["ged"] > 0
    once = evaluate(model, chips, samples=0, most_pictures=0).scores["agreement"]
    assert once["diversity"] == 0 and once["ged_unbiased"] is None
