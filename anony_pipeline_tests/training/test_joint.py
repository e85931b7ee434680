import copy
import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch

from anony_pipeline.errors import AnonyPipelineError
from anony_pipeline.models import lora
from anony_pipeline.models.reader import ALPHABET
from anony_pipeline.plates import serials
from anony_pipeline.runtime.processes import Team
from anony_pipeline.structures.regions import Kind
from anony_pipeline.training import batches, joint, pretrain
from anony_pipeline.training.networks import Critics
from anony_pipeline.training.objective import Objective
from anony_pipeline.training.state import TrainingState
from anony_pipeline_tests.training import tiny

CPU = torch.device("cpu")


@pytest.fixture
def parts(data, config):
    """State, objective and a function that draws a batch."""

    def make(stage="joint", **changes):
        settings = config(**changes)
        networks = tiny.make_networks(settings)
        state = TrainingState.fresh(settings, stage, networks)
        objective = Objective(tiny.make_critics(settings), networks.discriminator, settings.loss, margin=-1.0)
        return state, objective

    return make


def draw(data, state, kind, size=2):
    samples = data.samples[kind]
    indices = range(size)
    noise = torch.randn(
        state.networks.generator.noise_shape(size, samples.masks.shape[1:]), generator=torch.manual_seed(5)
    )
    return batches.assemble(samples, indices, samples.masks[list(indices)], noise, CPU)


def weights_of(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(before, module):
    return {name for name, value in module.state_dict().items() if not torch.equal(before[name], value)}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Kind.FACE, {"l1", "perceptual", "id", "adv", "detection"}),
        (Kind.PLATE, {"l1", "perceptual", "adv", "detection", "reading", "read_suppress"}),
    ],
    ids=["face", "plate"],
)
def test_each_kind_has_its_losses(parts, data, kind, expected):
    state, objective = parts()
    scalars = joint.step_generator(state, draw(data, state, kind), objective)
    assert set(scalars) == expected | {"gradient_norm"}
    assert all(math.isfinite(value) for value in scalars.values())


def test_a_generator_step_changes_only_the_adapter_of_its_kind(parts, data):
    state, objective = parts()
    nets = state.networks
    before = {name: weights_of(getattr(nets, name)) for name in ("generator", "discriminator", "detector")}
    # LoRA's second factor is zero at first, so the first step moves only that one.
    for _ in range(2):
        joint.step_generator(state, draw(data, state, Kind.FACE), objective)
    moved = changed(before["generator"], nets.generator)
    assert moved
    assert all(".lora_" in name and ".face." in name for name in moved)
    assert not changed(before["detector"], nets.detector)
    # Spectral normalization's power iteration goes on with every look; the weights stay.
    assert all(name.endswith(("_u", "_v")) for name in changed(before["discriminator"], nets.discriminator))


def test_a_discriminator_step_changes_the_discriminator_alone(parts, data):
    state, objective = parts()
    joint.step_generator(state, draw(data, state, Kind.PLATE), objective)
    before = {name: weights_of(getattr(state.networks, name)) for name in ("generator", "detector")}
    critic = weights_of(state.networks.discriminator)
    scalars = joint.step_discriminator(state, state.generated)
    assert set(scalars) == {"discriminator", "r1"}
    assert changed(critic, state.networks.discriminator)
    assert not changed(before["generator"], state.networks.generator)
    assert not changed(before["detector"], state.networks.detector)


def test_a_detector_step_lowers_its_loss(parts, data):
    state, _ = parts(lr__detector=3e-3)
    batch = batches.draw_detector_batch(data, None, size=2, seed=0, step=0, device=CPU)
    losses = [joint.step_detector(state, batch)["detector"] for _ in range(8)]
    assert losses[-1] < losses[0]


