"""Kernels as int8: steps of each output channel, gains of each input channel."""

import numpy as np

from snn_perception.engine.rounding import rounded

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(6, 8, 3, 3)).astype(np.float32)


def error_of_channels(kernel, **options):
    """Return the error of each input channel as a share of its own size."""
    error = rounded(kernel, **options).floats() - kernel
    return np.sqrt((error**2).mean(axis=(0, 2, 3)) / (kernel**2).mean(axis=(0, 2, 3)))


def test_every_weight_is_within_half_a_step_of_its_own():
    found = rounded(KERNEL)
    step = found.scale[:, None, None, None] * found.gain[:, None, None]
    assert found.numbers.dtype == np.int8 and (abs(found.numbers.astype(int)).max(axis=(1, 2, 3)) == 127).all()
    assert (abs(found.floats() - KERNEL) <= 0.5001 * step).all()


def test_channels_that_hardly_fire_do_not_take_the_steps_of_the_others():
    """A norm before the convolution makes their weights hundreds of times larger."""
    kernel = KERNEL * np.where(np.arange(8) == 3, 100.0, 1.0)[:, None, None]
    assert error_of_channels(kernel, even=False)[[0, 1, 2, 4, 5, 6, 7]].min() > 0.2, "they are rounded away"
    assert error_of_channels(kernel).max() < 0.02
    assert rounded(kernel).gain[3] == 127


def test_gains_leave_room_for_spikes_that_count_further():
    for largest in (1, 4, 100):
        gain = rounded(KERNEL * np.arange(1, 9)[:, None, None], largest).gain
        assert gain.max() * largest <= 127 and gain.min() >= 1 and (gain == gain.round()).all()
        assert gain.max() == 127 // largest


def test_channels_without_weights_are_zeros():
    kernel = KERNEL.copy()
    kernel[2] = 0.0
    kernel[:, 5] = 0.0
    found = rounded(kernel).floats()
    assert np.isfinite(found).all() and not found[2].any() and not found[:, 5].any() and found[0].any()
    assert not rounded(np.zeros((2, 3, 1, 1))).floats().any()
