"""The gains of an edit, for forms that can hold nothing else."""

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains


def only_gains(edit: Edit, form: str, way_round: str) -> Gains:
    """Gains of neurons, where that is all there is in an edit.

    Args:
        edit: any.
        form: what is to hold them, such as `a GGUF file`.
        way_round: what else can be done, in words.

    Raises:
        DposcopeError: there is more, or no gain.
    """
    more = {
        "an ablation": any(one.weight != 0 for one in edit.ablations),
        "gains of heads": edit.head_gains is not None and len(edit.head_gains.touched) > 0,
    }
    for what, there in more.items():
        if there:
            raise DposcopeError(
                f"{form} takes gains of neurons alone, and this edit holds {what} as well: "
                f"leave that out with --gains-alone, or {way_round}"
            )
    if edit.gains is None:
        raise DposcopeError(f"the edit holds no gains of neurons, so there is nothing for {form} to hold")
    return edit.gains
