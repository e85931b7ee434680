import numpy as np
import pytest
import torch

from anony_pipeline.anonymize.anonymizer import Anonymizer, Job
from anony_pipeline.anonymize.filling import Filler
from anony_pipeline.anonymize.policy import Policy
from anony_pipeline.anonymize.verifying import Verifier, plate_crop
from anony_pipeline.errors import DatasetError
from anony_pipeline.models.reader import Reading
from anony_pipeline.plates import serials
from anony_pipeline.plates.styles import load_styles
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline_tests.evaluation import street


class Distinct(street.PatternRecognizer):
    """Every crop is somebody else."""

    def embed(self, crops_rgb):
        rng = np.random.default_rng(int(sum(int(crop.sum()) for crop in crops_rgb)))
        values = rng.normal(size=(len(crops_rgb), 256)).astype(np.float32)
        return values / np.linalg.norm(values, axis=1, keepdims=True)


class SamePerson(street.PatternRecognizer):
    def embed(self, crops_rgb):
        return np.tile(np.float32([1, 0]), (len(crops_rgb), 1))


class Broken(street.PatternRecognizer):
    def embed(self, crops_rgb):
        raise RuntimeError("the recognizer is broken")


class AlwaysReads(street.BitReader):
    def read(self, plates_rgb):
        return [Reading("AB123CD", 1.0) for _ in plates_rgb]


NOISE = np.random.default_rng(0).integers(0, 255, (200, 300, 3)).astype(np.uint8)
FACE = Region(Kind.FACE, (20.4, 30.2, 60.7, 80.9))
PLATE = Region(Kind.PLATE, (120.0, 100.0, 210.0, 122.0), style="FR", track="plate-1")


def make(tmp_path, *, generator=None, recognizer=None, reader=None, detect=None, secret=b"s" * 32, **policy):
    generator = generator or street.NoiseGenerator()
    filler = Filler(generator, street.make_config(tmp_path), load_styles(), secret)
    verifier = Verifier(recognizer or Distinct(), reader or street.BlindReader(), 0.4)
    return Anonymizer(filler, verifier, detect=detect, policy=Policy(**policy))


def outside(rows, shape):
    kept = np.ones(shape[:2], bool)
    for row in rows:
        x0, y0, x1, y1 = row.mask_xyxy
        kept[y0:y1, x0:x1] = False
    return kept


def unchanged_inside(before, after, region):
    x0, y0, x1, y1 = (round(v) for v in region.box_xyxy)
    return (before[y0:y1, x0:x1] == after[y0:y1, x0:x1]).all(axis=2).mean()


def test_regions_are_replaced_and_nothing_else_changes_by_a_bit(tmp_path):
    before = NOISE.copy()
    image, rows = make(tmp_path).anonymize(before, [FACE, PLATE])
    assert np.array_equal(before, NOISE)
    kept = outside(rows, image.shape)
    assert np.array_equal(image[kept], NOISE[kept])
    for region, row in zip([FACE, PLATE], rows, strict=True):
        assert row.method == "generated"
        assert row.reason is None
        assert (row.verified_by is None) == (region is PLATE), "noise has a face's embedding, and no serial to read"
        assert row.seed is not None
        assert row.mask_xyxy[0] <= region.box_xyxy[0]
        assert row.mask_xyxy[3] >= region.box_xyxy[3]
        assert unchanged_inside(NOISE, image, region) < 0.01
    assert rows[1].style == "FR"
    assert rows[0].serial is None


def test_the_same_call_gives_the_same_pixels_whatever_is_beside_it(tmp_path):
    anonymizer = make(tmp_path)
    alone, _ = anonymizer.anonymize(NOISE, [FACE, PLATE], name="a")
    jobs = [Job(NOISE[:, ::-1].copy(), "b", [FACE, PLATE]), Job(NOISE, "a", [FACE, PLATE])]
    together = anonymizer.anonymize_batch(jobs)[1].image_rgb
    assert np.array_equal(alone, together)


def test_one_physical_plate_gets_one_serial_and_another_secret_another(tmp_path):
    first = make(tmp_path).anonymize(NOISE, [PLATE], name="a")[1][0].serial
    again = make(tmp_path).anonymize(NOISE[::-1].copy(), [PLATE], name="b")[1][0].serial
    other = make(tmp_path, secret=b"t" * 32).anonymize(NOISE, [PLATE], name="a")[1][0].serial
    assert first == again != other
    assert serials.parse(first, load_styles())