def test_judging_the_generator_leaves_the_discriminator_as_it_is(parts, data):
    state, objective = parts()
    before = {name: value.clone() for name, value in state.networks.discriminator.state_dict().items()}
    joint.step_generator(state, draw(data, state, Kind.FACE), objective)
    after = state.networks.discriminator.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_the_generator_made_is_kept_without_its_graph(parts, data):
    state, objective = parts()
    batch = draw(data, state, Kind.FACE)
    joint.step_generator(state, batch, objective)
    made = state.generated
    assert made.outputs.grad_fn is None
    outside = (batch.masks < 0.5).expand_as(made.outputs)
    assert torch.equal(made.outputs[outside], batch.originals[outside])


def test_a_loss_of_weight_zero_is_not_computed(parts, data):
    state, objective = parts(
        loss__id_suppress_weight=0, loss__adv_weight=0, loss__detection_weight=0, loss__perceptual_weight=0
    )
    objective.terms = {name: (lambda *_: pytest.fail("computed")) for name in objective.terms} | {
        "l1": objective.terms["l1"]
    }
    assert set(joint.step_generator(state, draw(data, state, Kind.FACE), objective)) == {"l1", "gradient_norm"}


def test_pretraining_measures_the_distance_to_the_target_alone(parts, data):
    state, objective = parts("pretrain")
    scalars = pretrain.step_pretrain(state, draw(data, state, Kind.FACE), objective)
    assert set(scalars) == {"l1", "perceptual", "gradient_norm"}
    assert state.generated is None


def test_pretraining_comes_nearer_to_its_targets(parts, data):
    state, objective = parts("pretrain", lr__generator=1e-2, loss__perceptual_weight=0, model__finetune__lora_rank=8)
    batch = draw(data, state, Kind.PLATE)
    losses = [pretrain.step_pretrain(state, batch, objective)["l1"] for _ in range(12)]
    assert losses[-1] < 0.97 * losses[0]


def with_neighbor(row, *, iscrowd):
    """What is known of a crop that shows another face in its corner."""
    return dataclasses.replace(
        row,
        neighbors_xyxy=(*row.neighbors_xyxy, (0.0, 0.0, 9.0, 9.0)),
        labels=(*row.labels, 1),
        iscrowd=(*row.iscrowd, iscrowd),
    )


def uneven(batch):
    """The batch with masks of different sizes, more or fewer regions in its crops, and an original serial unknown."""
    masks = batch.masks.clone()
    masks[0] = 1
    masks[1, ..., ::2] = 0
    rows = list(batch.rows)
    rows[0] = dataclasses.replace(rows[0], original_serial=None)
    rows[1] = with_neighbor(rows[1], iscrowd=False)
    return dataclasses.replace(batch, masks=masks, rows=tuple(rows))


def test_a_crowd_in_a_crop_is_nothing_that_the_detector_must_find(parts, data):
    state, objective = parts()
    batch = draw(data, state, Kind.FACE, size=2)
    outputs = batch.originals.clone()
    seen = []
    for extra in ({}, {"iscrowd": True}, {"iscrowd": False}):
        rows = [with_neighbor(row, **extra) if extra else row for row in batch.rows]
        losses = objective(dataclasses.replace(batch, rows=tuple(rows)), outputs, "joint")[1]
        seen.append(losses["detection"].item())
    alone, beside_a_crowd, beside_a_face = seen
    assert beside_a_face > alone > beside_a_crowd


@pytest.mark.parametrize("kind", list(Kind))
def test_accumulated_parts_give_the_losses_and_the_gradient_of_the_whole_batch(parts, data, kind):
    found = []
    for passes in (1, 4):
        state, objective = parts(training__accumulation=passes)
        batch = uneven(draw(data, state, kind, size=4))
        state.apply = lambda _: 0.0
        found.append((joint.step_generator(state, batch, objective), gradients_of(state)))
    (losses, gradients), (parted_losses, parted_gradients) = found
    assert parted_losses == pytest.approx(losses, rel=1e-4, abs=1e-6)
    assert parted_gradients.keys() == gradients.keys()
    whole, parted = (torch.cat([one[name].flatten() for name in gradients]) for one in (gradients, parted_gradients))
    assert (parted - whole).norm() < 1e-3 * whole.norm()


