import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anony_pipeline.fitting import distillation, loop
from anony_pipeline.fitting.crop_store import CropStore
from anony_pipeline.fitting.generator_crops import render_crops
from anony_pipeline.fitting.teacher import FlowNet
from anony_pipeline.losses import reconstruction
from anony_pipeline.models import weights
from anony_pipeline.models.demo_pipeline import build_demo_unet
from anony_pipeline.models.generator import SHIPPED_UNET
from anony_pipeline.models.recognizer import ArcFaceNet
from anony_pipeline.structures.regions import Kind
from anony_pipeline_tests.fitting.test_teacher import GaussianFlow

TINY = (32, 32)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    crops = render_crops(tmp_path_factory.mktemp("crops"), count={Kind.FACE: 8, Kind.PLATE: 4}, seed=0)
    return {kind: CropStore(crops, kind, CPU) for kind in Kind}


@pytest.fixture(scope="module")
def former(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("former") / "unet.safetensors"
    weights.save_half(file, build_demo_unet())
    return file


@pytest.fixture
def student(former):
    torch.manual_seed(0)
    guides = distillation.Guides(FlowNet(TINY), ArcFaceNet())
    return distillation.Student(guides, former, steps=distillation.Steps(0, 8), seed=0, device=CPU)


def test_matching_moves_what_is_made_to_where_the_teacher_makes_more(student, stores):
    """Between two Gaussians the divergence's gradient is known: it points from one mean to the other."""
    student.teacher, student.score = GaussianFlow(0.4, 0.2), GaussianFlow(-0.1, 0.2)
    batch = stores[Kind.FACE].draw(4, np.random.default_rng(0))
    outputs = torch.full_like(batch.images, -0.1)
    direction, distance = student._matching(outputs, batch)
    inside = (batch.masks > 0.5).expand_as(direction)
    # What is subtracted is made - real: it must be negative where the teacher is brighter.
    assert (direction[inside] < 0).all()
    assert (direction[~inside] == 0).all()
    assert distance > 0
    student.teacher = GaussianFlow(-0.1, 0.2)
    assert student._matching(outputs, batch)[0].abs().max() < 1e-4


def test_the_length_is_that_of_the_pixel_distances_gradient():
    masks = torch.zeros(3, 1, 16, 16)
    masks[0, :, 2:9, 3:12], masks[1, :, :4, :4], masks[2, :, 5:, 5:] = 1, 1, 1
    outputs = torch.randn(3, 3, 16, 16, requires_grad=True)
    gradient = torch.autograd.grad(reconstruction.masked_l1(outputs, torch.zeros(3, 3, 16, 16), masks), outputs)[0]
    assert distillation._length_of_pixel_distance(masks).item() == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_coarse_distance_is_that_of_the_means_of_patches():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 2, 3, 8, 12)).astype(np.float32)
    masks = (rng.random((2, 1, 8, 12)) < 0.6).astype(np.float32)
    expected = 0.0
    for a, b, mask in zip(first, second, masks, strict=True):
        total = 0.0
        for y in range(0, 8, 4):
            for x in range(0, 12, 4):
                patch = ((a - b) * mask)[:, y : y + 4, x : x + 4]
                total += np.abs(patch.mean(axis=(1, 2))).sum()
        expected += total * 16 / (3 * mask.sum()) / 2
    measured = distillation._coarse_l1(*(torch.from_numpy(value) for value in (first, second, masks)))
    assert measured.item() == pytest.approx(expected, rel=1e-4)


def test_a_critic_learns_what_is_made_and_its_gradient_makes_it_more_like_what_is_drawn(student, stores, monkeypatch):
    monkeypatch.setattr(distillation, "CRITIC_TIMES", (0.02, 0.2))
    batch = stores[Kind.FACE].draw(2, np.random.default_rng(0))
    outputs = torch.where(batch.masks > 0.5, -batch.images, batch.images).requires_grad_(True)
    student.critic_optimizer.param_groups[0]["lr"] = 2e-3
    told = []
    for student.step in range(12):
        direction, passed, critic = student._passing(outputs, batch)
        told.append(critic.item())
    assert told[0] == pytest.approx(2, abs=0.5)  # it knows nothing: the hinge's value at 0
    assert np.mean(told[-3:]) < 0.6 * told[0]
    outside = (batch.masks < 0.5).expand_as(direction)
    assert (direction[outside] == 0).all()
    assert (direction[~outside] != 0).any()
    student.critic_optimizer.param_groups[0]["lr"] = 0.0
    direction, passed, _ = student._passing(outputs, batch)
    with torch.no_grad():
        moved = outputs - 0.05 * direction / direction.abs().max()
    assert student._passing(moved.requires_grad_(True), batch)[1] < passed


def test_a_critic_counts_the_places_that_touch_a_mask():
    torch.manual_seed(0)
    critic, masks = distillation.Critic((32, 64)), torch.zeros(1, 1, 32, 32)
    masks[..., 9:12, 15:18] = 1
    scores = critic([torch.randn(1, 32, 8, 8), torch.randn(1, 64, 4, 4)], masks)
    assert [one.logits.shape for one in scores] == [(1, 1, 8, 8), (1, 1, 4, 4)]
    assert [one.weights.nonzero()[:, 2:].tolist() for one in scores] == [[[2, 3], [2, 4]], [[1, 1], [1, 2]]]


def test_what_is_blurred_goes_as_what_is_sharp_comes(student):
    student.steps, found = distillation.Steps(50, 100), []
    for student.step in (0, 49, 60, 75, 90, 149):
        found.append(student.sharpness)
    assert found == pytest.approx([0, 0, 0, 0.5, 1, 1])