def test_a_plate_of_an_unknown_style_gets_its_images_or_the_neutral_one(tmp_path):
    plate = Region(Kind.PLATE, PLATE.box_xyxy)
    assert make(tmp_path).anonymize(NOISE, [plate], style="DE")[1][0].style == "DE"
    assert make(tmp_path).anonymize(NOISE, [plate])[1][0].style == "unspecified"


def test_a_gray_image_stays_gray_and_a_colored_one_colored(tmp_path):
    gray = np.repeat(np.random.default_rng(1).normal(120, 12, (200, 300, 1)).clip(0, 255), 3, axis=2).astype(np.uint8)
    overlaid = gray.copy()
    overlaid[5, 5:30] = (255, 210, 0)  # a camera's clock
    tiny = Region(Kind.FACE, (230.0, 20.0, 234.0, 25.0))
    anonymizer = make(tmp_path, min_region_px=8, tiny="texture")
    for image, has_color in ((gray, False), (overlaid, False), (NOISE, True)):
        made, rows = anonymizer.anonymize(image, [FACE, PLATE, tiny])
        assert [row.method for row in rows] == ["generated", "generated", "texture"]
        for row in rows:
            x0, y0, x1, y1 = row.mask_xyxy
            assert bool(np.ptp(made[y0:y1, x0:x1], axis=2).max() > 1) is has_color
            assert made[y0:y1, x0:x1].std() > 5, "its grain is there"


@pytest.mark.parametrize(
    ("parts", "region", "reason"),
    [
        ({"generator": street.NoiseGenerator(failures=99)}, FACE, "generation failed: OutOfMemoryError"),
        ({"recognizer": SamePerson()}, FACE, "the recognizer still takes it for the same person"),
        ({"recognizer": Broken()}, FACE, "verification failed: RuntimeError"),
        ({"reader": AlwaysReads()}, PLATE, "the original serial can still be read"),
    ],
    ids=["generator fails", "same person", "judge fails", "still read"],
)
def test_what_cannot_be_generated_or_verified_is_solid_and_says_why(tmp_path, parts, region, reason):
    image, rows = make(tmp_path, **parts).anonymize(NOISE, [region])
    assert (rows[0].method, rows[0].reason) == ("solid", reason)
    x0, y0, x1, y1 = rows[0].mask_xyxy
    assert (image[y0:y1, x0:x1] == Policy().solid_color).all()
    assert np.array_equal(image[outside(rows, image.shape)], NOISE[outside(rows, image.shape)])


def test_without_a_judge_nothing_generated_is_let_out(tmp_path):
    filler = Filler(street.NoiseGenerator(), street.make_config(tmp_path), load_styles(), b"s" * 32)
    anonymizer = Anonymizer(filler, Verifier(None, None, 0.4), detect=None, policy=Policy())
    _, rows = anonymizer.anonymize(NOISE, [FACE, PLATE])
    assert [row.method for row in rows] == ["solid", "solid"]
    assert rows[0].reason == "there is no judge to verify it"


def test_a_batch_that_is_too_large_is_tried_region_by_region(tmp_path):
    generator = street.NoiseGenerator(failures=1)
    others = [Region(Kind.FACE, (x, 120.0, x + 40, 170.0)) for x in (10.0, 80.0, 150.0)]
    _, rows = make(tmp_path, generator=generator).anonymize(NOISE, [FACE, *others])
    assert {row.method for row in rows} == {"generated"}
    assert generator.batches == [4, 1, 1, 1, 1]


def test_a_refused_face_is_tried_once_more_with_another_seed(tmp_path):
    generator = street.NoiseGenerator()
    make(tmp_path, generator=generator, recognizer=SamePerson()).anonymize(NOISE, [FACE])
    assert generator.batches == [1, 1]


def test_regions_of_several_images_share_a_batch(tmp_path):
    generator = street.NoiseGenerator()
    make(tmp_path, generator=generator).anonymize_batch([Job(NOISE, str(n), [FACE]) for n in range(5)])
    assert generator.batches == [5]


@pytest.mark.parametrize("tiny", ["solid", "pixelate"])
def test_tiny_regions_are_redacted_without_a_generator(tmp_path, tiny):
    small = Region(Kind.FACE, (50, 50, 56, 57))
    generator = street.NoiseGenerator()
    image, rows = make(tmp_path, generator=generator, tiny=tiny).anonymize(NOISE, [small])
    assert (rows[0].method, generator.batches) == (tiny, [])
    assert "smaller than" in rows[0].reason
    assert unchanged_inside(NOISE, image, small) < 0.05


