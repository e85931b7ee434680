"""What each part of joint training is worth: the demo with one thing changed a row, judged on the same val regions.

Run:   python benchmarks/ablation.py --config configs/demo.yaml [--rows demo base no_id ...] [--regions 60]
Takes: two to five minutes a row on two cores. Rows that are in the result file already are measured anew only if named.

Figures are those of the validation in training, every ten steps: judges that sit in losses too (the feature network of
KID is that of the perceptual loss), and one seed a row. They rank settings; the scorecard judges checkpoints. Rows of
another base model, or of another configuration, are dropped from the file.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from anony_pipeline.config import loading
from anony_pipeline.models import weights
from anony_pipeline.models.generator import SHIPPED_UNET
from anony_pipeline.storage import manifests
from anony_pipeline.training import journal, loop

RESULT = Path(__file__).parent / "results" / "ablation.json"
EVERY = 10
"""Steps between validations."""
FIGURES = ("kid", "fid", "arcface_mean_sim", "similarity_gap", "canary_auc", "easyocr_plate_acc", "val_map")
ROWS: dict[str, list[str]] = {
    "demo": [],
    # A rate of next to nothing leaves the base model as it is, and the detector too.
    "base": ["lr.generator=1e-12", "lr.detector=1e-12", "training.pretrain_steps=1", "training.max_steps=1"],
    "no_l1": ["loss.l1_weight=0"],
    "no_perceptual": ["loss.perceptual_weight=0"],
    "no_id": ["loss.id_suppress_weight=0"],
    "no_adv": ["loss.adv_weight=0"],
    "no_detection": ["loss.detection_weight=0"],
    "no_reading": ["loss.reading_weight=0"],
    "id_times_ten": ["loss.id_suppress_weight=1.0"],
    "full_finetuning": ["model.finetune.use_lora=false", "lr.generator=2.0e-4"],
    "rate_2e-3": ["lr.generator=2.0e-3"],
    "rate_5e-4": ["lr.generator=5.0e-4"],
    "rate_2e-4": ["lr.generator=2.0e-4"],
    "last_blocks_only": ['model.finetune.learnable_layers=["unet.mid_block", "unet.up_blocks[-1]"]'],
    "no_discriminator": ["model.discriminator.enabled=false"],
    "detector_frozen": ["alternating.detector=0"],
    "anchor_0.4": ["plate_text_anchor_strength=0.4"],
    # An audit: twenty faces are trained on with themselves as targets, twenty are left out.
    "canaries": ["training.canaries=40"],
    "four_steps": ["face_steps=4", "plate_steps=4"],
}


def measured(files: list[str], name: str, regions: int, folder: Path) -> dict:
    """Train one row and take the last validation's figures."""
    own = [f"paths.outputs={folder}/{name}", f"paths.private={folder}/{name}/private"]
    whole = [f"training.validate_every_steps={EVERY}", f"training.validation_regions={regions}"]
    report = loop.train(loading.load(files, [*own, *whole, *ROWS[name]]), mode="auto")
    facts = {"steps": report.step, "seconds_of_joint_training": round(report.seconds, 1)}
    over_steps = {
        str(int(row["step"])): of(row) for row in journal.read_metrics(report.metrics_file) if "val_map" in row
    }
    return {
        "changed": ROWS[name],
        **facts,
        "trained_parameters": report.trained_parameters,
        "figures": of(report.metrics),
        "over_steps": over_steps,
    }


def of(metrics: dict[str, float]) -> dict[str, float]:
    return {key: round(metrics[key], 4) for key in FIGURES if key in metrics}


def made_with(files: list[str], regions: int) -> dict:
    """What rows must have in common to be compared."""
    config = loading.load(files)
    settings = loading.fingerprint(
        loop.fingerprint(config, "joint", ""), config.data.model_dump_json(exclude={"sources"})
    )
    return {"regions": regions, "base": manifests.sha256_of(weights.shipped(SHIPPED_UNET))[:12], "settings": settings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", nargs="+", default=["configs/demo.yaml"])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--regions", type=int, default=120)
    options = parser.parse_args()
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    common = made_with(options.config, options.regions)
    rows = before.get("rows", {}) if before.get("made_with") == common else {}
    for name in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measured(options.config, name, options.regions, Path(folder))
        result = {
            "benchmark": "ablation",
            "made_with": common,
            "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__},
            "rows": {known: rows[known] for known in ROWS if known in rows},
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps(rows[name]["figures"]), flush=True)


if __name__ == "__main__":
    main()