def gradients_of(state):
    parameters = state.networks.generator.unet.named_parameters()
    return {name: value.grad for name, value in parameters if value.grad is not None}


def one_by_one(state, batch, objective):
    """Let the generator fill the crops of a batch in a step each, and learn nothing.

    Returns what it made, and the mean of the gradients.
    """
    state.apply = lambda _: 0.0
    made = []
    for place in range(len(batch)):
        joint.step_generator(state, batch.part([place]), objective)
        made.append(state.generated.outputs)
    gradients = {name: value / len(batch) for name, value in gradients_of(state).items()}
    state.optimizers["generator"].zero_grad()
    return torch.cat(made), gradients


MIX = {"DE": {"plate": 1.0, "style_DE": 0.5}, "NL": {"style_DE": 1.0}}


def in_styles(batch, styles):
    rows = tuple(dataclasses.replace(row, style=style) for row, style in zip(batch.rows, styles, strict=True))
    return dataclasses.replace(batch, rows=rows)


def test_crops_of_different_adapters_are_filled_apart_and_learned_together(parts, data):
    losses = {f"loss__{name}_weight": 0 for name in ("adv", "detection", "perceptual", "reading", "read_suppress")}
    state, objective = parts(model__finetune__style_mix=MIX, **losses)
    weights = lora.trainable_parameters(state.networks.generator)
    for value in weights.values():
        torch.nn.init.normal_(value.data, std=0.1, generator=torch.manual_seed(4))
    batch = in_styles(draw(data, state, Kind.PLATE, size=4), ["NL", "FR", "DE", "NL"])
    made, wanted = one_by_one(state, batch, objective)
    joint.step_generator(state, batch, objective)
    # In the batch's order, whatever order they were filled in.
    assert torch.allclose(state.generated.outputs, made, atol=1e-5)
    learned = gradients_of(state)
    assert {name.split(".")[-2] for name in learned} == {"plate", "style_DE"}
    assert learned.keys() == wanted.keys()
    for name, gradient in learned.items():
        assert torch.allclose(gradient, wanted[name], atol=1e-6, rtol=1e-3), name


def test_small_crops_are_filled_at_half_of_their_size_and_learned_with_the_others(parts, data):
    losses = {f"loss__{name}_weight": 0 for name in ("adv", "detection", "perceptual", "id_suppress")}
    state, objective = parts(model__generator__small_crops=True, **losses)
    generator = state.networks.generator
    weights = lora.trainable_parameters(generator)
    for value in weights.values():
        torch.nn.init.normal_(value.data, std=0.1, generator=torch.manual_seed(4))
    batch = draw(data, state, Kind.FACE, size=4)
    # The crops are 32 px: half of that shows 16 px of an image.
    windows = [(0.0, 0.0, edge, edge) for edge in (40.0, 16.0, 16.1, 7.0)]
    rows = tuple(dataclasses.replace(row, window=window) for row, window in zip(batch.rows, windows, strict=True))
    batch = dataclasses.replace(batch, rows=rows)
    assert batches.small_of(generator, batch) == [False, True, False, True]
    seen = []
    generator.unet.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    made, _ = one_by_one(state, batch, objective)
    # Where what is made equals its target up to rounding, the sign of L1's gradient is a matter of the processor.
    near = (made - batch.targets).abs() < 1e-3
    batch = dataclasses.replace(batch, targets=torch.where(near, made + 0.01, batch.targets))
    seen.clear()
    made, wanted = one_by_one(state, batch, objective)
    assert [shape[-2:] for shape in seen] == [(32, 32), (16, 16), (32, 32), (16, 16)]
    seen.clear()
    joint.step_generator(state, batch, objective)
    assert [(shape[0], shape[-1]) for shape in seen] == [(2, 32), (2, 16)]
    assert torch.allclose(state.generated.outputs, made, atol=1e-5)
    learned = gradients_of(state)
    assert learned.keys() == wanted.keys()
    for name, gradient in learned.items():
        assert torch.allclose(gradient, wanted[name], atol=1e-6, rtol=1e-3), name


