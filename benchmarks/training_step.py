"""One joint step against its parts: what alternation, sharing one generator pass, batches and bookkeeping cost.

Run:   python benchmarks/training_step.py [--steps 5] [--device cpu]
Takes: about a minute on two cores. Each device has a row of its own in the result.

The parts are measured in the same run as the whole, in turn, on the same tensors, and compared as ratios: one generator
pass forward and backward, each loss forward and backward on given images, the discriminator on given crops, and the
detector's step on given images. All weights are random: they don't change the time.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from anony_pipeline.models.recognizer import INPUT_SIZE
from anony_pipeline.structures.regions import Kind
from anony_pipeline.targets import faces, plates
from anony_pipeline.training import batches, cache, joint
from anony_pipeline.training.objective import Objective
from anony_pipeline.training.state import TrainingState
from anony_pipeline_tests.training import tiny

RESULT = Path(__file__).parent / "results" / "training_step.json"


def prepared(root: Path, device: torch.device):
    tiny.make_coco(root, count=8)
    coco = tiny.coco.load(root / "unified_train.json")
    changes = {
        "model__generator__face_size": 128,
        "model__generator__plate_height": 64,
        "model__discriminator__channels": 16,
        "model__finetune__lora_rank": 8,
        "model__finetune__learnable_layers": ["unet.mid_block", "unet.up_blocks[-1]"],
        "training__batch_size": 4,
        "training__detector_batch_size": 2,
        "training__detector_image_px": 320,
        "loss__read_suppress_weight": 0.0,
    }
    config = tiny.make_config(root, **changes)
    records = faces.make_face_targets(config, coco, recognizer=tiny.ColorRecognizer()).records
    records += plates.make_plate_targets(config, coco, ["FR"])["FR"].records
    data = cache.build(config, coco, records)
    networks = tiny.make_networks(config)
    for network in (networks.generator, networks.discriminator, networks.detector):
        network.to(device)  # before the state, which copies what it averages
    state = TrainingState.fresh(config, "joint", networks)
    critics = tiny.make_critics(config)
    for critic in (critics.recognizer, critics.reader, critics.detector):
        critic.to(device)
    return config, data, state, Objective(critics, state.networks.discriminator, config.loss, margin=0.0)


def seconds_of(action, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


class Parts:
    """The whole step and its parts, on one kind's batch."""

    def __init__(self, config, data, state, objective, kind: Kind, device: torch.device) -> None:
        self.config, self.data, self.state, self.objective, self.device = config, data, state, objective, device
        self.step = next(n for n in range(100) if batches.kind_of_step(data, config.seed, "joint", n) == kind)
        self.batch = self.draw()
        self.weights = objective.weights(kind, "joint")
        self.images = self.fill().detach().requires_grad_()
        generated = self.images.detach()
        self.made = batches.Generated(kind, self.batch.indices, self.batch.originals, self.batch.masks, generated)
        self.wholes = self.draw_wholes()

    def draw(self):
        return batches.draw_batch(
            self.data,
            self.state.networks.generator,
            size=self.config.training.batch_size,
            seed=self.config.seed,
            stream="joint",
            step=self.step,
            device=self.device,
        )

    def draw_wholes(self):
        size = self.config.training.detector_batch_size
        return batches.draw_detector_batch(self.data, self.made, size=size, seed=0, step=0, device=self.device)

    def fill(self):
        batch = self.batch
        return self.state.networks.generator.fill(
            batch.originals, batch.masks, batch.kind, noise=batch.noise, anchors=batch.anchors
        )

    def generator(self) -> None:
        outputs = self.fill()
        outputs.backward(torch.ones_like(outputs) / outputs.numel())

    def loss(self, name: str) -> None:
        self.objective.terms[name](self.batch, self.images).backward()

    def whole(self) -> None:
        joint.step_generator(self.state, self.draw(), self.objective)
        joint.step_discriminator(self.state, self.state.generated)
        self.made = self.state.generated
        joint.step_detector(self.state, self.draw_wholes())

    def all(self):
        self.state.networks.discriminator.requires_grad_(False)
        yield "generator_forward_backward", self.generator
        for name in self.weights:
            yield f"loss_{name}", lambda name=name: self.loss(name)
        yield "discriminator_step", lambda: joint.step_discriminator(self.state, self.made)
        yield "detector_step", lambda: joint.step_detector(self.state, self.wholes)


def measured(parts: Parts, steps: int, device: torch.device) -> dict:
    times: dict[str, list[float]] = {}
    for number in range(steps + 1):
        rows = [("joint_step", parts.whole), *parts.all()]
        for name, action in rows:
            taken = seconds_of(action, device)
            if number:  # the first round warms up
                times.setdefault(name, []).append(taken)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    whole = seconds.pop("joint_step")
    total = sum(seconds.values())
    return {
        "joint_step_seconds": round(whole, 4),
        "parts_seconds": {name: round(value, 4) for name, value in seconds.items()},
        "sum_of_parts_seconds": round(total, 4),
        "joint_step_over_parts": round(whole / total, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        made = prepared(Path(folder), device)
        kinds = {kind.value: measured(Parts(*made, kind, device), options.steps, device) for kind in Kind}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    row = {"threads": torch.get_num_threads(), "torch": torch.__version__, "steps": options.steps, "kinds": kinds}
    print(json.dumps(write(name, row), indent=1))


def write(device: str, row: dict) -> dict:
    """The result with this device's row; those of other devices stay."""
    known = json.loads(RESULT.read_text())["by_device"] if RESULT.exists() else {}
    result = {
        "benchmark": "training_step",
        "setting": {"batch": 4, "face_px": 128, "plate_px": "64x192", "detector_px": 320, "recognizer_px": INPUT_SIZE},
        "by_device": {**known, device: row},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
