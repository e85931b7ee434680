import pytest
import torch

from anony_pipeline.config.schema import Config
from anony_pipeline.models.demo_pipeline import build_demo_pipeline
from anony_pipeline.models.generator import Generator, base_identity
from anony_pipeline.structures.regions import Kind
from anony_pipeline_tests.models.tiny_pipelines import save_pipeline

SOURCE = {"name": "faces", "layout": "widerface", "root": "nowhere", "exhaustive": ["face"]}


@pytest.fixture(scope="session")
def config_for():
    """Make a configuration for a generator folder, with any keys of ``model.generator.diffusers`` and of the top."""

    def make(model_id, *, weights="nowhere", diffusers=None, **top):
        return Config.model_validate(
            {
                "data": {"sources": [SOURCE]},
                "paths": {"weights": str(weights)},
                "model": {"generator": {"diffusers": {"model_id": str(model_id), **(diffusers or {})}}},
                **top,
            }
        )

    return make


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Folders of tiny pipelines by family, written once."""
    made = {}

    def folder(family):
        if family not in made:
            made[family] = save_pipeline(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder


@pytest.fixture
def demo_generator():
    """Make a demo generator with fixed random weights."""

    def make(*, steps=1, anchor_strength=0.4):
        torch.manual_seed(0)
        pipeline = build_demo_pipeline()
        return Generator(
            pipeline,
            prompts={Kind.FACE: "a face", Kind.PLATE: "a licence plate"},
            steps=dict.fromkeys(Kind, steps),
            anchor_strength=anchor_strength,
            base_id=base_identity("demo", pipeline),
        )

    return make


@pytest.fixture
def crops():
    """Two random crops with a mask and noise: ``crops(generator, height, width)``."""

    def make(generator, height=64, width=64):
        rng = torch.Generator().manual_seed(5)
        images = torch.rand(2, 3, height, width, generator=rng) * 2 - 1
        masks = torch.zeros(2, 1, height, width)
        masks[0, :, 16:48, 20:50] = 1
        masks[1, :, 8:40, 8:44] = 1
        return images, masks, torch.randn(generator.noise_shape(2, (height, width)), generator=rng)

    return make