@pytest.mark.parametrize("styles", [["FR", "DE", "NL", "NL", "NL", "NL", "NL", "FR"], ["NL"] * 7 + ["DE"], ["NL"] * 8])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_processes_that_share_weights_make_equally_many_passes(parts, data, styles, accumulation):
    state, _ = parts(model__finetune__style_mix=MIX, training__fsdp=True, training__accumulation=accumulation)
    samples = data.samples[Kind.PLATE]
    indices = [0, 1, 2, 3] * 2
    batch = in_styles(batches.assemble(samples, indices, samples.masks[indices], torch.empty(8, 1), CPU), styles)
    counts, seen = set(), []
    for rank in range(2):
        state.team = Team(rank, 2)
        places, made = joint._parts(state, batch)
        counts.add(len(made))
        seen += places.tolist()
        for part in made:
            assert len(part) > 0
            assert len({lora.mix_of(state.networks.generator, Kind.PLATE, style) for style in part.styles}) == 1
    assert len(counts) == 1
    assert sorted(seen) == list(range(8))


def test_full_fine_tuning_changes_the_named_layers(parts, data):
    state, objective = parts(model__finetune__use_lora=False)
    before = weights_of(state.networks.generator)
    joint.step_generator(state, draw(data, state, Kind.FACE), objective)
    moved = changed(before, state.networks.generator)
    assert moved
    assert all(name.startswith("unet.mid_block") for name in moved)


def test_bf16_trains_with_float32_adapters(data, config):
    settings = config(precision="bf16")
    networks = tiny.make_networks(settings)
    networks.generator.unet.to(torch.bfloat16)
    for value in state_parameters(networks):
        value.data = value.data.float()
    state = TrainingState.fresh(settings, "joint", networks)
    objective = Objective(tiny.make_critics(settings), networks.discriminator, settings.loss, margin=-1.0)
    scalars = joint.step_generator(state, draw(data, state, Kind.PLATE), objective)
    assert all(math.isfinite(value) for value in scalars.values())
    assert all(value.dtype == torch.float32 for value in state_parameters(networks))


def state_parameters(networks):
    return [value for name, value in networks.generator.unet.named_parameters() if ".lora_" in name]


def test_a_loss_that_is_not_finite_is_skipped_and_counted(parts, data):
    state, objective = parts()
    batch = draw(data, state, Kind.FACE)
    before = weights_of(state.networks.generator)
    batch.targets[0, 0, 0, 0] = float("nan")
    batch.masks[:, :, 0, 0] = 1
    joint.step_generator(state, batch, objective)
    assert state.progress.bad_steps == 1
    assert not changed(before, state.networks.generator)
    joint.step_generator(state, draw(data, state, Kind.FACE), objective)
    assert state.progress.bad_steps == 1
    assert changed(before, state.networks.generator)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(parts):
    state, _ = parts()
    before = weights_of(state.networks.detector)
    for value in state.networks.detector.parameters():
        value.grad = torch.full_like(value, float("inf"))
    state.apply("detector")
    assert state.progress.bad_steps == 1
    assert not changed(before, state.networks.detector)


def test_fp16_gradients_that_no_scale_makes_finite_are_counted(parts):
    state, _ = parts()
    # As on a GPU: fp16 itself is not needed to search a scale.
    state.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    state.scaler.scale(torch.ones(1))
    counted = []
    for _ in range(4):
        for value in lora.trainable_parameters(state.networks.generator).values():
            value.grad = torch.full_like(value, float("nan"))
        state.apply("generator")
        counted.append(state.progress.bad_steps)
    assert counted == [0, 0, 1, 2]


