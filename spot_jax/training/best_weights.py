"""The best weights of a run that tunes its backbone, on disk from the step that was best.

A prompt's best is a small file that is written over. Weights are as large as the model, so they are
saved by Orbax, and no more than two are held between evaluations: the best, and the best that the
newest checkpoint names, which a run that is killed goes on from.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from spot_jax.errors import SpotError

ROOM = 2**19  # bytes, for the files around the arrays


class BestWeights:
    """Steps of a run that were the best so far, with all that was trained."""

    def __init__(self, directory: Path):
        """Open the directory, made if need be; nothing is removed from it."""
        self.directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def holds(self, step: int) -> bool:
        """Return whether the weights of a step are whole on disk."""
        return step in self._manager.all_steps()

    def save(self, step: int, trainable: Any, named: int) -> None:
        """Save a step that is the best so far; returns when it is whole on disk.

        Args:
            step: number of updates done.
            trainable: tree of what is trained.
            named: step that the newest checkpoint takes for the best, which stays.

        Raises:
            SpotError: the disk is full or refuses; what was there stays as it was.
        """
        if self.holds(step):
            return
        self.drop_all_but({named})
        needed = ROOM + sum(leaf.nbytes for leaf in jax.tree.leaves(trainable))
        if (free := shutil.disk_usage(self.directory).free) < needed:
            raise self._not_saved(step, f"{free / 1e6:.1f} MB are free, {needed / 1e6:.1f} needed")
        try:
            self._manager.save(step, args=ocp.args.StandardSave(trainable), force=True)
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._not_saved(step, " ".join(str(error).split())[-200:]) from error

    def _not_saved(self, step: int, reason: str) -> SpotError:
        return SpotError(
            f"cannot save the best weights, of step {step}, in {self.directory}: {reason}; free "
            "space, then the same command goes on from the last checkpoint"
        )

    def drop_all_but(self, steps: set[int]) -> None:
        """Remove the weights of all other steps."""
        for step in set(self._manager.all_steps()) - steps:
            self._manager.delete(step)

    def restore(self, step: int, like: Any) -> Any:
        """Return the weights of a step, placed as `like` is; `SpotError` if they are damaged."""
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:
            raise SpotError(
                f"cannot read the best weights, of step {step}, in {self.directory}: "
                f"{' '.join(str(error).split())[:200]}; remove that directory and give more "
                "TRAIN_STEPS, and the best of the steps from here on is kept"
            ) from error

    def close(self) -> None:
        """Wait for what is under way."""
        self._manager.close()
