"""Attackers who train, with the judges that are shipped: a blur must look as bad as it is."""

import json

import numpy as np
import pytest

from anony_pipeline.config.schema import Streetscape
from anony_pipeline.datasets.streetscape import writer
from anony_pipeline.evaluation import folders
from anony_pipeline.ops import images, redact

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ATTACKS = ("attack_parrot", "attack_restoration")
WEAK = 0.06
"""Sigma of a weak blur over a face's shorter edge; the baseline's is 0.3."""


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Weakly blurred faces beside the baselines, attacked by a parrot and by restoration."""
    root = tmp_path_factory.mktemp("attacked")
    writer.write(Streetscape(seed=5, people=12, scenes=60), root / "widerface", root / "pp4av")
    truth = json.loads((root / "widerface" / writer.TRUTH).read_text())["images"]
    boxes = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "face"}]}
    for number, (name, known) in enumerate(sorted(truth.items()), start=1):
        picture = images.read(root / "widerface" / name)
        boxes["images"].append({"id": number, "file_name": name, "height": picture.shape[0], "width": picture.shape[1]})
        for region in known["regions"]:
            if region["kind"] == "face" and min(region["bbox"][2:]) >= 24:
                boxes["annotations"].append(
                    {"id": len(boxes["annotations"]) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
                    | {"bbox": region["bbox"], "area": float(np.prod(region["bbox"][2:]))}
                    | {"identity": region["identity"], "landmarks": region["landmarks"]}
                )
                picture = weakly_blurred(picture, region["bbox"])
        images.write(root / "blurred" / f"{name.rsplit('.', 1)[0]}.png", picture)
    (root / "boxes.json").write_text(json.dumps(boxes))
    attacks = {"kinds": list(ATTACKS_BY_NAME), "methods": ["anonymizer", "solid"], "steps": 80, "max_faces": 400}
    settings = [
        f"evaluation.attacks={json.dumps(attacks)}",
        "evaluation.baselines=[none, solid]",
        f"paths.cache={root}",
    ]
    config = folders.configuration([], settings)
    return folders.evaluate(config, root / "widerface", root / "blurred", root / "boxes.json", root / "out")


ATTACKS_BY_NAME = tuple(name.removeprefix("attack_") for name in ATTACKS)


def weakly_blurred(picture, bbox):
    x, y, w, h = (round(value) for value in bbox)
    mask = np.zeros(picture.shape[:2], np.float32)
    mask[max(0, y) : y + h, max(0, x) : x + w] = 1
    return redact.blur(picture, mask, WEAK)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_weak_blur_is_broken_and_solid_color_is_not(judged, attack):
    weak, solid = judged.row().figures[attack], judged.row("solid").figures[attack]
    assert weak.value is not None, weak.reason
    assert weak.value > 3 * weak.chance
    assert weak.interval[0] > weak.chance
    assert solid.interval[0] <= 2 * solid.chance
    assert weak.value > solid.value + 0.2


def test_what_attackers_could_spend_is_said(judged):
    assert judged.attackers["steps"] == 80
    assert judged.row().figures["attack_parrot"].judge.endswith("80 steps")