@pytest.mark.parametrize("treatment", ["blur", "pixelate", "solid"])
def test_a_classical_policy_needs_no_generator(tmp_path, treatment):
    anonymizer = Anonymizer(None, Verifier(None, None, 0.4), detect=None, policy=Policy(treatment=treatment))
    image, rows = anonymizer.anonymize(NOISE, [FACE])
    assert (rows[0].method, rows[0].reason) == (treatment, "by policy")
    assert unchanged_inside(NOISE, image, FACE) < 0.05


def test_regions_over_the_edge_and_over_each_other_are_replaced_whole(tmp_path):
    regions = [
        Region(Kind.FACE, (-20.0, -10.0, 30.0, 40.0)),
        Region(Kind.FACE, (10.0, 10.0, 60.0, 70.0)),
        Region(Kind.PLATE, (250.0, 180.0, 330.0, 230.0)),
    ]
    image, rows = make(tmp_path).anonymize(NOISE, regions)
    changed = (image != NOISE).any(axis=2)
    kept = outside(rows, image.shape)
    assert not changed[kept].any()
    assert changed[~kept].mean() > 0.99


@pytest.mark.parametrize(
    "box",
    [
        (1000.0, 100.0, 1200.0, 180.0),
        (301.0, 10.0, 330.0, 40.0),
        (60.0, 60.0, 40.0, 30.0),
        (50.0, 50.0, 50.0, 90.0),
        (float("nan"), 10.0, 30.0, 40.0),
        (10.0, 10.0, float("inf"), 40.0),
    ],
    ids=["beyond", "just beyond", "inside out", "no width", "NaN", "infinite"],
)
def test_a_given_region_that_covers_nothing_is_refused_and_not_counted_as_done(tmp_path, box):
    image = NOISE[:, :300]
    with pytest.raises(DatasetError, match=r"covers no pixel(.|\n)*annotation 7: face"):
        make(tmp_path).anonymize(image, [FACE, Region(Kind.FACE, box, annotation_id=7)])


def test_a_detection_beyond_the_image_is_none_and_one_that_is_no_number_is_refused(tmp_path):
    def detecting(box):
        return make(tmp_path, detect=lambda images, threshold: [[Region(Kind.FACE, box)] for _ in images])

    image, rows = detecting((1000.0, 1000.0, 1100.0, 1100.0)).anonymize(NOISE)
    assert (rows, np.array_equal(image, NOISE)) == ([], True)
    with pytest.raises(DatasetError, match="covers no pixel"):
        detecting((float("nan"), 10.0, 30.0, 40.0)).anonymize(NOISE)


def test_no_neighbors_face_is_shown_to_the_generator(tmp_path):
    class Looks(street.NoiseGenerator):
        def fill(self, images, masks, kind, *, noise, anchors=None, styles=None, small=None):
            assert (images[(masks <= 0.5).expand_as(images)] < 0.99).all()
            return super().fill(images, masks, kind, noise=noise, anchors=anchors)

    image = np.full((200, 300, 3), 90, np.uint8)
    regions = [Region(Kind.FACE, (60.0, 60.0, 90.0, 95.0)), Region(Kind.FACE, (95.3, 60.7, 120.2, 95.0))]
    for region in regions:
        x0, y0, x1, y1 = (int(v) for v in region.box_xyxy)
        image[y0 + 1 : y1, x0 + 1 : x1] = 255
    _, rows = make(tmp_path, generator=Looks()).anonymize(image, regions)
    assert [row.method for row in rows] == ["generated", "generated"]


def test_detected_regions_carry_their_score_and_each_kind_has_its_threshold(tmp_path):
    seen = [
        Region(Kind.FACE, (20.0, 30.0, 60.0, 80.0), score=0.3),
        Region(Kind.PLATE, (120.0, 100.0, 180.0, 115.0), score=0.3),
        Region(Kind.PLATE, (120.0, 150.0, 180.0, 165.0), score=0.5),
    ]

    def detect(images, threshold):
        return [[region for region in seen if region.score >= threshold] for _ in images]

    _, rows = make(tmp_path, detect=detect, threshold=0.25, plate_threshold=0.4).anonymize(NOISE)
    assert [(row.kind, row.score) for row in rows] == [(Kind.PLATE, 0.5), (Kind.FACE, 0.3)]


def test_an_image_without_regions_stays_as_it_is(tmp_path):
    image, rows = make(tmp_path).anonymize(NOISE, [])
    assert rows == []
    assert np.array_equal(image, NOISE)