def test_too_many_bad_steps_stop_the_run_and_name_the_last_good_checkpoint(parts, tmp_path):
    state, _ = parts(training__max_bad_steps=1)
    state.last_saved = tmp_path / "step_000007"
    state.skip("generator", "the loss is nan")
    with pytest.raises(AnonyPipelineError, match=r"last good checkpoint is .*step_000007"):
        state.skip("generator", "the loss is nan")


def test_gradients_are_clipped(parts):
    state, _ = parts(training__max_gradient_norm=0.5)
    for value in state.networks.discriminator.parameters():
        value.grad = torch.ones_like(value)
    seen = []
    state.optimizers["discriminator"].step = lambda: seen.append(
        torch.nn.utils.get_total_norm([value.grad for value in state.networks.discriminator.parameters()])
    )
    norm = state.apply("discriminator")
    assert norm > 0.5
    assert float(seen[0]) == pytest.approx(0.5, rel=1e-3)


def test_the_average_follows_the_weights_and_is_swapped_in_and_out(parts, data):
    state, objective = parts()
    start = copy.deepcopy(state.ema)
    for _ in range(2):
        joint.step_generator(state, draw(data, state, Kind.FACE), objective)
    learned = {name: value.clone() for name, value in state.networks.generator.unet.named_parameters()}
    name = next(name for name in state.ema if ".lora_B.face." in name)
    between = (state.ema[name] - start[name]).norm(), (learned[name] - start[name]).norm()
    assert 0 < between[0] < between[1]
    with state.averaged():
        inside = dict(state.networks.generator.unet.named_parameters())[name]
        assert torch.equal(inside, state.ema[name])
        assert not state.networks.generator.training
    assert torch.equal(dict(state.networks.generator.unet.named_parameters())[name], learned[name])
    assert state.networks.generator.training


def test_the_identity_hinge_reaches_the_adapters(parts, data):
    state, objective = parts(loss__l1_weight=0, loss__adv_weight=0, loss__detection_weight=0, loss__perceptual_weight=0)
    scalars = joint.step_generator(state, draw(data, state, Kind.FACE), objective)
    assert scalars["gradient_norm"] > 0


@pytest.mark.parametrize("step", [joint.step_generator, joint.step_discriminator, joint.step_detector])
def test_a_step_reads_like_the_algorithm(step):
    source = inspect.getsource(step)
    body = source.replace(step.__doc__, "")
    assert len(body.splitlines()) <= 40


def only(*names):
    """Switch all losses off but for these."""
    others = {"l1", "perceptual", "adv", "detection", "id_suppress", "reading", "read_suppress"} - set(names)
    return {f"loss__{name}_weight": 0 for name in others}


def test_the_distance_to_a_faces_target_counts_by_its_scale(parts, data):
    state, objective = parts(**only("l1"), loss__l1_weight=2.0, loss__face_l1_scale=0.25)
    for kind, weight in {Kind.FACE: 0.5, Kind.PLATE: 2.0}.items():
        batch = draw(data, state, kind)
        total, _ = objective(batch, torch.zeros_like(batch.originals), "joint")
        pairs = zip(batch.targets, batch.masks, strict=True)
        distance = np.mean([target[:, mask[0] > 0.5].abs().mean().item() for target, mask in pairs])
        assert total.item() == pytest.approx(weight * distance, rel=1e-4)


def spelled(texts):
    """A reader's log-probabilities, certain of each of these texts, whatever it is shown."""
    steps = [[code for letter in text for code in (1 + ALPHABET.index(letter), 0)] for text in texts]
    length = max(len(one) for one in steps)
    classes = torch.tensor([one + [0] * (length - len(one)) for one in steps])
    return (torch.nn.functional.one_hot(classes, len(ALPHABET) + 1) * 20.0).log_softmax(dim=2).transpose(0, 1)


