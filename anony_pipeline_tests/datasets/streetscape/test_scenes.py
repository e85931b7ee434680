import numpy as np
import pytest

from anony_pipeline.datasets.streetscape import scenes
from anony_pipeline.datasets.streetscape.backdrop import Eye
from anony_pipeline.datasets.streetscape.camera import Camera
from anony_pipeline.datasets.streetscape.heads import Pose
from anony_pipeline.datasets.streetscape.identity import sample_person
from anony_pipeline.datasets.streetscape.scenes import Parked, Standing
from anony_pipeline.datasets.streetscape.surfaces import Light
from anony_pipeline.datasets.streetscape.vehicles import plate_corners, sample_vehicle
from anony_pipeline.datasets.streetscape.wear import Wear

LIGHT = Light((0.3, 0.6, 0.74), (1.0, 1.0, 0.9), (0.5, 0.5, 0.6), (0.2, 0.2, 0.2))
EYE = Eye((320, 240), 300.0, 1.5, 110.0)
CAR = sample_vehicle(5, "FR", np.random.default_rng(2))


def compose(people=(), cars=(), eye=EYE):
    rng = np.random.default_rng(0)
    return scenes.compose(people, cars, eye=eye, light=LIGHT, time="day", camera=Camera(), rng=rng)


def person(x=0.0, z=2.0, yaw=0.0):
    return Standing(sample_person(4), (x, z), yaw, Pose(yaw=yaw), Wear())


def test_a_face_is_where_perspective_puts_it_and_as_large():
    near, far = compose([person(z=1.5)]).regions[0], compose([person(z=6.0)]).regions[0]
    heights = [region.box_xyxy[3] - region.box_xyxy[1] for region in (near, far)]
    assert heights[0] / heights[1] == pytest.approx(4, rel=0.15)
    assert (far.box_xyxy[0] + far.box_xyxy[2]) / 2 == pytest.approx(160, abs=3)


def test_a_person_who_turns_away_shows_no_face():
    assert compose([person(yaw=180.0)]).regions == []


def test_an_empty_street_has_no_regions():
    scene = compose()
    assert scene.regions == []
    assert scene.image.shape == (240, 320, 3)


def test_a_plates_corners_are_the_pinhole_projection_of_its_place():
    region = compose(cars=[Parked(CAR, (0.4, 8.0), 0.0)]).regions[0]
    corners = plate_corners(CAR, rear=True)
    x, y, z = corners[:, 0] + 0.4, corners[:, 1], 8.0 - corners[:, 2]
    expected = np.stack([160 + 300 * x / z, 110 - 300 * (y - 1.5) / z], axis=1)
    np.testing.assert_allclose(region.quad, expected, atol=1e-6)
    assert (region.serial, region.style, region.kind) == (CAR.serial, "FR", "license_plate")


def test_a_plate_stays_visible_in_front_of_its_own_car():
    region = compose(cars=[Parked(CAR, (0.4, 8.0), 12.0)]).regions[0]
    assert region.visible > 0.9


def test_what_is_hidden_behind_a_car_is_not_labeled():
    behind = compose([person(x=0.0, z=8.0)], [Parked(CAR, (0.0, 5.0), 90.0)], Eye((320, 240), 300.0, 1.1, 110.0))
    open_view = compose([person(x=0.0, z=8.0)], [], Eye((320, 240), 300.0, 1.1, 110.0))
    assert [r.kind for r in open_view.regions] == ["face"]
    assert all(r.visible < 1 for r in behind.regions if r.kind == "face")


def test_a_person_partly_before_another_hides_part_of_the_face():
    scene = compose([person(x=0.0, z=2.0), person(x=0.13, z=2.6)])
    visible = sorted(region.visible for region in scene.regions)
    assert visible[0] < 0.8
    assert visible[-1] > 0.95


def test_boxes_are_cut_to_the_image():
    scene = compose([person(x=-0.98, z=2.0)])
    for region in scene.regions:
        assert region.box_xyxy[0] >= 0
