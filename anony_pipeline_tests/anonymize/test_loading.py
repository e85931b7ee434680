import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from anony_pipeline.anonymize import loading, overlaps
from anony_pipeline.config.schema import Config
from anony_pipeline.errors import WeightsError
from anony_pipeline.models import detector, lora
from anony_pipeline.models.generator import load_generator
from anony_pipeline.storage import manifests
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline_tests.models.tiny_pipelines import save_pipeline

LEAST_PX = 40
"""The smallest white square that the network below takes for a face."""


class Squares:
    """A network as OpenCV serves YuNet, that finds white squares of a least size in the view it is given."""

    def __init__(self, asked):
        self.asked, self.size_wh = asked, (320, 320)

    def setInputSize(self, size_wh):
        self.size_wh = size_wh

    def detect(self, image_bgr):
        assert image_bgr.shape[1::-1] == tuple(self.size_wh)
        self.asked.append(image_bgr.shape[:2])
        white = np.argwhere(image_bgr.min(axis=2) > 200)
        if not len(white):
            return 0, None
        (top, left), (bottom, right) = white.min(axis=0), white.max(axis=0) + 1
        if right - left < LEAST_PX:
            return 0, None
        return 1, np.array([[left, top, right - left, bottom - top, *[left] * 10, 0.9]], np.float32)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The sizes of the views that the network was asked about."""
    views = []
    monkeypatch.setattr(detector.cv2.FaceDetectorYN, "create", lambda *_: Squares(views))
    (tmp_path / "yunet.onnx").write_bytes(b"weights")
    return views


def picture(edge, size_hw=(200, 300)):
    image = np.zeros((*size_hw, 3), np.uint8)
    image[50 : 50 + edge, 100 : 100 + edge] = 255
    return image


@pytest.mark.parametrize(("edge", "views"), [(48, 3), (24, 2), (12, 1), (6, 0)])
def test_a_further_face_detector_finds_small_faces_in_enlarged_images(asked, tmp_path, edge, views):
    plate = Region(Kind.PLATE, (10, 10, 60, 25), score=0.7)
    detect = loading.with_faces(lambda images, threshold: [[plate] for _ in images], tmp_path / "yunet.onnx")
    (found,) = detect([picture(edge)], 0.3)
    assert found[0] == plate
    assert len(found) == 1 + views
    for region in found[1:]:
        assert np.abs(np.array(region.box_xyxy) - (100, 50, 100 + edge, 50 + edge)).max() <= 1
    # One face that was seen at several scales is one region.
    assert len(overlaps.merge(found)) == 1 + min(views, 1)


def test_what_scores_less_than_the_threshold_is_left_out(asked, tmp_path):
    detect = loading.with_faces(lambda images, threshold: [[] for _ in images], tmp_path / "yunet.onnx")
    assert detect([picture(48)], 0.95) == [[]]


def test_a_large_image_is_not_enlarged_beyond_the_limit(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "LARGEST_VIEW_PX", 5 * 200 * 300)
    detect = loading.with_faces(lambda images, threshold: [[] for _ in images], tmp_path / "yunet.onnx")
    asked.clear()
    detect([picture(48)], 0.3)
    assert asked == [(200, 300), (400, 600)]


@pytest.fixture
def without_generator(tmp_path):
    """A checkpoint whose base model and judges are not on this machine."""
    folder = tmp_path / "step_000001"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "data": {"sources": [{"name": "street", "layout": "pp4av", "root": ".", "exhaustive": ["face"]}]},
                "model": {"generator": {"diffusers": {"model_id": "/nowhere/base"}}},
                "judges": {"recognizer": "/nowhere/recognizer.onnx", "reader": "/nowhere/reader"},
            }
        )
    )
    save_file(detector.build_detector().state_dict(), folder / "detector.safetensors")
    manifests.write(folder, {"format": loading.FORMAT, "step": 1})
    return folder


@pytest.mark.parametrize("profile", ["blur", "solid"])
def test_a_profile_that_generates_nothing_needs_neither_the_base_model_nor_judges(without_generator, profile):
    anonymizer = loading.load_anonymizer(without_generator, "cpu", profile=profile)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    result, rows = anonymizer.anonymize(image, [Region(Kind.FACE, (20, 20, 50, 55))])
    assert [row.method for row in rows] == [profile]
    inside = np.s_[20:55, 20:50]
    assert result[inside].std() < image[inside].std() / 4
    assert np.array_equal(result[:10], image[:10])


def test_a_profile_that_generates_does_need_them(without_generator):
    with pytest.raises(WeightsError, match="nowhere"):
        loading.load_anonymizer(without_generator, "cpu", profile="realistic")


def test_a_checkpoint_of_a_large_gpu_is_usable_on_a_cpu(tmp_path):
    folder = save_pipeline("sd15", tmp_path / "base")

    def configured(**diffusers):
        return Config.model_validate(
            {
                "data": {"sources": [{"name": "street", "layout": "pp4av", "root": ".", "exhaustive": ["face"]}]},
                "model": {"generator": {"diffusers": {"model_id": str(folder), **diffusers}}},
                "precision": "fp16",
            }
        )

    cpu = torch.device("cpu")
    trained = load_generator(configured(), device=cpu, dtype=torch.float32)
    lora.make_trainable(trained, configured().model.finetune)
    lora.save_adapters(trained, tmp_path / "adapters")
    there = configured(enable_xformers=True, tiny_vae="/nowhere/taesd", gradient_checkpointing=True)
    generator = loading.load_adapted(loading.Checkpoint(tmp_path, there, {}, ""), cpu)
    assert generator.dtype == torch.float32
    assert set(generator.unet.peft_config) == {"face", "plate"}
