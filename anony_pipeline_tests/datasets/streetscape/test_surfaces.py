from dataclasses import replace

import numpy as np
import pytest

from anony_pipeline.datasets.streetscape import surfaces
from anony_pipeline.datasets.streetscape.surfaces import Light, Surface, View

FRONT = Light((0.0, 0.0, 1.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
FAR = 1e4


def sphere(radius=1.0, center=(0, 0, 0), color=0.5):
    polar = np.linspace(0, np.pi, 90)[:, None]
    azimuth = np.linspace(-np.pi, np.pi, 120)[None]
    points = radius * np.stack(
        [np.sin(polar) * np.sin(azimuth), np.cos(polar) + 0 * azimuth, np.sin(polar) * np.cos(azimuth)]
    )
    points = (points + np.array(center)[:, None, None]).astype(np.float32)
    return Surface(points, np.full(points.shape, color, np.float32))


def view(size=96, scale=30.0, supersample=2.0):
    return View((size, size), scale, (size / 2, size / 2), FAR, supersample)


@pytest.mark.parametrize("supersample", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("scale", [6.0, 15.0, 40.0])
def test_a_sphere_covers_a_disc_without_holes(scale, supersample):
    drawn = surfaces.render([sphere()], view(scale=scale, supersample=supersample), FRONT)
    assert drawn.alpha.sum() == pytest.approx(np.pi * scale**2, rel=0.15 if scale * supersample < 10 else 0.08)
    middle = slice(48 - int(scale / 2), 48 + int(scale / 2))
    assert (drawn.alpha[middle, middle] == 1).all()


def test_a_sphere_lit_from_the_eye_shades_by_lamberts_cosine():
    drawn = surfaces.render([sphere(color=1.0)], view(), FRONT)
    x = np.arange(-20, 21)
    expected = np.sqrt(1 - (x / 30.0) ** 2)
    np.testing.assert_allclose(drawn.rgb[47, x + 47, 0], expected, atol=0.06)


def test_normals_of_a_sphere_are_its_points():
    ball = sphere()
    normals = surfaces.normals_of(ball.points)
    np.testing.assert_allclose(normals[:, 5:-5], ball.points[:, 5:-5], atol=0.03)


def test_the_nearer_surface_hides_the_farther():
    near, far = sphere(0.5, (0, 0, 2), color=0.9), sphere(1.0, color=0.1)
    for order in ([near, far], [far, near]):
        drawn = surfaces.render(order, view(), FRONT)
        assert drawn.rgb[47, 47, 0] > 0.7


def test_what_stands_before_the_light_casts_a_shadow():
    ground = sphere(1.5, (0, -1.2, 0), color=1.0)
    lamp = Light((0.0, 1.0, 0.001), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    alone = surfaces.render([ground], view(scale=20), lamp)
    shaded = surfaces.render([ground, sphere(0.4, (0, 1.6, 0.6))], view(scale=20), lamp)
    # Just below the ground's rim toward the viewer, under the small ball.
    row = int(48 - 20 * (-1.2 + np.sqrt(1.5**2 - 0.6**2))) + 2
    assert alone.rgb[row, 48, 0] > 0.5
    assert shaded.rgb[row, 48, 0] < 0.3 * alone.rgb[row, 48, 0]


def test_rotating_is_a_matrix_product():
    rng = np.random.default_rng(0)
    rotation, points = np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(
        surfaces.rotated(points, rotation), np.einsum("ij,jrc->irc", rotation, points), rtol=1e-5, atol=1e-6
    )


def test_a_surface_with_a_turn_is_drawn_as_its_turned_points():
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    ball = sphere(1.0, (0.3, 0.2, 0.1))
    ball = replace(ball, points=ball.points * np.float32([1.0, 0.6, 0.8])[:, None, None])
    light = Light((0.6, 0.0, 0.8), (1.0, 0.9, 0.8), (0.3, 0.3, 0.3), (0.1, 0.1, 0.1))
    turned = surfaces.render([replace(ball, turn=turn)], view(), light)
    same = surfaces.render([replace(ball, points=surfaces.rotated(ball.points, turn))], view(), light)
    np.testing.assert_allclose(turned.rgb, same.rgb, atol=1e-3)
    assert turned.alpha.sum() > 500


@pytest.mark.parametrize("tilt", [0, 35, 90, 180])
def test_bands_of_rows_leave_no_seams(tilt):
    """A ball of even color in light from all around is even, from wherever it is seen."""
    even = Light((0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.8, 0.8, 0.8), (0.8, 0.8, 0.8))
    angle = np.radians(tilt)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    drawn = surfaces.render([replace(sphere(), turn=turn)], view(scale=40.0, supersample=1.5), even)
    inner = drawn.alpha == 1
    assert inner.sum() == pytest.approx(np.pi * 39**2, rel=0.05)
    np.testing.assert_allclose(drawn.rgb[inner], 0.4, atol=1e-4)


@pytest.mark.parametrize("tilt", [0, 35, 90])
@pytest.mark.parametrize("scale", [14.0, 40.0])
def test_nothing_shines_through_from_below(tilt, scale):
    """A dark ball within a bright egg, lit evenly, is nowhere seen: the egg's points leave no gaps."""
    even = Light((0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    angle = np.radians(tilt)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    egg = sphere(color=0.9)
    egg = replace(egg, points=egg.points * np.float32([0.7, 1.0, 0.9])[:, None, None], turn=turn)
    drawn = surfaces.render([egg, sphere(0.6, color=0.0)], view(scale=scale, supersample=1.5), even)
    assert drawn.rgb[drawn.alpha == 1].min() > 0.89


def test_a_drawing_covers_what_is_behind_it_by_its_alpha():
    behind = np.full((2, 2, 3), 0.8, np.float32)
    alpha = np.float32([[0, 0.25], [0.5, 1]])
    red = np.float32([0.4, 0.0, 0.0]) * alpha[..., None]
    expected = [[[0.8, 0.8, 0.8], [0.7, 0.6, 0.6]], [[0.6, 0.4, 0.4], [0.4, 0, 0]]]
    np.testing.assert_allclose(surfaces.Raster(red, alpha).over(behind), expected, atol=1e-6)


def test_what_is_outside_the_canvas_draws_nothing():
    drawn = surfaces.render([sphere(center=(50, 0, 0))], view(), FRONT)
    assert drawn.alpha.max() == 0
