import numpy as np
import pytest
from scipy import io

from anony_pipeline.errors import DatasetError
from anony_pipeline.evaluation import widerface_protocol
from anony_pipeline.evaluation.widerface_protocol import DIFFICULTIES, Image
from anony_pipeline_tests.references import widerface_protocol_reference as reference


def make(seed, images=25):
    """Faces of all sizes, detections that are near, doubled, wrong, or tied in score; some images have neither."""
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    for number in range(images):
        count = int(rng.integers(0, 7))
        boxes = np.column_stack([rng.integers(0, 200, (count, 2)), rng.integers(1, 60, (count, 2))]).astype(float)
        truth[f"{number}"] = Image(
            boxes, {key: rng.random(count) < share for key, share in zip(DIFFICULTIES, (0.3, 0.5, 0.8), strict=True)}
        )
        near = np.repeat(boxes, 2, axis=0) + rng.normal(0, 4, (2 * count, 4))
        wrong = np.column_stack([rng.uniform(0, 200, (3, 2)), rng.uniform(5, 50, (3, 2))])
        rows = np.concatenate([near, wrong])[rng.random(2 * count + 3) < 0.7]
        scores = rng.integers(0, 12, len(rows)) / 11 if seed % 2 else rng.random(len(rows)) * 3 - 1
        if number % 6:
            found[f"{number}"] = np.column_stack([rows[:, :2], rows[:, 2:].clip(1), scores])
    return truth, found


@pytest.mark.parametrize("seed", range(8))
def test_it_equals_a_direct_port_of_the_official_procedure(seed):
    truth, found = make(seed)
    ours = widerface_protocol.average_precision(truth, found)
    for key in DIFFICULTIES:
        assert ours[key] == pytest.approx(reference.average_precision(truth, found, key), abs=1e-9)
        assert 0 < ours[key] < 1


def test_faces_that_do_not_count_are_neither_found_nor_missed():
    boxes = np.array([[0, 0, 40, 40], [100, 0, 40, 40]], float)
    truth = {
        "a": Image(boxes, {"easy": np.array([True, False]), "medium": np.ones(2, bool), "hard": np.zeros(2, bool)})
    }
    first = np.array([[0, 0, 40, 40, 0.9], [300, 0, 40, 40, 0.1]])
    both = np.array([[0, 0, 40, 40, 0.8], [100, 0, 40, 40, 0.9], [300, 0, 40, 40, 0.1]])
    assert widerface_protocol.average_precision(truth, {"a": first})["easy"] == 1
    assert widerface_protocol.average_precision(truth, {"a": both})["easy"] == 1
    assert widerface_protocol.average_precision(truth, {"a": first})["medium"] == pytest.approx(0.5)
    assert np.isnan(widerface_protocol.average_precision(truth, {"a": both})["hard"])
    assert widerface_protocol.average_precision(truth, {})["easy"] == 0


def cells(values):
    """Nested as MATLAB's cell arrays are when scipy reads them."""
    column = np.empty((len(values), 1), object)
    for index, value in enumerate(values):
        column[index, 0] = value
    return column


def write(folder, boxes, lists):
    wrap = lambda parts: cells([cells(parts)])  # noqa: E731 - one event
    names = [np.array([f"0_Parade_{i}"]) for i in range(len(boxes))]
    io.savemat(folder / "wider_face_val.mat", {"file_list": wrap(names), "face_bbx_list": wrap(boxes)})
    for key in DIFFICULTIES:
        io.savemat(folder / f"wider_{key}_val.mat", {"gt_list": wrap(lists)})


def test_the_official_files_are_read(tmp_path):
    boxes = [np.array([[1, 2, 30, 40], [5, 5, 9, 9]], float), np.array([[7, 7, 20, 20]], float)]
    write(tmp_path, boxes, [np.array([[2]]), np.zeros((0, 1))])
    truth = widerface_protocol.load(tmp_path)
    assert list(truth) == ["0_Parade_0", "0_Parade_1"]
    assert truth["0_Parade_0"].boxes_xywh.tolist() == boxes[0].tolist()
    assert truth["0_Parade_0"].counted["easy"].tolist() == [False, True]
    assert truth["0_Parade_1"].counted["hard"].tolist() == [False]
    assert widerface_protocol.name_of("WIDER_val/images/0--Parade/0_Parade_1.jpg") == "0_Parade_1"


def test_a_missing_or_other_file_says_what_is_needed(tmp_path):
    with pytest.raises(DatasetError, match=r"wider_easy_val\.mat"):
        widerface_protocol.load(tmp_path)
    (tmp_path / "wider_face_val.mat").write_bytes(b"no matrix")
    with pytest.raises(DatasetError, match="can't be read"):
        widerface_protocol.load(tmp_path)
