"""Which stage `mini` is in, and its learning rate, by the share of the time that is over."""

import dataclasses
from typing import NamedTuple

import numpy as np

SPAN, LANGUAGE, ASK = 0, 1, 2
"""Stages: span corruption, the language model, rows with prompts."""
LAST_RENEWAL = 0.85


class Step(NamedTuple):
    """What a step does.

    Attributes:
        stage: SPAN, LANGUAGE or ASK.
        rate: Factor of the learning rate.
        renew: Whether tasks are renewed before it.
        number, asked: Number of steps, and of steps with prompts, before it.
    """

    stage: int
    rate: float
    renew: bool
    number: int
    asked: int


@dataclasses.dataclass
class Schedule:
    """The three stages one after the other.

    Attributes:
        shares: Shares of the time of the three stages, of any sum.
        renew: Number of steps with prompts between new tasks.
        stage: Stage of the last step.
        number: Number of steps so far.
        asked: Number of steps with prompts so far.
        asking_from: Share of the time that was over when rows with prompts began.
    """

    shares: tuple[float, float, float]
    renew: int
    stage: int = SPAN
    number: int = 0
    asked: int = 0
    asking_from: float = 1.0

    def next(self, done: float, ready: bool) -> Step:
        """Return the next step.

        Args:
            done: Share of the time that is over, below 1.
            ready: Whether the last stage's programs are compiled; it waits for them.
        """
        self.stage = self._stage_at(done, ready)
        renew = self.stage == ASK and self.asked % self.renew == 0 and done < LAST_RENEWAL
        step = Step(self.stage, self._rate(done), renew, self.number, self.asked)
        self.number += 1
        self.asked += self.stage == ASK
        return step

    def _stage_at(self, done: float, ready: bool) -> int:
        if self.stage == ASK:
            return ASK
        total = sum(self.shares)
        if done >= (self.shares[0] + self.shares[1]) / total and ready:
            self.asking_from = done
            return ASK
        return SPAN if done < self.shares[0] / total else LANGUAGE

    def _rate(self, done: float) -> float:
        """Up over the first steps, and of the last stage; down along a cosine in the last stage."""
        rate = min(1.0, (self.number + 1) / 200)
        if self.stage == ASK:
            part = (done - self.asking_from) / (1 - self.asking_from)
            cosine = 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * part))
            rate *= min(1.0, (self.asked + 1) / 100) * cosine
        return float(rate)
