"""What assets ask for: the experiment's configuration."""

import os
import re

import dagster as dg
from pydantic import Field

from anony_pipeline import project
from anony_pipeline.config import loading
from anony_pipeline.config.schema import Config
from anony_pipeline.defs import machine


def default_layers() -> list[str]:
    """What the UI, the sensor and the schedule use: the layers in ``ANONY_CONFIG``, as in ``PATH``, or the demo's."""
    # The colon of a URL's scheme joins nothing.
    return re.split(f"{re.escape(os.pathsep)}(?!//)", os.environ.get("ANONY_CONFIG", "configs/demo.yaml"))


class Experiment(dg.ConfigurableResource):
    """The configuration of one experiment, named by its layers; a run config names them once, here.

    Dagster's own ``-c a.yaml -c b.yaml`` lets the *first* file win; layers are the other way round: later wins.
    """

    layers: list[str] = Field(
        default_factory=default_layers, description="YAML files; later ones win. Relative to the project"
    )
    overrides: list[str] = Field(default_factory=list, description="`loss.adv_weight=0.05`; wins over every layer")
    force: bool = Field(default=False, description="make anew also what has not changed")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Note in the run's tags which machine it is on."""
        if context.run is not None and context.instance is not None and machine.HOST not in context.run.tags:
            context.instance.add_run_tags(context.run.run_id, machine.tags())

    def files(self) -> list[str]:
        """The layers as absolute paths or URLs."""
        return [project.find(layer) for layer in self.layers]

    def config(self) -> Config:
        """Read and check the configuration.

        Raises:
            ConfigError: With every mistake at once.
        """
        return loading.load(self.files(), self.overrides)

    def as_config(self) -> dict[str, list[str]]:
        """The same resource in a run config."""
        return {"layers": list(self.layers), "overrides": list(self.overrides)}