@pytest.mark.parametrize("shown", ["intended", "original"])
def test_the_intended_serial_shall_be_read_and_the_original_shall_not(parts, data, shown):
    state, _ = parts()
    batch = draw(data, state, Kind.PLATE)
    texts = {
        "intended": [serials.normalize(row.serial) for row in batch.rows],
        "original": [serials.normalize(row.original_serial) for row in batch.rows],
    }
    assert not set(texts["intended"]) & set(texts["original"])
    loss = state.config.loss.model_copy(update={"read_suppress_weight": 1.0})
    objective = Objective(Critics(reader=lambda _: spelled(texts[shown])), None, loss, margin=0.0)
    found = {name: objective.terms[name](batch, batch.originals).item() for name in ("reading", "read_suppress")}
    if shown == "intended":
        assert max(found.values()) < 1e-3
    else:
        assert min(found.values()) > 3


def kept_logits(detector):
    """The class logits ``(N, places, 2)`` of the detector's next look, with the gradient that they will get."""
    kept = []

    def keep(_module, _inputs, outputs):
        outputs["cls_logits"].retain_grad()
        kept.append(outputs["cls_logits"])

    detector.model.head.register_forward_hook(keep)
    return kept


def assert_plates_are_negatives_in_the_second_alone(gradient):
    assert gradient.shape[0] == 2
    assert (gradient[:, :, 0] != 0).any(dim=1).all()
    assert not gradient[0, :, 1].any()
    assert gradient[1, :, 1].any()


def test_kinds_that_are_not_labeled_are_no_negatives_for_the_generator(parts, data):
    state, objective = parts(**only("detection"))
    batch = draw(data, state, Kind.FACE)
    face = {"neighbors_xyxy": ((4.0, 4.0, 28.0, 28.0),), "labels": (1,)}
    rows = (
        dataclasses.replace(batch.rows[0], **face, not_exhaustive=(2,)),
        dataclasses.replace(batch.rows[1], **face, not_exhaustive=()),
    )
    logits = kept_logits(objective.critics.detector)
    total, _ = objective(dataclasses.replace(batch, rows=rows), batch.originals.clone().requires_grad_(True), "joint")
    total.backward()
    assert_plates_are_negatives_in_the_second_alone(logits[0].grad)


def test_kinds_that_are_not_labeled_are_no_negatives_for_the_detector(parts):
    state, _ = parts()
    image = torch.rand(3, 96, 96, generator=torch.manual_seed(0))
    face = batches.detector_target([(20.0, 20.0, 50.0, 55.0)], [1], CPU)
    logits = kept_logits(state.networks.detector)
    joint.step_detector(state, batches.DetectorBatch([image, image], [face, face], [(2,), ()]))
    assert_plates_are_negatives_in_the_second_alone(logits[0].grad)


def test_the_slope_on_real_crops_is_part_of_what_the_discriminator_learns_from(parts, data):
    def gradients(weight):
        state, _ = parts(loss__r1_weight=weight)
        batch = draw(data, state, Kind.FACE)
        made = batches.Generated(batch.kind, batch.indices, batch.originals, batch.masks, batch.targets)
        state.apply = lambda _: 0.0
        joint.step_discriminator(state, made)
        critic = state.networks.discriminator
        return torch.cat([value.grad.flatten() for value in critic.parameters()]), state, batch

    (without, state, batch), (with_penalty, *_) = gradients(0), gradients(3)
    # By hand, on a critic that has looked at nothing yet: the squared slope of each crop's scores, the mean over crops.
    critic = tiny.make_networks(state.config).discriminator.train()
    real = batch.originals.clone().requires_grad_(True)
    scores = critic(real, batch.masks, batch.kind)
    means = [one.logits[place][one.weights[place] > 0].mean() for one in scores for place in range(2)]
    (slope,) = torch.autograd.grad(sum(means), real, create_graph=True)
    (3 / 2 * slope.square().sum() / 2).backward()
    wanted = torch.cat(
        [torch.zeros(value.numel()) if value.grad is None else value.grad.flatten() for value in critic.parameters()]
    )
    assert wanted.norm() > 0
    assert (with_penalty - without - wanted).norm() < 1e-3 * wanted.norm()
