"""What training minimises. It stands in its own file, so that settings can be read without loading torch."""

from dataclasses import dataclass
from typing import Literal

from dposcope.errors import DposcopeError
from dposcope.protocols import Protocol

KlOn = Literal["pairs", "neutral"]


@dataclass(frozen=True)
class Objective:
    """What is minimised: DPO plus λ × a divergence from the reference (paper 3.1), plus κ × one from a teacher."""

    beta: float = 0.1
    """β of DPO."""
    kl_weight: float = 0.0
    """λ."""
    kl_on: KlOn = "pairs"
    """pairs: KL_preferred + KL_dispreferred over completion tokens (paper); neutral: KL on windows of neutral text."""
    protocol: Protocol = "strict"
    """reference: the KL averaged over every position, prompt and padding too, as the published code does."""
    teacher_weight: float = 0.0
    """κ, the weight of distillation: KL_preferred(teacher‖policy) + KL_dispreferred(teacher‖policy) over completion
    tokens. It is not in the paper. A pair says which text is better; a teacher gives a distribution for every token."""

    @property
    def reads_neutral(self) -> bool:
        """Whether windows of neutral text are read."""
        return self.kl_on == "neutral" and self.kl_weight > 0

    def __post_init__(self) -> None:
        """Refuse values that define no loss."""
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
        if self.protocol == "reference" and self.kl_on == "neutral":
            raise DposcopeError(
                "the reference protocol has its KL on pairs; leave kl_on=neutral out, or choose the strict protocol"
            )
