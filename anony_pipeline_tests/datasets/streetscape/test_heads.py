import numpy as np
import pytest

from anony_pipeline.datasets.streetscape import people
from anony_pipeline.datasets.streetscape.heads import Expression, Pose
from anony_pipeline.datasets.streetscape.surfaces import Light
from anony_pipeline.datasets.streetscape.wear import Wear

LIGHT = Light((0.3, 0.4, 0.866), (1.0, 1.0, 1.0), (0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
DARK = Light((-0.8, 0.4, 0.45), (0.5, 0.4, 0.3), (0.2, 0.2, 0.25), (0.1, 0.1, 0.1))


def head(seed=3, pose=None, light=LIGHT, size=96, **kinds):
    return people.render_head(people.sample_person(seed), pose or Pose(), light, size, **kinds)


def test_the_same_head_is_the_same_picture():
    for first, second in zip(head(), head(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("seed", range(5))
def test_landmarks_lie_in_the_box_in_their_order(seed):
    _, alpha, landmarks, box = head(seed)
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert (landmarks > box[:2]).all()
    assert (landmarks < box[2:]).all()
    assert all(alpha[int(y), int(x)] == 1 for x, y in landmarks)


@pytest.mark.parametrize("yaw", [20, 45])
def test_turning_to_one_side_mirrors_turning_to_the_other(yaw):
    _, _, there, box_there = head(pose=Pose(yaw=yaw))
    _, _, back, box_back = head(pose=Pose(yaw=-yaw))
    # Faces are a little asymmetric, so about, not exactly.
    mirrored = 96 - back[[1, 0, 2, 4, 3], 0]
    np.testing.assert_allclose(there[:, 0], mirrored, atol=1.5)
    assert box_there[2] - box_there[0] == pytest.approx(box_back[2] - box_back[0], abs=1.5)


@pytest.mark.parametrize(
    ("pose", "axis", "sign"), [(Pose(yaw=40), 0, 1), (Pose(pitch=25), 1, -1)], ids=["yaw", "pitch"]
)
def test_the_nose_points_where_the_pose_says(pose, axis, sign):
    _, _, rest, _ = head()
    _, _, turned, _ = head(pose=pose)
    assert sign * ((turned[2] - turned[:2].mean(axis=0)) - (rest[2] - rest[:2].mean(axis=0)))[axis] > 2


def test_roll_turns_the_eyes_line_clockwise():
    _, _, landmarks, _ = head(pose=Pose(roll=20))
    line = landmarks[1] - landmarks[0]
    assert np.degrees(np.arctan2(line[1], line[0])) == pytest.approx(20, abs=3)


def test_opening_the_mouth_darkens_it_and_lowers_the_chin():
    shut, _, landmarks, box_shut = head()
    opened, _, _, box_open = head(expression=Expression(mouth_open=1.0))
    x, y = landmarks[3:].mean(axis=0).astype(int)
    assert opened[y + 3, x].mean() < 0.6 * shut[y + 3, x].mean()
    assert box_open[3] > box_shut[3] + 1


def test_closing_the_eyes_hides_the_whites():
    opened, _, landmarks, _ = head(seed=1)
    shut, _, _, _ = head(seed=1, expression=Expression(eyes_open=0.0))
    x, y = landmarks[0].astype(int)
    change = np.abs(opened.astype(int) - shut).mean(axis=2)
    chin = int(landmarks[3:, 1].mean()) + 6
    assert change[y - 2 : y + 3, x - 4 : x + 5].mean() > 8
    assert change[chin : chin + 5, 40:56].max() == 0


@pytest.mark.parametrize(
    "wear", [Wear(glasses="sun"), Wear(mask="medical"), Wear(hat="cap")], ids=["sun", "mask", "cap"]
)
def test_what_is_worn_changes_the_picture_but_not_the_landmarks(wear):
    bare, _, landmarks, _ = head()
    worn, _, same, _ = head(wear=wear)
    np.testing.assert_array_equal(landmarks, same)
    assert np.abs(bare.astype(int) - worn).mean() > 1


def test_the_same_person_in_another_light_is_nearer_than_another_person_in_that_light():
    """Identity must show: with pose fixed, normalized pictures tell ten people apart across two lights."""

    def signature(seed, light):
        image, alpha, landmarks, _ = head(seed, light=light, size=64)
        x, y = landmarks.mean(axis=0).astype(int)
        patch = image[y - 14 : y + 12, x - 12 : x + 12].astype(float)
        patch = np.log(patch + 8)
        return ((patch - patch.mean()) / patch.std()).ravel() + 0 * alpha.sum()

    gallery = np.array([signature(seed, LIGHT) for seed in range(10)])
    probes = np.array([signature(seed, DARK) for seed in range(10)])
    nearest = (probes @ gallery.T).argmax(axis=1)
    assert (nearest == np.arange(10)).mean() >= 0.7


def test_a_head_turned_away_has_no_box():
    _, _, _, box = head(pose=Pose(yaw=180))
    assert box[2] - box[0] < 25