def test_the_ledger_says_no_original_serial_and_no_embedding(tmp_path):
    unified = street.make_street(tmp_path / "street", images_count=1)
    image = street.images.read(unified.image_file(unified.images[0]))
    anonymizer = make(tmp_path, reader=street.BitReader())
    _, rows = anonymizer.anonymize(image, unified.regions_by_image()[0])
    text = str([row.as_json("a.png") for row in rows])
    assert street.serial_of(0) not in text
    assert "array" not in text
    assert len(text) < 3000


def test_a_tilted_plate_is_straightened_by_its_corners():
    flat = np.full((400, 400, 3), 90, np.uint8)
    street.draw_plate(flat, (60, 100, 168, 60), "AB12CD3")
    angle = np.deg2rad(12)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.column_stack([rotation, np.array([200, 200]) - rotation @ (150, 140)])
    tilted = street.cv2.warpAffine(flat, matrix, (400, 400), borderValue=(90, 90, 90))
    corners = np.array([[60, 100], [228, 100], [228, 160], [60, 160]]) @ rotation.T + matrix[:, 2]
    box = (*corners.min(axis=0), *corners.max(axis=0))
    plate = Region(Kind.PLATE, tuple(box), quad=tuple(map(tuple, corners)))
    assert street.BitReader().read([plate_crop(tilted, plate)])[0].text == "AB12CD3"
    assert street.BitReader().read([plate_crop(tilted, Region(Kind.PLATE, tuple(box)))])[0].text != "AB12CD3"


def test_the_real_generator_fits_in(tmp_path):
    from anony_pipeline.models.demo_pipeline import build_demo_pipeline
    from anony_pipeline.models.generator import Generator

    torch.manual_seed(0)
    generator = Generator(
        build_demo_pipeline(),
        prompts=dict.fromkeys(Kind, "a face"),
        steps=dict.fromkeys(Kind, 1),
        anchor_strength=0.4,
        base_id="random",
    ).eval()
    image, rows = make(tmp_path, generator=generator).anonymize(NOISE, [FACE, PLATE])
    assert [row.method for row in rows] == ["generated", "generated"]
    kept = outside(rows, image.shape)
    assert np.array_equal(image[kept], NOISE[kept])


def test_two_detections_of_one_face_are_replaced_once_and_given_boxes_stay_as_they_are(tmp_path):
    twice = [
        Region(Kind.FACE, (20.0, 30.0, 60.0, 80.0), score=0.9),
        Region(Kind.FACE, (22.0, 50.0, 64.0, 84.0), score=0.6),
    ]
    anonymizer = make(tmp_path, detect=lambda images, threshold: [twice for _ in images])
    assert [row.method for row in anonymizer.anonymize(NOISE)[1]] == ["generated"]
    assert len(anonymizer.anonymize(NOISE, twice)[1]) == 2


def test_the_generator_hears_each_plates_style(tmp_path):
    class Listens(street.NoiseGenerator):
        def fill(self, images, masks, kind, *, noise, anchors=None, styles=None, small=None):
            heard[kind] = styles
            return super().fill(images, masks, kind, noise=noise, anchors=anchors)

    heard = {}
    others = [
        Region(Kind.PLATE, (20.0, 140.0, 110.0, 162.0)),
        Region(Kind.PLATE, (120.0, 150.0, 210.0, 172.0), style="NL"),
    ]
    make(tmp_path, generator=Listens()).anonymize(NOISE, [FACE, PLATE, *others], style="DE")
    assert heard == {Kind.FACE: [None], Kind.PLATE: ["FR", "DE", "NL"]}


def test_small_regions_are_filled_at_half_of_the_crops_size(tmp_path):
    class Listens(street.NoiseGenerator):
        def is_small(self, window, size_hw):
            asked.append((window[2] - window[0], size_hw))
            return window[2] - window[0] < 100

        def fill(self, images, masks, kind, *, noise, anchors=None, styles=None, small=None):
            heard.extend(small)
            return super().fill(images, masks, kind, noise=noise, anchors=anchors)

    asked, heard = [], []
    tiny = Region(Kind.FACE, (200.0, 30.0, 220.0, 50.0))
    anonymizer = make(tmp_path, generator=Listens())
    anonymizer.anonymize(NOISE, [FACE, tiny])
    assert heard == [False, True]
    assert [round(width / 2, 1) for width, _ in asked] == [50.7, 20.0]
    assert {size for _, size in asked} == {anonymizer.filler.sizes_hw[Kind.FACE]}