def test_the_first_steps_follow_alone_and_ask_no_critic(student, stores, tmp_path):
    """Of a size that the rest has, they would take several times as long."""
    student.steps = distillation.Steps(4, 8)
    pairs = distillation.Pairs(student, stores[Kind.FACE], (2, 2), tmp_path)
    asked = [value.clone() for net in (student.score, student.critic) for value in net.parameters()]

    def take(count):
        learned = [distillation.train_step(student, pairs, stores[Kind.PLATE]) for _ in range(count)]
        now = [value for net in (student.score, student.critic) for value in net.parameters()]
        return {name for losses in learned for name in (losses.get("faces") or {})}, [
            torch.equal(*both) for both in zip(asked, now, strict=True)
        ]

    followed, kept = take(4)
    assert followed == {"fine", "coarse", "who"}
    assert all(kept)
    followed, kept = take(8)
    assert followed == {"fine", "coarse", "who", "pass", "critic", "score", "match"}
    assert not any(kept)


def test_every_weight_learns_to_follow_and_the_teacher_stays(student, stores, tmp_path):
    pairs = distillation.Pairs(student, stores[Kind.FACE], (2, 2), tmp_path)
    before = {name: value.clone() for name, value in student.unet.named_parameters()}
    taught = [value.clone() for value in student.teacher.parameters()]
    learned = [distillation.train_step(student, pairs, stores[Kind.PLATE]) for _ in range(8)]
    assert learned[3].keys() == learned[7].keys() == {"plates"}
    faces = [losses.get("faces") or losses["further"] for losses in learned if "plates" not in losses]
    assert "match" not in faces[0]
    assert all(("who" in losses) != ("kept" in losses) for losses in faces)
    assert any("who" in losses for losses in faces)
    assert all({"match", "pass", "critic", "score"} <= set(losses) for losses in faces[-3:])
    assert all(not torch.equal(value, before[name]) for name, value in student.unet.named_parameters())
    assert all(torch.equal(*both) for both in zip(taught, student.teacher.parameters(), strict=True))


def test_who_a_face_is_follows_the_teacher(student, stores, tmp_path, monkeypatch):
    """Of one batch, shown again and again to a student that is asked for nothing else, what is asked for comes."""
    monkeypatch.setattr(distillation, "FINE", (0.0, 0.0))
    monkeypatch.setattr(distillation, "COARSE", (0.0, 0.0))
    monkeypatch.setattr(distillation, "BEGIN", 2.0)
    monkeypatch.setattr(distillation, "WHOLE", 3.0)
    batch, noise, followed = distillation.Pairs(student, stores[Kind.FACE], (1, 4), tmp_path)[0]
    student.steps = distillation.Steps(0, 1000)
    off = []
    for student.step in [7] * 6:  # the same place and coarseness of what the recognizer sees
        off.append(student.face_step(batch, noise, followed)["who"].item())
    assert off[-1] < 0.7 * off[0]


def test_another_recognizers_training_is_not_gone_on_from(student, former):
    torch.manual_seed(1)
    guides = distillation.Guides(student.teacher, ArcFaceNet())
    other = distillation.Student(guides, former, steps=student.steps, seed=0, device=CPU)
    state = student.state()
    state["step"] = 3
    other.resume(state)
    assert other.step == 0
    student.resume(state)
    assert student.step == 3


def test_plates_begin_as_the_former_generator_makes_them_and_are_held_there(student, stores):
    batch = stores[Kind.PLATE].draw(2, np.random.default_rng(0))
    assert student.plate_step(batch)["pixel"].item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for value in student.unet.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
    assert student.plate_step(batch)["pixel"].item() > 0.01


def test_pairs_are_functions_of_their_number_and_kept(student, stores, tmp_path):
    pairs = distillation.Pairs(student, stores[Kind.FACE], (2, 2), tmp_path)
    batch, noise, pictures = pairs[1]
    (file,) = tmp_path.glob("pairs-*.npy")
    kept = file.stat().st_mtime_ns
    again_batch, again_noise, again_pictures = distillation.Pairs(student, stores[Kind.FACE], (2, 2), tmp_path)[1]
    assert file.stat().st_mtime_ns == kept
    assert torch.equal(noise, again_noise)
    assert torch.equal(pictures, again_pictures)
    assert torch.equal(batch.masks, again_batch.masks)
    assert (pictures - pairs.completed(batch, noise)).abs().max() < 0.005  # kept as bytes
    outside = (batch.masks < 0.5).expand_as(pictures)
    assert (pictures - batch.images)[outside].abs().max() < 0.005


def test_a_stopped_run_resumes_to_the_same_weights_bit_for_bit(stores, former, tmp_path, monkeypatch):
    def run(name):
        torch.manual_seed(0)
        work = tmp_path / name
        return distillation.distill(
            distillation.Guides(FlowNet(TINY), ArcFaceNet()),
            stores,
            former=former,
            steps=distillation.Steps(2, 3),
            seed=0,
            out=work,
            work=work,
            chunks=(2, 2),
        )

    run("whole")
    step = distillation.train_step

    def stop_after_three(student, *args):
        if student.step == 3:
            raise KeyboardInterrupt
        monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", 0.0)
        return step(student, *args)

    monkeypatch.setattr(distillation, "train_step", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    begun = []

    def look(student, *args):
        begun.append(student.step)
        return step(student, *args)

    monkeypatch.setattr(distillation, "train_step", look)
    facts = run("parts")
    assert begun == [3, 4]
    first, second = (load_file(tmp_path / name / SHIPPED_UNET) for name in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {value.dtype for value in first.values()} == {torch.float16}
    assert facts["pairs"] == 4
    assert facts["face_l1_to_teacher"] > 0
    assert (tmp_path / "parts" / distillation.PREVIEW).exists()
