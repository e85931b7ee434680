"""The models that measure: loaded through the libraries that planB uses, and named by their cards."""

from typing import TYPE_CHECKING

import dagster as dg

from anony_pipeline.defs import metadata
from anony_pipeline.defs.resources import Experiment

if TYPE_CHECKING:
    from anony_pipeline.models.judges import JudgeCard

GROUP = "judges"


@dg.asset(group_name=GROUP, kinds={"insightface"})
def face_recognizer(experiment: Experiment) -> dg.MaterializeResult:
    """Embeds faces, through InsightFace; it may serve in a loss, so it never judges alone."""
    from anony_pipeline.anonymize import loading
    from anony_pipeline.runtime.device import choose_device

    config = experiment.config()
    return _said_by(loading.load_verifiers(config, choose_device(config.device))[0].judge)


@dg.asset(group_name=GROUP, kinds={"easyocr"})
def plate_reader(experiment: Experiment) -> dg.MaterializeResult:
    """Reads plates, through EasyOCR; it may serve in a loss, so it never judges alone."""
    from anony_pipeline.anonymize import loading
    from anony_pipeline.runtime.device import choose_device

    config = experiment.config()
    return _said_by(loading.load_verifiers(config, choose_device(config.device))[1].judge)


@dg.asset(group_name=GROUP, kinds={"pytorch"})
def held_out_judges(experiment: Experiment) -> dg.MaterializeResult:
    """A second recognizer, reader and detector of other architectures, in no loss: they make the headline."""
    from anony_pipeline.evaluation import judges
    from anony_pipeline.runtime.device import choose_device

    config = experiment.config()
    cards = [card for card, _ in judges.load_held_out(config, choose_device(config.device)).cards().values()]
    return dg.MaterializeResult(
        metadata={"judges": metadata.table([card.as_dict() for card in cards]), "count": len(cards)},
        data_version=dg.DataVersion("-".join(card.sha256[:12] for card in cards) or "none"),
    )


def _said_by(card: "JudgeCard") -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata=card.as_dict(), data_version=dg.DataVersion(card.sha256))
