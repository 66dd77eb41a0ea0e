"""Keyed permutations: the compiled one and its NumPy twin give the same numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augmix_core import backends
from augmix_core.permutation import permute, permute_in_numpy
from augmix_core.philox import Purpose

needs_native = pytest.mark.skipif(not backends.NATIVE, reason=f"no compiled kernels: {backends.WHY_NOT}")


@needs_native
@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(0, 2**64 - 1), st.sampled_from((Purpose.ORDER, Purpose.SPLIT)))
def test_the_compiled_permutation_equals_its_numpy_twin(data, seed, purpose):
    sizes = data.draw(st.lists(st.one_of(st.integers(1, 70), st.integers(1, 2**53)), min_size=1, max_size=20))
    at = np.array([data.draw(st.integers(0, size - 1)) for size in sizes])
    epochs = np.array([data.draw(st.integers(0, 2**32 - 1)) for _ in sizes])
    windows = np.array([data.draw(st.sampled_from((0, 1, 2**31 - 1))) for _ in sizes])
    size = np.array(sizes)
    ours = permute(at, size, seed=seed, purpose=purpose, epoch=epochs, window=windows)
    assert ours.tolist() == permute_in_numpy(at, size, epochs, windows, seed, purpose).tolist()


@needs_native
@pytest.mark.parametrize(
    ("index", "size", "epoch", "window"),
    [(5, 5, 0, 0), (-1, 5, 0, 0), (0, 0, 0, 0), (0, 5, 2**32, 0), (0, 5, 0, 2**31)],
)
def test_what_no_permutation_is_defined_for_is_refused(index, size, epoch, window):
    with pytest.raises(ValueError, match="lie below"):
        permute([index], size, seed=0, purpose=Purpose.ORDER, epoch=epoch, window=window)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 65, 1000])
def test_a_permutation_sends_every_index_somewhere_else(size):
    found = permute(np.arange(size), size, seed=3, purpose=Purpose.ORDER, epoch=7)
    assert sorted(found.tolist()) == list(range(size))
