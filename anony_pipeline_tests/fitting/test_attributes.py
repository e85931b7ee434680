import numpy as np
import torch

from anony_pipeline.fitting import attributes
from anony_pipeline.fitting.attributes import AttributeCode
from anony_pipeline.fitting.loop import Plan
from anony_pipeline.fitting.rendering import Faces, Plates

FACES = [
    {"age": 20.0, "beard": "none", "glasses": True, "person_name": "a", "identity_score": 1.0},
    {"age": 40.0, "beard": "full", "glasses": False, "person_name": "b", "identity_score": 2.0},
    {"age": 60.0, "beard": "none", "glasses": False, "person_name": "c", "identity_score": 3.0},
]


def test_numbers_are_standardized_and_words_become_columns_of_their_own():
    code = AttributeCode.of(FACES)
    assert code.columns == ("age", "beard=full", "beard=none", "glasses")
    table = code.encode(FACES)
    np.testing.assert_allclose(table.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(table.std(axis=0), 1, atol=1e-6)


def test_nothing_that_says_who_somebody_is_becomes_a_column():
    assert not any("name" in column or "identity" in column for column in AttributeCode.of(FACES).columns)


def test_other_faces_are_encoded_by_the_same_columns():
    table = AttributeCode.of(FACES).encode([{"beard": "goatee", "glasses": True}])
    assert table.shape == (1, 4)
    assert np.isnan(table[0, 0])
    assert not np.isnan(table[0, 1:]).any()


BOX = torch.tensor([[24.0, 20], [72, 84]])
POINTS = torch.tensor([[38.0, 44], [58, 44], [48, 56], [40, 68], [56, 68]])


def spoilt(count=200):
    pixels = torch.rand(count, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    boxes, points = BOX.expand(count, 2, 2), POINTS.expand(count, 5, 2)
    return pixels, *attributes.spoil(pixels, boxes, points, torch.Generator().manual_seed(0))


def test_half_of_the_faces_are_spoilt_each_in_one_way_and_the_others_not_at_all():
    pixels, faces, true = spoilt()
    assert true.shape == (200, len(attributes.SPOILT))
    any_way, ways = true[:, 0] > 0, true[:, 1:] > 0
    assert 60 < any_way.sum() < 140
    assert torch.equal(ways.sum(1), any_way.long())
    assert (ways.sum(0) > 10).all()
    changed = (faces != pixels).flatten(1).any(1)
    assert torch.equal(changed, any_way)
    assert faces.abs().max() <= 1


def test_only_the_inner_face_is_spoilt():
    pixels, faces, _ = spoilt()
    changed = (faces - pixels).abs().amax(dim=(0, 1))
    assert changed[56, 48] > 0.5
    assert changed[:14].max() == changed[:, :10].max() == changed[:, 86:].max() == 0


def test_dashes_are_dark_and_lie_on_eyes_and_mouth():
    count = 80
    pixels = torch.full((count, 3, 96, 96), 0.5)
    faces, true = attributes.spoil(
        pixels, BOX.expand(count, 2, 2), POINTS.expand(count, 5, 2), torch.Generator().manual_seed(0)
    )
    dashed = faces[true[:, 3] > 0].amin(dim=0).mean(dim=0)
    for x, y in ((38, 44), (58, 44), (48, 68)):
        assert dashed[y, x] < -0.2
    assert dashed[56, 48] == 0.5


def rendered(count):
    """Faces that are dark or bright, as their attribute says, with landmarks that move with their box."""
    rng = np.random.default_rng(0)
    shift = rng.integers(-10, 10, (count, 1, 2)).astype(np.float32)
    bright = rng.random(count) < 0.5
    images = np.where(bright[:, None, None, None], 200, 60).astype(np.uint8) * np.ones((1, 128, 128, 3), np.uint8)
    boxes = (BOX.numpy()[None] * 4 / 3 + shift).reshape(count, 4)
    points = POINTS.numpy()[None] * 4 / 3 + shift
    known = [{"bright": bool(one), "noise": float(rng.normal())} for one in bright]
    faces = Faces(images, boxes, points, np.arange(count), known)
    plates = Plates(rng.integers(0, 255, (8, 80, 240, 3), dtype=np.uint8), ["A"] * 8, np.ones(8), np.full(8, 30.0))
    return faces, plates


def test_of_spoilt_faces_and_plates_only_that_is_known():
    faces, plates = rendered(24)
    mixed = attributes._Mixed(faces, plates, AttributeCode.of(faces.attributes), torch.device("cpu"))
    pixels, wanted = mixed.batch(64, torch.Generator().manual_seed(0))
    assert pixels.shape == (64, 3, 96, 96)
    own, ruined, rest = wanted.split((5, 5, 12), dim=1)
    assert not own.isnan().any()
    plate = own[:, 0] > 0
    assert plate.sum() == 32
    assert ruined[plate].isnan().all()
    assert not ruined[~plate].isnan().any()
    unknown = rest.isnan().any(dim=1)
    assert torch.equal(unknown, plate | (ruined[:, 0] > 0))


def test_landmarks_are_wanted_where_they_are_in_the_crop():
    faces, plates = rendered(6)
    mixed = attributes._Mixed(faces, plates, AttributeCode.of(faces.attributes), torch.device("cpu"))
    _, wanted = mixed.undisturbed(torch.arange(6))
    expected = (faces.landmarks.reshape(6, 10) / 128 - 0.5) * 8
    np.testing.assert_allclose(wanted[:, :10].numpy(), expected, atol=1e-4)


def test_the_network_learns_what_can_be_seen_and_says_what_it_explains(tmp_path):
    faces, plates = rendered(40)
    code = AttributeCode.of(faces.attributes)
    plan = Plan(30, 0, torch.device("cpu"), tmp_path / "state.pt", 5e-3, progress=lambda items, _what: iter(items))
    torch.set_num_threads(1)
    network = attributes.fit_features(faces, plates, code, plan, batch=16)
    found = attributes.explained(network, faces, plates, code, torch.device("cpu"))
    assert set(found) >= {"plate_or_face", "blur", "noise", *attributes.SPOILT, "landmarks_mean", "attributes_mean"}
    assert set(found["attributes"]) == {"bright", "noise"}
    assert found["attributes"]["bright"] > 0.8
    assert found["attributes"]["noise"] < 0.2
