import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anony_pipeline.config.schema import Generator as GeneratorSettings
from anony_pipeline.fitting import crop_store, generator_crops, loop
from anony_pipeline.fitting import generator as fitting
from anony_pipeline.fitting.generator_crops import (
    FIRST_PERSON,
    _render_chunk,
    _scale_of,
    face_crop,
    plate_crop,
    render_crops,
)
from anony_pipeline.models.demo_pipeline import build_demo_unet
from anony_pipeline.models.recognizer import ArcFaceNet, load_recognizer_twin
from anony_pipeline.ops.masks import region_mask
from anony_pipeline.storage.manifests import sha256_of
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.targets.faces import warp_onto

COUNT = {Kind.FACE: 8, Kind.PLATE: 4}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder whose crops are rendered."""
    folder = tmp_path_factory.mktemp("work")
    render_crops(folder / "crops", count=COUNT, seed=0)
    return folder


@pytest.fixture
def fit(work, tmp_path):
    def run(name, **settings):
        own = tmp_path / name
        own.mkdir(exist_ok=True)
        if not (own / "crops").exists():
            (own / "crops").symlink_to(work / "crops")
        options = {"steps": 3, "seed": 0, "batch_size": 2, "crops": COUNT, **settings}
        options["recognizer"] = ArcFaceNet()
        facts = fitting.fit_generator(out=own / "out", work=own, **options)
        return facts, own / "out" / fitting.SHIPPED_UNET

    return run


def test_crops_are_a_function_of_seed_and_index():
    assert all(np.array_equal(a, b) for a, b in zip(face_crop(3, 7), face_crop(3, 7), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(plate_crop(3, 7), plate_crop(3, 7), strict=True))
    assert not np.array_equal(face_crop(3, 7)[0], face_crop(3, 8)[0])


def test_a_face_farther_away_is_the_same_one_in_fewer_pixels():
    def detail(picture):
        return np.abs(cv2.Laplacian(picture.astype(np.float32), cv2.CV_32F)).mean()

    for number in range(3):
        near, near_box = face_crop(0, number)
        far, far_box = face_crop(0, number, scale=0.2)
        assert far.shape == near.shape
        assert detail(far) < 0.5 * detail(near)
        # Detectors miss the true box otherwise each time: the faces are laid over each other before they are compared.
        moved = warp_onto(near, Region(Kind.FACE, tuple(near_box.tolist())), Region(Kind.FACE, tuple(far_box.tolist())))
        inside = tuple(slice(int(low), int(high)) for low, high in zip(far_box[1::-1], far_box[:1:-1], strict=True))
        smooth = cv2.GaussianBlur(moved, (0, 0), 3)
        assert np.corrcoef(smooth[inside].ravel(), far[inside].ravel())[0, 1] > 0.9


def test_some_of_the_crops_to_learn_from_are_soft():
    scales = [_scale_of(0, number) for number in range(1000)]
    soft = [scale for scale in scales if scale < 1]
    assert 0.35 < len(soft) / len(scales) < 0.45
    assert 0.15 <= min(soft) < 0.17
    assert 0.65 < max(soft) <= 0.7
    number = next(n for n, scale in enumerate(scales) if scale < 1)
    drawn, _ = _render_chunk((Kind.FACE, 0, number, number + 1))
    assert np.array_equal(drawn[0], face_crop(0, number, scale=scales[number])[0])


def test_regions_take_the_share_of_their_crop_that_they_take_in_use():
    settings = GeneratorSettings()
    for (image, box), context in (
        (face_crop(0, 1), settings.face_context),
        (plate_crop(0, 1)[::2], settings.plate_context),
    ):
        height, width = image.shape[:2]
        share = max((box[2] - box[0]) / width, (box[3] - box[1]) / height)
        assert 0.75 / context < share < 1.25 / context
        assert np.abs((box[:2] + box[2:]) / 2 - (width / 2, height / 2)).max() < 0.12 * width


def test_an_anchor_is_the_crop_with_its_plate_made_anew():
    for number in (3, 4, 5):
        image, anchor, box = plate_crop(0, number)
        x_min, y_min, x_max, y_max = box
        changed = np.argwhere((image != anchor).any(axis=2))
        assert image.shape == anchor.shape == (64, 192, 3)
        # Outside the box and a rim it is the photograph to the bit, also where it was cut from a small picture.
        rim = 0.25 * (x_max - x_min)
        assert (changed >= (y_min - rim, x_min - rim)).all()
        assert (changed <= (y_max + rim, x_max + rim)).all()
        inside = (slice(round(y_min), round(y_max)), slice(round(x_min), round(x_max)))
        gray, drawn = (picture.mean(axis=2)[inside] for picture in (image, anchor))
        same, mirrored = (np.corrcoef(gray.ravel(), other.ravel())[0, 1] for other in (drawn, drawn[:, ::-1]))
        assert mirrored + 0.2 < same < 1


def test_a_plate_that_hangs_out_of_its_crop_has_surroundings_too():
    quad = np.array([[20.0, 10], [300, 10], [300, 150], [20, 150]])
    for seed in range(8):
        assert generator_crops._vehicle(quad, np.random.default_rng(seed)).shape == (128, 384, 3)


def test_the_base_model_meets_nobody_of_the_demo():
    # The demo's people are numbered from 0, the judges' from 1,000,000.
    assert FIRST_PERSON >= 5_000_000


def test_rendered_crops_are_used_again(work):
    before = (work / "crops" / "faces.npy").stat().st_mtime_ns
    crops = render_crops(work / "crops", count=COUNT, seed=0)
    assert (work / "crops" / "faces.npy").stat().st_mtime_ns == before
    assert crops.faces.shape == (8, 128, 128, 3)
    assert crops.plates.shape == crops.anchors.shape == (4, 64, 192, 3)
    known = json.loads((work / "crops" / "crops.json").read_text())
    assert known == {"face": 8, "license_plate": 4, "seed": 0, "farther_away": [0.4, 0.15, 0.7]}


def test_crops_of_other_distances_are_rendered_anew(tmp_path, monkeypatch):
    def far():
        return render_crops(tmp_path, count={Kind.FACE: 4, Kind.PLATE: 1}, seed=0).faces.copy()

    near = far()
    monkeypatch.setattr(generator_crops, "FACES_FARTHER_AWAY", 1.0)
    assert not np.array_equal(far(), near)


def test_masks_equal_those_of_use():
    boxes = torch.tensor([[20.3, 11.0, 60.8, 50.2], [5.0, 2.0, 90.0, 60.0]])
    growth, shift = np.array([[1.15, 1.15], [1.3, 1.3]]), np.zeros((2, 2))
    masks = crop_store.box_masks(boxes, growth, shift, (64, 96))
    for mask, box, factor in zip(masks, boxes.tolist(), (1.15, 1.3), strict=True):
        expected = region_mask([Region(Kind.FACE, tuple(box))], (64, 96), growth=factor)
        assert np.array_equal(mask[0].numpy(), expected)


@pytest.mark.parametrize("kind", list(Kind))
def test_what_is_under_the_mask_is_never_an_input(work, kind):
    trainer = fitting._Trainer(4, 0, torch.device("cpu"), ArcFaceNet())
    store = crop_store.CropStore(render_crops(work / "crops", count=COUNT, seed=0), kind, torch.device("cpu"))
    batch = store.draw(2, np.random.default_rng(0))
    with torch.no_grad():
        first = trainer._completed(batch, *trainer._latents(batch))
        batch.images = batch.images.masked_fill(batch.masks > 0.5, 0.77)
        second = trainer._completed(batch, *trainer._latents(batch))
    assert torch.equal(first, second)


def test_a_plate_learns_with_the_coarse_colors_of_its_anchor_as_it_keeps_them_in_use(work):
    trainer = fitting._Trainer(4, 0, torch.device("cpu"), ArcFaceNet())
    store = crop_store.CropStore(render_crops(work / "crops", count=COUNT, seed=0), Kind.PLATE, torch.device("cpu"))
    batch = store.draw(2, np.random.default_rng(0))
    batch.anchors = torch.tensor([0.8, -0.4, 0.1]).view(1, 3, 1, 1).expand_as(batch.images)
    with torch.no_grad():
        made = trainer._completed(batch, *trainer._latents(batch))
    inside = batch.masks.expand_as(made) > 0.5
    means = [made[:, channel][inside[:, channel]].mean().item() for channel in range(3)]
    assert means == pytest.approx([0.8, -0.4, 0.1], abs=0.05)


def test_twins_share_the_crop_and_not_the_noise(work):
    store = crop_store.CropStore(render_crops(work / "crops", count=COUNT, seed=0), Kind.FACE, torch.device("cpu"))
    batch = store.draw(8, np.random.default_rng(0), twins=2)
    assert batch.twins == 2
    assert torch.equal(batch.images[:2], batch.images[-2:])
    assert torch.equal(batch.masks[:2], batch.masks[-2:])
    assert torch.equal(batch.boxes[:2], batch.boxes[-2:])


def test_boxes_follow_a_flip(work):
    store = crop_store.CropStore(render_crops(work / "crops", count=COUNT, seed=0), Kind.FACE, torch.device("cpu"))
    batch = store.draw(8, np.random.default_rng(0))
    for box, mask in zip(batch.boxes, batch.masks, strict=True):
        rows, columns = (mask[0].amax(dim=axis).nonzero()[:, 0] for axis in (1, 0))
        middle = torch.tensor([(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2])
        # A mask is the box, grown by up to 1.4 and shifted by a few percent.
        assert ((box[:2] + box[2:]) / 2 - middle).abs().max() < 0.1 * (box[2:] - box[:2]).max() + 1


def test_every_weight_learns_in_both_phases(work):
    trainer = fitting._Trainer(6, 0, torch.device("cpu"), ArcFaceNet())
    stores = [
        crop_store.CropStore(render_crops(work / "crops", count=COUNT, seed=0), k, torch.device("cpu")) for k in Kind
    ]
    before = {name: value.clone() for name, value in trainer.unet.named_parameters()}
    names = [
        set(trainer.train_step(stores[n % 2].draw(4, np.random.default_rng(n), twins=1 - n % 2))) for n in range(4)
    ]
    assert names[0] == {"pixel", "edges", "gradient_norm"}
    assert names[2] >= {"pixel", "edges", "features", "adversary", "likeness", "discriminator"}
    assert all(not torch.equal(value, before[name]) for name, value in trainer.unet.named_parameters())


def test_a_stopped_run_resumes_to_the_same_weights_bit_for_bit(fit, monkeypatch):
    _, whole = fit("whole")
    stopped = fitting._Trainer.train_step

    def stop_after_two(self, batch):
        if self.step == 2:
            raise KeyboardInterrupt
        result = stopped(self, batch)
        monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", 0.0)
        return result

    monkeypatch.setattr(fitting._Trainer, "train_step", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        fit("parts")
    monkeypatch.setattr(fitting._Trainer, "train_step", stopped)
    facts, parts = fit("parts")
    assert facts["steps"] == 3
    first, second = load_file(whole), load_file(parts)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_written_is_half_precision_and_has_a_picture(fit):
    facts, file = fit("none", steps=0)
    assert facts["steps"] == 0
    assert {value.dtype for value in load_file(file).values()} == {torch.float16}
    build_demo_unet().load_state_dict(load_file(file))
    assert (file.parent / fitting.PREVIEW).exists()


def test_training_goes_on_from_former_weights_once_their_adversary_knows_them(fit, work):
    _, former = fit("former")
    facts, file = fit("further", steps=0, former=former)
    first, second = load_file(former), load_file(file)
    assert facts["began_with_sha256"] == sha256_of(former)
    assert all(torch.equal(first[name], second[name]) for name in first)
    trainer = fitting._Trainer(16, 0, torch.device("cpu"), ArcFaceNet(), former)
    store = crop_store.CropStore(render_crops(work / "crops", count=COUNT, seed=0), Kind.PLATE, torch.device("cpu"))
    before = {name: value.clone() for name, value in trainer.unet.named_parameters()}
    learned = [set(trainer.train_step(store.draw(2, np.random.default_rng(n)))) for n in range(3)]
    assert learned[0] == learned[1] == {"discriminator", "r1"}
    assert learned[2] >= {"pixel", "features", "adversary", "discriminator"}
    assert any(not torch.equal(value, before[name]) for name, value in trainer.unet.named_parameters())


def test_a_further_training_holds_faces_to_what_the_former_weights_make_of_them(fit, work):
    _, former = fit("former")
    trainer = fitting._Trainer(16, 0, torch.device("cpu"), ArcFaceNet(), former)
    store = crop_store.CropStore(render_crops(work / "crops", count=COUNT, seed=0), Kind.FACE, torch.device("cpu"))
    batch = store.draw(2, np.random.default_rng(0))
    assert trainer.train_step(batch) == {"held_pixel": 0, "held_edges": 0}
    with torch.no_grad():
        for parameter in trainer.unet.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    trainer.step = 8  # after the rise of the learning rate
    off = [float(trainer.train_step(batch)["held_pixel"]) for _ in range(6)]
    assert 0 < off[-1] < 0.8 * off[0]
    assert trainer.turns.count(Kind.PLATE) > trainer.turns.count(Kind.FACE) > 0


@pytest.mark.slow
def test_a_few_hundred_steps_learn_the_light_and_the_text(tmp_path):
    facts = fitting.fit_generator(
        steps=200,
        seed=0,
        out=tmp_path / "out",
        work=tmp_path / "work",
        recognizer=load_recognizer_twin("shipped").network,
        batch_size=8,
        crops={Kind.FACE: 200, Kind.PLATE: 100},
    )
    # Gray in place of everything scores about 0.5 and 0.45.
    assert facts["face_l1"] < 0.3
    assert facts["license_plate_l1"] < 0.25
