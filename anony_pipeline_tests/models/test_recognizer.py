import cv2
import numpy as np
import pytest
import torch
from insightface.utils import face_align

from anony_pipeline.errors import WeightsError
from anony_pipeline.models import recognizer, weights
from anony_pipeline.ops import images
from anony_pipeline.structures.regions import Kind, Region


def trained_like(network, seed=0):
    """Random weights with batch statistics that are not the initial ones, as after training."""
    torch.manual_seed(seed)
    network.train()
    for _ in range(3):
        network(torch.rand(4, 3, 112, 112) * 2 - 1)
    weights.round_to_half(network)
    return network.eval()


@pytest.fixture(scope="module", params=sorted(recognizer.ARCHITECTURES))
def exported(request, tmp_path_factory):
    network = trained_like(recognizer.ARCHITECTURES[request.param]())
    path = tmp_path_factory.mktemp("onnx") / f"{request.param}.onnx"
    recognizer.export_onnx(network, path)
    return network, path


@pytest.fixture(scope="module")
def crops():
    return list(np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8))


def test_insightface_serves_the_exported_file_and_agrees_with_the_torch_twin(exported, crops):
    network, path = exported
    judge = recognizer.load_recognizer(str(path))
    with torch.no_grad():
        twin = recognizer.RecognizerTwin(network)(images.to_tensor(crops)).numpy()
    assert judge.input_size == 112
    np.testing.assert_allclose(judge.embed(crops), twin, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(judge.embed(crops), axis=1), 1, atol=1e-5)


def test_a_judge_embeds_any_number_of_crops_and_each_as_if_alone(exported, crops):
    judge = recognizer.load_recognizer(str(exported[1]))
    assert judge.embed([]).shape == (0, 512)
    np.testing.assert_allclose(judge.embed(crops)[3], judge.embed(crops[3:4])[0], atol=1e-5)


def test_the_card_says_library_file_and_sum_but_no_path_of_this_machine(exported):
    card = recognizer.load_recognizer(str(exported[1])).judge
    assert card.library.startswith("insightface ")
    assert card.sha256 == weights.check_sha256(exported[1], None)
    assert "/tmp" not in str(card.as_dict())


def test_a_third_party_onnx_file_gets_a_differentiable_twin_with_the_same_embeddings(exported, crops):
    twin = recognizer.load_recognizer_twin(str(exported[1]))
    pixels = images.to_tensor(crops).requires_grad_()
    embeddings = twin(pixels)
    (gradient,) = torch.autograd.grad(embeddings[:, 0].sum(), pixels)
    assert gradient.abs().max() > 0
    judged = recognizer.load_recognizer(str(exported[1])).embed(crops)
    np.testing.assert_allclose(embeddings.detach().numpy(), judged, atol=1e-4)


@pytest.mark.parametrize("architecture", sorted(recognizer.ARCHITECTURES))
def test_safetensors_are_computed_by_torch_and_agree_with_the_onnx_file(architecture, crops, tmp_path):
    network = trained_like(recognizer.ARCHITECTURES[architecture]())
    recognizer.export_onnx(network, tmp_path / "own.onnx")
    weights.save_half(tmp_path / "own.safetensors", network)
    judge = recognizer.load_recognizer(str(tmp_path / "own.safetensors"))
    served = recognizer.load_recognizer(str(tmp_path / "own.onnx"))
    np.testing.assert_allclose(judge.embed(crops), served.embed(crops), atol=2e-3)
    assert judge.embed([]).shape == (0, 512)
    assert (judge.judge.library, judge.judge.weights) == (f"torch {torch.__version__}", "own.safetensors")
    twin = recognizer.load_recognizer_twin(str(tmp_path / "own.safetensors"))
    with torch.no_grad():
        np.testing.assert_allclose(twin(images.to_tensor(crops)).numpy(), judge.embed(crops), atol=1e-6)


def test_safetensors_of_something_else_are_refused(tmp_path):
    weights.save_half(tmp_path / "linear.safetensors", torch.nn.Linear(2, 2))
    with pytest.raises(WeightsError, match=r"no face recognizer[\s\S]*bias, weight"):
        recognizer.load_recognizer(str(tmp_path / "linear.safetensors"))


