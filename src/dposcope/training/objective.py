"""What training minimises. It stands in its own file, so that settings can be read without loading torch."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dposcope.data.given.numbers import number
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.protocols import Protocol, check_choice, check_protocol

KlOn = Literal["pairs", "neutral", "harmless", "mixed"]
Loss = Literal["dpo", "likelihood"]


@dataclass(frozen=True)
class Objective:
    """What is minimised: DPO plus λ × a divergence from the reference (paper 3.1), plus κ × one from a teacher.

    With `loss="likelihood"`, the negative log-likelihood of preferred completions stands in the place of DPO.
    """

    beta: float = 0.1
    """β of DPO."""
    kl_weight: float = 0.0
    """λ."""
    kl_on: KlOn = "pairs"
    """pairs: KL_preferred + KL_dispreferred over completion tokens (paper). Else KL on windows: of neutral text, of the
    model's own harmless texts with their prompts, or mixed of both. It is a mean over the windows' tokens."""
    protocol: Protocol = "strict"
    """reference: the KL averaged over every position, prompt and padding too, as the published code does."""
    teacher_weight: float = 0.0
    """κ, the weight of distillation: KL_preferred(teacher‖policy) + KL_dispreferred(teacher‖policy) over completion
    tokens. It is not in the paper. A pair says which text is better; a teacher gives a distribution for every token."""

    loss: Loss = "dpo"
    """likelihood: −log π of a preferred completion, per token. Where the preferred completions are harmless samples of
    the model, the minimum is the model given that it is harmless: the ideal."""
    unlikelihood: float = 0.0
    """Weight of −log(1 − π) of each token of a dispreferred completion, a mean over its tokens (Welleck et al. 2020);
    with `loss="likelihood"` only."""

    __repr__ = short_repr

    @property
    def reads_windows(self) -> bool:
        """Whether windows are read."""
        return self.kl_on != "pairs" and self.kl_weight > 0

    def __post_init__(self) -> None:
        """Refuse values that define no loss."""
        check_protocol(self.protocol)
        check_choice("kl_on", self.kl_on, get_args(KlOn))
        check_choice("loss", self.loss, get_args(Loss))
        for part in ("beta", "kl_weight", "teacher_weight", "unlikelihood"):
            if math.isinf(number(part, getattr(self, part))):
                raise DposcopeError(f"{part} {getattr(self, part)} is no finite number; give one")
        if not self.beta > 0:
            raise DposcopeError(f"beta {self.beta} is not above 0; the paper's is 0.1")
        if not self.kl_weight >= 0:
            raise DposcopeError(f"a KL weight of {self.kl_weight} is not allowed; give 0 or more")
        if not self.teacher_weight >= 0:
            raise DposcopeError(f"a teacher weight of {self.teacher_weight} is not allowed; give 0 or more")
        if self.protocol == "reference" and self.teacher_weight:
            raise DposcopeError(
                "the reference protocol has no teacher; leave the teacher out, or choose the strict protocol"
            )
        if self.protocol == "reference" and self.kl_on != "pairs":
            raise DposcopeError(
                f"the reference protocol has its KL on pairs; leave kl_on={self.kl_on} out, or choose the strict "
                "protocol"
            )
        if not self.unlikelihood >= 0:
            raise DposcopeError(f"an unlikelihood weight of {self.unlikelihood} is not allowed; give 0 or more")
        if self.unlikelihood and self.loss != "likelihood":
            raise DposcopeError("unlikelihood belongs to loss=likelihood; choose that, or leave unlikelihood out")
