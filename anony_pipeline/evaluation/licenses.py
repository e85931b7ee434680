"""Under which terms an anonymizer may be used: those of the data and weights that it was trained with."""

from collections.abc import Iterator

from anony_pipeline.config.schema import Config
from anony_pipeline.evaluation.schema import Licence
from anony_pipeline.models.weights import REGISTRY

OWN = "Apache-2.0, with this package"
IN_LOSSES = ("recognizer", "reader")
"""Judges whose gradients, or verdicts on results, the anonymizer learned from or works by."""


def of_checkpoint(config: Config) -> tuple[Licence, ...]:
    """The terms of all data and weights behind a checkpoint and its scorecard."""
    return (*_data(config), *_weights(config))


def of_judges(config: Config) -> tuple[Licence, ...]:
    """The terms of the judges alone, where somebody else made the anonymized images."""
    return tuple(terms.model_copy(update={"trained_with": False}) for terms in _judges(config))


def _data(config: Config) -> Iterator[Licence]:
    for source in config.data.sources:
        drawn = source.ground_truth is not None
        yield Licence(
            what="images",
            name=source.name,
            licence=source.licence or ("drawn by this package" if drawn else None),
            commercial_use=True if drawn and source.commercial_use is None else source.commercial_use,
            trained_with=True,
        )


def _weights(config: Config) -> Iterator[Licence]:
    diffusers = config.model.generator.diffusers
    yield _of("generator", diffusers.model_id, trained_with=True)
    if diffusers.tiny_vae is not None:
        yield _of("tiny autoencoder", diffusers.tiny_vae, trained_with=True)
    yield _of("detector", "shipped", trained_with=True)  # the trained detector begins with it
    yield from _judges(config)


def _judges(config: Config) -> Iterator[Licence]:
    for role, name in config.judges.model_dump().items():
        if name is not None:
            yield _of(role.replace("_", " "), {"easyocr": "english_g2"}.get(name, name), role in IN_LOSSES)


def _of(what: str, name: str, trained_with: bool) -> Licence:
    if name == "shipped":
        return Licence(what=what, name=name, licence=OWN, commercial_use=True, trained_with=trained_with)
    entry = REGISTRY.get(name)
    # A path would be this machine's: the last part says enough.
    return Licence(
        what=what,
        name=name if entry else name.rstrip("/").rsplit("/", maxsplit=1)[-1],
        licence=entry.license if entry else None,
        commercial_use=entry.commercial_use if entry else None,
        trained_with=trained_with,
    )
