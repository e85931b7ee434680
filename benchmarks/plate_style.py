"""How often the classifier of plate styles is right: on rendered plates that it has not seen, and on real ones.

``python benchmarks/plate_style.py [--each N] [--steps N] [--real DIR]``: fits it as the job `plate_style` does, with
less work, and writes ``benchmarks/results/plate_style.json``. ``DIR`` is as for `real_plates.py`; of its plates the
region alone is known (Europe, the USA, Brazil), and aggregates alone are written.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import real_plates
import torch

from anony_pipeline.fitting import plate_style
from anony_pipeline.fitting.loop import Plan
from anony_pipeline.models.plate_style import MIN_CONFIDENCE, StyleClassifier
from anony_pipeline.ops import images
from anony_pipeline.plates.styles import NEUTRAL, load_styles

RESULT = Path(__file__).parent / "results" / "plate_style.json"
UNSEEN = 12
EUROPE = {"AT", "BE", "CH", "CZ", "DE", "DK", "ES", "FI", "FR", "GB", "HU"}
EUROPE |= {"IE", "IT", "NL", "NO", "PL", "PT", "RO", "SE", "SK", "TR", "UA"}
REGIONS = {"eu": EUROPE, "us": {"US_CA", "US_FL", "US_IL", "US_MO", "US_NY", "US_TX"}, "br": {"BR", "BR_MERCOSUR"}}


def on_rendered(classifier: StyleClassifier, plates: plate_style.StyledPlates) -> dict[str, object]:
    """Right, neutral and wrong answers, by the confidence's threshold, and what is mistaken for what."""
    shown = [
        images.resize(image, (48, max(48, round(48 * float(aspect)))))
        for image, aspect in zip(plates.images, plates.aspects, strict=True)
    ]
    guesses = classifier.choose(shown)
    truth = [plates.styles[label] for label in plates.labels]
    told = [guess.style != NEUTRAL for guess in guesses]
    right = [guess.style == key for guess, key in zip(guesses, truth, strict=True)]
    mistaken = Counter(
        f"{key} taken for {guess.style}"
        for guess, key in zip(guesses, truth, strict=True)
        if guess.style not in (key, NEUTRAL)
    )
    return {
        "plates": len(truth),
        "right": round(float(np.mean(right)), 3),
        "left_neutral": round(1 - float(np.mean(told)), 3),
        "right_of_those_told": round(float(np.mean([r for r, t in zip(right, told, strict=True) if t])), 3),
        "by_style": {
            key: round(float(np.mean([r for r, k in zip(right, truth, strict=True) if k == key])), 2)
            for key in plates.styles
        },
        "most_mistaken": dict(mistaken.most_common(8)),
    }


def on_real(classifier: StyleClassifier, root: Path) -> dict[str, dict[str, float]]:
    """Whether the style is one of the right region; another region's plate may not be told at all."""
    found = real_plates.real_plates(root)
    result = {}
    for region, styles in REGIONS.items():
        guesses = classifier.choose([crop for crop, _, where, _ in found if where == region])
        told = [guess.style for guess in guesses if guess.style != NEUTRAL]
        result[region] = {
            "plates": len(guesses),
            "told": len(told),
            "of_the_right_region": sum(style in styles for style in told),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--real", type=Path)
    options = parser.parse_args()
    begin, styles = time.perf_counter(), load_styles()
    plates = plate_style.render_styled(styles, options.each, seed=0)
    print(f"rendered in {time.perf_counter() - begin:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(options.steps, 0, torch.device("cpu"), Path(folder) / "state")
        classifier = plate_style.fit_plate_style(plates, plan)
    measured = {
        "styles": len(plates.styles),
        "rendered_of_each": options.each,
        "steps_of_128": options.steps,
        "seconds": round(time.perf_counter() - begin),
        "least_confidence": MIN_CONFIDENCE,
        "unseen_rendered": on_rendered(classifier, plate_style.render_styled(styles, UNSEEN, seed=1)),
    }
    if options.real is not None:
        measured["real"] = on_real(classifier, options.real)
    RESULT.write_text(json.dumps(measured, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
