"""Cross-fitting: users train on the very images that they then anonymize; here no image meets a model that saw it."""

from dataclasses import dataclass
from pathlib import Path

from anony_pipeline.anonymize import dataset
from anony_pipeline.anonymize.dataset import DatasetReport
from anony_pipeline.config.schema import Config
from anony_pipeline.errors import ConfigError
from anony_pipeline.training import loop


@dataclass(frozen=True)
class CrossFit:
    """What came of it.

    Attributes:
        checkpoints: One a fold: the k-th was trained without fold k.
        anonymized: The set that they anonymized.
    """

    checkpoints: tuple[Path, ...]
    anonymized: DatasetReport


def cross_fit(config: Config, output: Path) -> CrossFit:
    """Train once for each of `training.folds`, and anonymize each training image by the model that was not shown it.

    An interrupted call goes on from its last good checkpoint. Each training leaves its checkpoints and figures in
    ``fold_<k>`` below `paths.outputs`. Val images are in no training, and are anonymized by the first model.

    Args:
        config: With `training.folds` of 2 or more.
        output: The anonymized set; see `dataset.anonymize_dataset`.

    Raises:
        ConfigError: If there is only one fold.
        AnonyPipelineError: If a training was stopped or failed.
    """
    folds = config.training.folds
    if folds < 2:
        raise ConfigError(
            "cross-fitting needs folds",
            where="training.folds",
            got=folds,
            allowed="2 or more; 3 to 5 are usual",
            do="set training.folds",
        )
    checkpoints = []
    for left_out in range(folds):
        report = loop.train(without(config, left_out))
        checkpoints.append(report.checkpoint)
    return CrossFit(tuple(checkpoints), dataset.anonymize_dataset(config, checkpoints, output))


def without(config: Config, left_out: int) -> Config:
    """The configuration of the training that is not shown one fold: with outputs of its own."""
    places = {name: f"{getattr(config.paths, name)}/fold_{left_out}" for name in ("outputs", "private")}
    return config.model_copy(
        update={
            "paths": config.paths.model_copy(update=places),
            "training": config.training.model_copy(update={"left_out": left_out}),
        }
    )