def test_the_shipped_twin_loads_from_safetensors_and_passes_gradients(tmp_path, monkeypatch):
    network = trained_like(recognizer.ArcFaceNet())
    weights.save_half(tmp_path / "recognizer.safetensors", network)
    monkeypatch.setattr(weights, "shipped", lambda name: tmp_path / name)
    twin = recognizer.load_recognizer_twin("shipped")
    pixels = (torch.rand(2, 3, 112, 112) * 2 - 1).requires_grad_()
    with torch.no_grad():
        torch.testing.assert_close(twin(pixels), recognizer.RecognizerTwin(network)(pixels))
    assert torch.autograd.grad(twin(pixels)[:, :5].sum(), pixels)[0].abs().max() > 0


def test_architectures_differ_and_stay_small():
    sizes = [sum(p.numel() for p in make().parameters()) for make in recognizer.ARCHITECTURES.values()]
    assert sizes[0] <= 1_000_000
    assert sizes[1] <= 1_600_000


def test_a_pack_is_searched_for_its_recognizer(exported, tmp_path):
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "w600k.onnx").write_bytes(exported[1].read_bytes())
    torch.onnx.export(
        torch.nn.Conv2d(3, 2, 96), (torch.zeros(1, 3, 96, 96),), str(pack / "genderage.onnx"), dynamo=False
    )
    assert recognizer.recognizer_file("pack", weights_dir=tmp_path).name == "w600k.onnx"
    (pack / "w600k.onnx").unlink()
    with pytest.raises(WeightsError, match=r"holds no face recognizer[\s\S]*genderage\.onnx"):
        recognizer.recognizer_file("pack", weights_dir=tmp_path)


def test_a_file_that_is_no_onnx_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(WeightsError, match="does not take the file for a face recognizer"):
        recognizer.load_recognizer(str(tmp_path / "x.onnx"))


def test_alignment_by_five_points_is_insightfaces_own():
    rng = np.random.default_rng(1)
    points = rng.uniform(40, 200, (5, 2)).astype(np.float32)
    region = Region(Kind.FACE, (0, 0, 1, 1), landmarks=tuple(map(tuple, points.tolist())))
    np.testing.assert_allclose(recognizer.alignment(region), face_align.estimate_norm(points), rtol=1e-4, atol=1e-3)


def test_a_box_is_aligned_to_a_square_window_about_it():
    matrix = recognizer.alignment(Region(Kind.FACE, (100, 50, 140, 110)))
    inverse = cv2.invertAffineTransform(matrix)
    corners = inverse[:, :2] @ np.array([[0, 112], [0, 112]]) + inverse[:, 2:]
    (left, right), (top, bottom) = corners
    assert right - left == pytest.approx(bottom - top) == pytest.approx(60 * recognizer.BOX_CONTEXT)
    assert (left + right) / 2 == pytest.approx(120)


def test_aligning_a_face_that_is_in_place_already_changes_nothing():
    image = np.random.default_rng(2).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    points = tuple(map(tuple, recognizer.ARCFACE_POINTS.tolist()))
    aligned = recognizer.align(image, Region(Kind.FACE, (0, 0, 112, 112), landmarks=points))
    assert np.abs(aligned.astype(int) - image).max() <= 1


def test_shrinking_a_large_face_averages_instead_of_aliasing():
    stripes = np.zeros((1120, 1120, 3), np.uint8)
    stripes[:, ::2] = 255
    points = tuple(map(tuple, (recognizer.ARCFACE_POINTS * 10).tolist()))
    aligned = recognizer.align(stripes, Region(Kind.FACE, (0, 0, 1120, 1120), landmarks=points))
    assert np.abs(aligned[10:-10, 10:-10].astype(int) - 127).max() < 10


def test_the_exported_file_stores_halves(exported):
    network, path = exported
    assert path.stat().st_size < 2.1 * sum(parameter.numel() for parameter in network.parameters())
