"""What a run saves: `State` and the place in the data, in one atomic Orbax step.

A frozen leaf cannot get here: `State` has none. Saving is a directory written aside and renamed,
so that a run killed at any moment leaves whole steps only.
"""

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from spot_jax.errors import SpotError
from spot_jax.training.step import State

ROOM = 2**19  # bytes, for the files around the arrays


@dataclasses.dataclass(frozen=True)
class CheckpointPlan:
    """When steps are saved and which are kept.

    Attributes:
        period: steps between saves; at a prompt's size saving often is cheap.
        keep: number of the newest steps that stay.
        embedding_step: the step whose prompts are kept besides, as task embeddings (SPoT, Vu 2022,
            §3.2): 10,000 in the paper, the same for all tasks that are compared; 0 for none.
    """

    period: int = 1000
    keep: int = 2
    embedding_step: int = 0


class Checkpoints:
    """The saved steps of a run directory."""

    def __init__(self, directory: Path, plan: CheckpointPlan):
        if plan.period < 1 or plan.keep < 1:
            raise SpotError(
                f"checkpoint period and keep are at least 1, found {plan.period} and {plan.keep}"
            )
        self.directory, self.plan = directory.absolute(), plan
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=plan.keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def newest(self) -> int | None:
        """Return the newest whole step, or None."""
        return self._manager.latest_step()

    def save(self, state: State, data: dict[str, Any]) -> None:
        """Save a step, unless it is saved already; return when it is whole on disk.

        Raises:
            SpotError: the disk is full or refuses; the step before stays as it was.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        # Asked before, because a disk that fills up while Orbax writes is told of at length.
        needed = ROOM + sum(leaf.nbytes for leaf in jax.tree.leaves(_plain(state)))
        if (free := shutil.disk_usage(self.directory).free) < needed:
            raise self._not_saved(step, f"{free / 1e6:.1f} MB are free, {needed / 1e6:.1f} needed")
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_plain(state)), data=ocp.args.JsonSave(data)
        )
        try:
            self._manager.save(step, args=items, force=True)
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._not_saved(step, " ".join(str(error).split())[-200:]) from error

    def _not_saved(self, step: int, reason: str) -> SpotError:
        return SpotError(
            f"cannot save step {step} in {self.directory}: {reason}; free space, then the same "
            f"command goes on from step {self.newest() or 0}"
        )

    def restore(self, like: State) -> tuple[State, dict[str, Any]]:
        """Return the newest step, placed as `like` is, and the place in the data.

        Raises:
            SpotError: the step does not hold a state like this one, or is damaged.
        """
        step = self._manager.latest_step()
        assert step is not None, "restore is called only where newest() is not None"
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore()
        )
        try:
            stored = self._manager.restore(step, args=items)
        except Exception as error:
            raise SpotError(
                f"cannot restore step {step} from {self.directory}: "
                f"{' '.join(str(error).split())[:200]}; remove that step's directory to go on "
                "from the one before, or choose another MODEL_DIR"
            ) from error
        plain = stored["state"]
        keys = jax.random.wrap_key_data(plain["keys"])
        state = State(plain["step"], plain["trainable"], plain["opt_state"], keys)
        return state, stored["data"]

    def close(self) -> None:
        """Wait for what is under way."""
        self._manager.close()


def _plain(state: State) -> dict[str, Any]:
    return {
        "step": state.step,
        "trainable": state.trainable,
        "opt_state": state.opt_state,
        "keys": jax.random.key_data(state.keys),
    }
