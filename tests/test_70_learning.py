from dataclasses import replace

import numpy as np
import pytest
import torch

from geouq.errors import InputError
from geouq.learning.data.augment import (
    WINDY_SEA_VH,
    Augmentation,
    Group,
    Pool,
    darken,
    draw_example,
    draw_fields,
    draw_piece,
    draw_shape,
    paint_water,
)
from geouq.learning.data.dataset import read_dataset, read_outlines
from geouq.learning.data.examples import Example, simulate_examples
from geouq.learning.data.layouts import public_chips
from geouq.learning.data.loading import load
from geouq.learning.training.losses import bce, bce_dice
from geouq.learning.training.regions import dice
from geouq.learning.training.train import TrainConfig, draw_masks, schedule, seed_weights, train
from geouq.networks.sites import find_sites
from geouq.networks.unet import UNet, UNetConfig
from tests.shared import SHARED

DATA = SHARED / "s1"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="labelled chips (../shared/data/s1) are not here")
SMALL = Augmentation()


@pytest.fixture(scope="module")
def chips():
    rng = np.random.default_rng(0)
    label = np.zeros((64, 64), np.uint8)
    label[:, 30:] = 1
    pixels = np.stack([np.where(label, -22, -9), np.where(label, -29, -16)]) + rng.normal(0, 1.5, (2, 64, 64))
    pixels[:, :4] = np.nan
    valid = np.isfinite(pixels).any(0)
    wet = Example(pixels.astype(np.float32), label, valid)
    dry = Example(np.full((2, 64, 64), [[[-9.0]], [[-16.0]]], np.float32), label * 0, np.ones_like(valid))
    return [wet, dry]


def draw_from(chips, how, rng):
    readers = [lambda c=c: c for c in chips]
    return draw_example(
        Pool([Group([r]) for r in readers], [Group([r]) for r in readers if r().label.any()]), [], 32, how, rng
    )


def network():
    config = UNetConfig(widths=(4, 8), stem=2, dropout={"bottleneck": 0.2, "decoder": 0.2})
    return seed_weights(UNet(config), 0)


def source(chips):
    def batches(step):
        rng = np.random.default_rng([0, step])
        pixels, label, valid = (
            np.stack(p) for p in zip(*(draw_from(chips, SMALL, rng) for _ in range(4)), strict=True)
        )
        return np.nan_to_num((pixels + 15) / 6), label, valid

    return batches


# -- losses


def test_losses_see_valid_pixels_only():
    logits, label = torch.tensor([[[[2.0, -3.0, 50.0]]]]), torch.tensor([[[1.0, 0.0, 0.0]]])
    valid = torch.tensor([[[1.0, 1.0, 0.0]]])
    for loss in (bce, dice, bce_dice):
        changed = logits.clone()
        changed[..., 2] = -7
        assert loss(logits, label, valid) == loss(changed, label, valid)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0, :, :2], label[..., :2])
    assert bce(logits, label, valid).item() == pytest.approx(expected.item())


def test_losses_are_small_when_right_and_finite_when_nothing_is_valid():
    label = torch.tensor([[[1.0, 0.0]]])
    right = (label * 2 - 1)[:, None] * 20
    ones = torch.ones_like(label)
    assert bce_dice(right, label, ones) < 1e-3 < 1 < bce_dice(-right, label, ones)
    assert torch.isfinite(bce_dice(right, label, ones * 0))
    assert dice(torch.full((1, 1, 4, 4), -20.0), torch.zeros(1, 4, 4), torch.ones(1, 4, 4)) < 1e-3


# -- augmentation


def test_a_batch_is_a_function_of_seed_and_step(chips):
    one, two = source(chips), source(chips)
    assert all(np.array_equal(a, b) for a, b in zip(one(5), two(5), strict=True))
    assert not np.array_equal(one(5)[0], one(6)[0])


def test_examples_have_shape_and_valid_pixels_are_measured(chips):
    rng = np.random.default_rng(1)
    for _ in range(40):
        pixels, label, valid = draw_from(chips, SMALL, rng)
        assert pixels.shape == (2, 32, 32) and pixels.dtype == np.float32
        assert label.shape == valid.shape == (32, 32) and set(np.unique(label)) <= {0, 1}
        assert np.isfinite(pixels).any(0)[valid].all()


def test_chips_are_not_changed_by_drawing_from_them(chips):
    before = [c.pixels.copy() for c in chips]
    rng = np.random.default_rng(2)
    for _ in range(20):
        draw_from(chips, SMALL, rng)
    assert all(np.array_equal(a, c.pixels, equal_nan=True) for a, c in zip(before, chips, strict=True))


