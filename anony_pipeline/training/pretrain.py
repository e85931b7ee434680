"""Pretraining: the generator alone learns to make its pseudo-targets."""

from anony_pipeline.training import joint
from anony_pipeline.training.batches import Batch
from anony_pipeline.training.objective import Objective
from anony_pipeline.training.state import TrainingState


def step_pretrain(state: TrainingState, batch: Batch, objective: Objective) -> joint.Scalars:
    """Fill the batch and move the generator toward the pseudo-targets: L1 and perceptual distance alone.

    With ``targets.face_method: self`` this is self-reconstruction from the surroundings: the face itself is never seen.

    Args:
        state: Of stage `pretrain`; its generator, optimizer and average change.
        batch: Crops of one kind.
        objective: The losses; those that don't measure a distance to the target are left out.
    """
    scalars = joint.step_generator(state, batch, objective)
    # Nobody else learns in this stage.
    state.generated = None
    return scalars
