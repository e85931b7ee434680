import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.datasets.streetscape import camera
from anony_pipeline.datasets.streetscape.camera import Camera


def test_a_perfect_camera_only_encodes():
    light = np.random.default_rng(0).uniform(0, 0.5, (8, 9, 3)).astype(np.float32)
    picture = camera.develop(light, Camera(), np.random.default_rng(0))
    np.testing.assert_array_equal(picture, (camera.encode(light) * 255 + 0.5).astype(np.uint8))


@given(st.floats(0, 0.05))
def test_decoding_undoes_encoding_of_dim_light(value):
    encoded = np.rint(camera.encode(np.float32([value])) * 255).astype(np.uint8)
    assert camera.decode(encoded)[0] == pytest.approx(value, abs=0.004)


@given(st.floats(1.01, 15), st.floats(-180, 180))
def test_motion_spreads_light_without_losing_any(length, degrees):
    kernel = camera._motion_kernel(length, degrees)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert kernel.min() >= 0


def test_noise_has_the_strength_that_the_camera_says():
    gray = np.full((200, 200, 3), 0.19, np.float32)
    picture = camera.develop(gray, Camera(noise=0.03), np.random.default_rng(1)) / 255
    factor = 1.5 - camera.encode(gray)[0, 0, 0]
    assert picture.std() == pytest.approx(0.03 * factor * np.sqrt(0.6**2 + 2 * 0.6 * 0.4 / 3 + 0.4**2), rel=0.06)


def test_demo_cameras_are_darker_and_noisier_than_base_cameras():
    draws = {
        family: [
            camera.sample_camera(rng, family, camera.sample_time(rng, family), 128)
            for rng in map(np.random.default_rng, range(300))
        ]
        for family in ("base", "demo")
    }
    noise = {family: np.mean([one.noise for one in cameras]) for family, cameras in draws.items()}
    quality = {family: np.mean([one.jpeg_quality for one in cameras]) for family, cameras in draws.items()}
    assert noise["demo"] > 1.5 * noise["base"]
    assert quality["demo"] < quality["base"] - 8


def test_without_an_infrared_filter_a_picture_is_gray_and_red_is_bright():
    light = np.random.default_rng(0).uniform(0, 0.5, (40, 50, 3)).astype(np.float32)
    colorful = Camera(white_rgb=(0.9, 1.0, 1.1), vignette=0.3, contrast=1.1, noise=0.02)
    for is_infrared in (True, False):
        one = dataclasses.replace(colorful, infrared=is_infrared)
        picture = camera.develop(light, one, np.random.default_rng(1))
        assert bool(np.ptp(picture, axis=2).max() == 0) is is_infrared
        assert camera.compress(picture, 60).std(axis=2).mean() < 1 or not is_infrared
    red, blue = np.zeros((2, 8, 8, 3), np.float32)
    red[..., 0] = blue[..., 2] = 0.2
    of_red, of_blue = (camera.develop(one, Camera(infrared=True), np.random.default_rng(0)) for one in (red, blue))
    assert of_red.mean() > 1.5 * of_blue.mean()


@pytest.mark.parametrize("time", camera.TIMES)
def test_only_the_demos_night_cameras_are_without_an_infrared_filter(time):
    for family in ("base", "demo"):
        cameras = [camera.sample_camera(np.random.default_rng(seed), family, time, 128) for seed in range(20)]
        assert {one.infrared for one in cameras} == {family == "demo" and time == "night"}


@pytest.mark.parametrize("time", camera.TIMES)
def test_lights_point_from_unit_directions(time):
    light = camera.sample_light(np.random.default_rng(0), time)
    assert np.linalg.norm(light.direction) == pytest.approx(1)
    assert min(*light.sun_rgb, *light.sky_rgb, *light.ground_rgb) > 0


def test_grain_is_normal():
    values = camera._normal(np.random.default_rng(0), (400, 500)).reshape(-1)
    assert values.dtype == np.float32
    assert values.mean() == pytest.approx(0, abs=0.01)
    assert values.std() == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(
        np.mean(np.abs(values)[:, None] < [1, 2, 3], axis=0), [0.6827, 0.9545, 0.9973], atol=4e-3
    )
