import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geouq.noise import philox, stream, uniform

ALL = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known answers published with Random123 for philox4x32-10
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ALL,) * 4, (ALL, ALL), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    words = philox(counter, key)
    assert " ".join(f"{int(w):08x}" for w in words) == expected
    assert all(w.dtype == np.uint32 for w in words)


def test_arrays_give_what_single_counters_give_across_chunks():
    x = np.arange(-5, 70_000)
    words = philox((x, 7, x * 3, 0), (1, 2))
    for i in (0, 4, 5, 32_767, 32_768, 70_000):
        alone = philox((x[i], 7, x[i] * 3, 0), (1, 2))
        assert [int(w[i]) for w in words] == [int(w) for w in alone]


@settings(deadline=None, max_examples=25)
@given(st.integers(-(2**70), 2**70), st.integers(0, 50), st.integers(0, 50))
def test_uniform_belongs_to_its_coordinates(seed, y, x):
    whole = uniform(seed, 3, 1, 9, np.arange(60)[:, None], np.arange(60))
    part = uniform(seed, 3, 1, 9, np.arange(y, 60)[:, None], np.arange(x, 60))
    assert np.array_equal(whole[y:, x:], part)
    assert np.array_equal(whole, uniform(seed % 2**64, 3, 1, 9, np.arange(60)[:, None], np.arange(60)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_is_uniform_and_uncorrelated(dtype):
    u = uniform(5, np.arange(400)[:, None], np.arange(500), dtype=dtype)
    assert u.dtype == dtype and u.shape == (400, 500)
    assert u.min() >= 0 and u.max() < 1
    counts = np.bincount((u.ravel() * 50).astype(int), minlength=50)
    assert ((counts - 4000) ** 2 / 4000).sum() < 90  # chi-squared, 49 degrees of freedom, p < 0.0003
    for other in (u[1:, :-1], uniform(6, np.arange(400)[:, None], np.arange(500), dtype=dtype)[1:, :-1]):
        assert abs(np.corrcoef(u[:-1, 1:].ravel(), other.ravel())[0, 1]) < 0.01


def test_every_coordinate_and_seed_word_matters():
    base = uniform(1, 2, 3, 4, 5, 6, dtype=np.float64)
    changed = [(2, 2, 3, 4, 5, 6), (1 + 2**40, 2, 3, 4, 5, 6)] + [
        (1, *(c + (i == j) for j, c in enumerate((2, 3, 4, 5, 6)))) for i in range(5)
    ]
    values = [float(uniform(*c, dtype=np.float64)) for c in changed]
    assert len({float(base), *values}) == 8
    assert stream(1, 2) != stream(1, 3) != stream(1)
