"""What a run saves: `State` and the place in the data, in one atomic Orbax step.

A frozen leaf cannot get here: `State` has none. Saving is a directory written aside and renamed,
so that a run killed at any moment leaves whole steps only.
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from spot_jax.errors import COUNT, SpotError, check_fields, check_range, whole
from spot_jax.files import absolute, is_local, reading
from spot_jax.files.digests import FIELD, hasher, json_digest
from spot_jax.training.step import State

_PLACE = "place"
ROOM = 2**19  # bytes, for the files around the arrays


@dataclasses.dataclass(frozen=True)
class CheckpointPlan:
    """When steps are saved and which are kept.

    Attributes:
        period: steps between saves; at a prompt's size saving often is cheap.
        keep: number of the newest steps that stay.
        embedding_step: the step whose prompts are kept besides, as task embeddings (SPoT, Vu 2022,
            §3.2): 10,000 in the paper, the same for all tasks that are compared; 0 for none.
        prompt_steps: steps whose prompts are kept besides, as `prompts/step-STEP-I.safetensors`,
            to be scored or compared later.
    """

    period: int = 1000
    keep: int = 2
    embedding_step: int = 0
    prompt_steps: Sequence[int] = ()

    def check(self) -> None:
        """Raise `SpotError` for periods and numbers that no run can have."""
        if self.period < 1 or self.keep < 1:
            raise SpotError(
                f"checkpoint period and keep are at least 1, found {self.period} and {self.keep}"
            )
        check_fields(self, period=COUNT, keep=COUNT, embedding_step=whole(0, 10**9))
        for step in self.prompt_steps:
            check_range("CheckpointPlan.prompt_steps", step, COUNT)


class Checkpoints:
    """The saved steps of a run directory."""

    def __init__(self, directory: epath.Path, plan: CheckpointPlan):
        plan.check()
        self.directory, self.plan = absolute(directory), plan
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=plan.keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        with reading(self.directory, "choose another MODEL_DIR", "damaged checkpoints"):
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
        free = shutil.disk_usage(self.directory).free if is_local(self.directory) else needed
        if free < needed:
            raise self._not_saved(step, f"{free / 1e6:.1f} MB are free, {needed / 1e6:.1f} needed")
        data = _signed(_plain(state), data)
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
        data = _checked(plain, stored["data"])
        if int(plain["step"]) != step or data is None:
            raise SpotError(
                f"step {step} in {self.directory} is not what was saved; remove that step's "
                "directory to go on from the one before, or choose another MODEL_DIR"
            )
        keys = jax.random.wrap_key_data(plain["keys"])
        state = State(plain["step"], plain["trainable"], plain["opt_state"], keys)
        return state, data

    def close(self) -> None:
        """Wait for what is under way."""
        self._manager.close()


def _signed(plain: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return the place in the data, with a digest where this process holds the whole state.

    With a digest the place is one level deeper, so that a lost digest does not look like a
    checkpoint that never had one.
    """
    if not _is_whole(plain):
        return data
    data = json.loads(json.dumps(data))
    return {_PLACE: data, FIELD: _digest(plain, data)}


def _is_whole(plain: dict[str, Any]) -> bool:
    return all(leaf.is_fully_addressable for leaf in jax.tree.leaves(plain))


def _checked(plain: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any] | None:
    """Return the place in the data; None where state or place are not what was saved."""
    data = {k: v for k, v in stored.items() if k != FIELD}
    # One entry is the place under its name, whatever damage made of that name.
    if _PLACE in stored or len(data) == 1:
        if set(stored) != {_PLACE, FIELD}:
            return None
        data = stored[_PLACE]
    # Checkpoints of several processes, and those written before there were digests, have none.
    if FIELD in stored and _is_whole(plain) and stored[FIELD] != _digest(plain, data):
        return None
    return data


def _digest(plain: dict[str, Any], data: dict[str, Any]) -> str:
    result = hasher()
    result.update(json_digest(data).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(plain):
        array = np.asarray(leaf)
        result.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        result.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return result.hexdigest()


def _plain(state: State) -> dict[str, Any]:
    return {
        "step": state.step,
        "trainable": state.trainable,
        "opt_state": state.opt_state,
        "keys": jax.random.key_data(state.keys),
    }