def test_painted_water_is_dark_in_vh_and_leaves_the_rest(chips):
    rng = np.random.default_rng(3)
    dry = chips[1].pixels + rng.normal(0, 1, (2, 64, 64)).astype(np.float32)
    shape = np.zeros((64, 64), bool)
    shape[20:40, 20:40] = True
    for _ in range(20):
        painted = paint_water(dry, shape, rng)
        assert np.median(painted[1][shape]) < np.median(dry[1]) - 2
        assert np.allclose(painted[:, :10], dry[:, :10], atol=1e-3)


def test_shapes_are_bool_squares_with_both_sides():
    rng = np.random.default_rng(4)
    outline = np.zeros((50, 40), bool)
    outline[10:30, 10:30] = True
    shares = [draw_shape([outline], 32, rng).mean() for _ in range(30)]
    assert draw_shape([], 32, rng).shape == (32, 32) and 0.05 < np.mean(shares) < 0.9


def test_water_without_land_in_sight_is_no_dry_grassland():
    """Wind raises VV, and VH hardly: on ground at VV -13, VH -22 dB nothing else tells grass from sea."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        ground = np.stack([rng.normal(level, 1.5, (48, 48)) for level in (-13, -22)]).astype(np.float32)
        sea = paint_water(ground, np.ones((48, 48), bool), rng)
        assert np.median(sea[1]) < WINDY_SEA_VH + 0.5
        grass = darken(ground + 5, rng)
        vv, vh = np.median(grass, axis=(1, 2))
        assert -24.1 < vh < -16.9 and vv - vh < 11.1


def test_fields_are_patches_of_their_own_darkness():
    rng = np.random.default_rng(5)
    for _ in range(10):
        fields = draw_fields(64, rng)
        assert fields.shape == (64, 64) and 0 <= fields.min() and fields.max() <= 1.001


@pytest.mark.parametrize(
    ("step", "sums"),
    [
        (0, (-141856.621, -260028.17, 9097, 15553, 9854)),
        (1, (-141458.137, -255473.816, 5588, 16384, 8192)),
        (2, (-199323.26, -226739.7, 2477, 15643, 5578)),
    ],
)
def test_draws_stay_what_they_were(step, sums):
    """Sums of VV, VH, water, valid and missing pixels. VH of step 0 holds water without land in sight."""
    real = [lambda s=s: s for s in simulate_examples(3, 100, 300)]
    made = [lambda s=s: s for s in simulate_examples(2, 0, 200)]
    outline = np.zeros((90, 70), bool)
    outline[20:60, 10:40] = True
    rng = np.random.default_rng([7, step])
    drawn = [
        draw_example(Pool([Group(real)], [Group(real)], [Group(made)]), [outline], 64, Augmentation(), rng)
        for _ in range(4)
    ]
    pixels, label, valid = (np.stack(part) for part in zip(*drawn, strict=True))
    found = (*np.nansum(pixels.astype(float), (0, 2, 3)), label.sum(), valid.sum(), np.isnan(pixels).sum())
    assert found == pytest.approx(sums, rel=1e-5)


def test_dimmed_land_stays_land(chips):
    rng = np.random.default_rng(6)
    how = replace(SMALL, paint=0, roughen=0, dim=1, speckle=0, gain_db=0, wedge=0, no_vv=0, no_vh=0, zoom=0)
    examples = [draw_from(chips[1:], how, rng) for _ in range(10)]
    assert min(p[0].min() for p, _, _ in examples) < -12 and all(not y.any() for _, y, _ in examples)
    assert all((p[1] - -16 >= p[0] - -9 - 1e-3).all() for p, _, _ in examples)


# -- training


def test_training_learns_the_lake(chips):
    losses = []
    config = TrainConfig(steps=60, warmup=5, rate=1e-2, average=0.9)
    trained = train(network(), source(chips), config, on_step=lambda step, loss: losses.append(loss))
    assert np.mean(losses[-8:]) < 0.75 * np.mean(losses[:8])
    assert not trained.training and all(site.mask is None for site in find_sites(trained).values())


def test_training_repeats_to_the_bit_and_resumes_to_the_bit(chips, tmp_path):
    torch.set_num_threads(1)
    config = TrainConfig(steps=6, warmup=2, every=3)
    whole = train(network(), source(chips), config).state_dict()
    again = train(network(), source(chips), config).state_dict()

    class Stop(Exception):
        pass

    def stop(step, loss):
        if step == 4:
            raise Stop

    file = tmp_path / "run.checkpoint"
    with pytest.raises(Stop):
        train(network(), source(chips), config, checkpoint=file, on_step=stop)
    resumed = train(network(), source(chips), config, checkpoint=file).state_dict()
    for name, value in whole.items():
        assert torch.equal(value, again[name]) and torch.equal(value, resumed[name]), name
    with pytest.raises(InputError, match="other settings"):
        train(network(), source(chips), replace(config, rate=1e-4), checkpoint=file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40  # one bit of a weight: the file opens as before
    file.write_bytes(content)
    with pytest.raises(InputError, match="no readable checkpoint"):
        train(network(), source(chips), config, checkpoint=file)


def test_schedule_rises_and_falls():
    config = TrainConfig(steps=100, warmup=10)
    rates = [schedule(s, config) for s in range(100)]
    assert np.argmax(rates) in (9, 10) and max(rates) == pytest.approx(1) and rates[-1] < 0.01


def test_masks_are_whole_channels_scaled_and_seeded():
    net = network()
    masks = draw_masks(net, 500, torch.Generator().manual_seed(0))
    again = draw_masks(net, 500, torch.Generator().manual_seed(0))
    assert set(masks) == {"bottleneck", "decoder.0"}
    for name, mask in masks.items():
        assert mask.shape[2:] == (1, 1) and torch.equal(mask, again[name])
        assert set(mask.unique().tolist()) == {0.0, 1.25}
        assert mask.mean() == pytest.approx(1, abs=0.05)


def test_seeded_weights_do_not_touch_the_global_generator():
    torch.manual_seed(11)
    expected = torch.rand(3)
    net = UNet(UNetConfig(widths=(4, 8)))
    torch.manual_seed(11)
    seed_weights(net, 5)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(net.head.weight, seed_weights(UNet(net.config), 5).head.weight)


# -- data


def test_simulated_pieces_are_examples():
    piece = simulate_examples(1, seed=3, size=64)[0]
    assert piece.pixels.shape == (2, 64, 64) and piece.pixels.dtype == np.float32
    assert np.isfinite(piece.pixels).all(0)[piece.valid].all() and set(np.unique(piece.label)) <= {0, 1}


def test_patches_that_share_a_tile_or_an_acquisition_are_one_place(tmp_path):
    folder = tmp_path / "bigearthnet"
    folder.mkdir()
    for name in ("S1A_20170101_T1_0_1", "S1A_20170101_T2_0_1", "S1B_20170109_T2_0_2", "S1B_20180101_T3_0_1"):
        for what in ("S1", "water"):
            (folder / f"{name}_{what}.tif").touch()
    scene = "S1A_IW_GRDH_1SDV"
    rows = [("S1A_20170101_T1_0_1", "a", "T1"), ("S1A_20170101_T2_0_1", "a", "T2"), ("S1B_20170109_T2_0_2", "b", "T2")]
    rows += [("S1B_20180101_T3_0_1", "c", "T3")]
    lines = [f"{name},Here,{scene}_{when},{scene}_{when}_{tile}_0_1" for name, when, tile in rows]
    (folder / "chips.csv").write_text("\n".join(["id,where,s1_scene,s1", *lines]))
    assert [chip.place for chip in public_chips(tmp_path)] == ["Here-T1"] * 3 + ["Here-T3"]


@pytest.mark.parametrize("weight, share", [(1.0, 0.5), (3.0, 0.75)])
def test_groups_are_drawn_by_their_weight(weight, share):
    many, one = ([lambda n=n: Example(np.full((2, 4, 4), n), np.zeros((4, 4)), np.ones((4, 4), bool))] for n in (1, 2))
    rng = np.random.default_rng(0)
    drawn = [draw_piece([Group(many * 50), Group(one, weight)], rng).pixels[0, 0, 0] for _ in range(400)]
    assert np.mean(np.array(drawn) == 2) == pytest.approx(share, abs=0.07)


@needs_data
def test_the_public_chips_are_read_as_backscatter():
    chips = {c.name: c for c in read_dataset(DATA)}
    assert {"India_900498", "Spain_7370579", "USA_905409", "jja10", "awc00"} <= set(chips)
    assert chips["Spain_7370579"].place == chips["Spain_6860600"].place == "Spain"
    water = {}
    for chip in chips.values():
        pixels, label, valid = load(chip, ("VV", "VH"), "dB")
        if valid.any():
            vv, vh = (np.nanmedian(band) for band in pixels)
            assert -31 < vv < -5 and vh < vv + 1.1 and pixels.dtype == np.float32, chip.name
            water[chip.name] = (label[valid] == 1).mean(), valid.mean()
    assert water["India_900498"][0] == pytest.approx(0.473, abs=0.002)
    assert water["awc00"][1] == pytest.approx(0.73, abs=0.01)
    sea, dry = water["opera-292318-IW2-20211201"], water["opera-292323-IW2-20211201"]
    assert sea[0] == 1 and dry[0] == 0 and min(sea[1], dry[1]) > 0.9
    assert water["terramind-38D_378R_2_3"][0] == water["ssl4eo-0000200-20200607"][0] == 0
    assert sum(name.startswith("ben-") for name in water) == 75
    assert water["dfc-0"][1] == 1  # a count of 0 is less than half a count, not a hole
    shapes = read_outlines(DATA)
    assert len(shapes) == 98 and all(s.dtype == bool for s in shapes)
