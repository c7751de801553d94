"""Preference data of chat models: cells that hold messages, and tables that name the better answer in their own way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast, get_args

from dposcope.data.tables import RawTable
from dposcope.errors import DposcopeError
from dposcope.model.chat.asking import Role, Turn

_ROLES: Final = get_args(Role)


@dataclass(frozen=True)
class Sides:
    """Two answers to one conversation."""

    before: tuple[Turn, ...]
    """What was said before the prompt."""
    prompt: str
    """The user's last message."""
    preferred: str
    dispreferred: str


@dataclass(frozen=True)
class Reshaped:
    """A table with the columns `prompt`, `chosen` and `rejected`."""

    table: RawTable
    unpaired: int
    """Rows of the source that no pair is made of."""


def holds_messages(cells: Sequence[Any]) -> bool:
    """Whether a column holds conversations."""
    return any(isinstance(cell, list | dict) for cell in cells)


def messages(cell: Any, what: str) -> tuple[Turn, ...]:
    """A cell as a conversation; nothing where it is null.

    Args:
        cell: a list of objects with role and content.
        what: the cell is, for messages.

    Raises:
        DposcopeError: it is something else.
    """
    if cell is None:
        return ()
    if not isinstance(cell, list):
        raise DposcopeError(f'{what} is no list of messages; write it as [{{"role": "user", "content": "…"}}, …]')
    turns: list[Turn] = []
    for number, message in enumerate(cast(list[Any], cell), start=1):
        fields = cast(dict[str, Any], message) if isinstance(message, dict) else {}
        role, content = fields.get("role"), fields.get("content")
        if not isinstance(content, str) or role not in _ROLES:
            raise DposcopeError(
                f"message {number} of {what} has no role among {', '.join(_ROLES)}, or no text as its content; "
                'write it as {"role": "user", "content": "…"}'
            )
        turns.append(Turn(cast(Role, role), content))
    return tuple(turns)


def sides(prompt: Any, chosen: Any, rejected: Any, what: str) -> Sides | None:
    """Two answers, of which each cell is a list of messages or a text.

    The answers may be whole conversations: what both have before their last message is then the prompt.

    Args:
        prompt: the conversation before both, or the user's message; None: both are whole conversations.
        chosen: the better answer.
        rejected: the worse one.
        what: the row is, for messages.

    Returns:
        None where both do not differ in one answer to the same conversation.

    Raises:
        DposcopeError: a cell is neither.
    """
    head = _turns(prompt, "user", f"the prompt of {what}")
    both = [
        _whole(head, _turns(cell, "assistant", f"the {name} side of {what}"))
        for cell, name in ((chosen, "preferred"), (rejected, "dispreferred"))
    ]
    better, worse = both
    answered = all(len(one) > 1 and one[-1].role == "assistant" for one in both)
    if not answered or better[:-1] != worse[:-1] or better[-2].role != "user":
        return None
    return Sides(better[:-2], better[-2].content, better[-1].content, worse[-1].content)


def _turns(cell: Any, role: Role, what: str) -> tuple[Turn, ...]:
    return (Turn(role, cell),) if isinstance(cell, str) else messages(cell, what)


def _whole(head: tuple[Turn, ...], said: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """A conversation with its prompt, which it may hold already."""
    return said if any(turn.role == "user" for turn in said) else (*head, *said)


def of_labels(table: RawTable) -> Reshaped:
    """KTO: rows of prompt, completion and label. A good completion is paired with a bad one of the same prompt, the
    first with the first."""
    sorted_by: dict[str, dict[bool, list[Any]]] = {}
    prompts: dict[str, Any] = {}
    columns = table.columns
    rows = zip(columns["prompt"], columns["completion"], columns["label"], strict=True)
    for number, (prompt, completion, label) in enumerate(rows, start=1):
        key = repr(prompt)
        prompts[key] = prompt
        good = _flag(label, f"the label in row {number} of {table.source}")
        sorted_by.setdefault(key, {True: [], False: []})[good].append(completion)
    made: dict[str, list[Any]] = {"prompt": [], "chosen": [], "rejected": []}
    for key, answers in sorted_by.items():
        for better, worse in zip(answers[True], answers[False], strict=False):
            for name, cell in (("prompt", prompts[key]), ("chosen", better), ("rejected", worse)):
                made[name].append(cell)
    return Reshaped(RawTable(table.source, made), len(columns["label"]) - 2 * len(made["prompt"]))


def of_safety(table: RawTable) -> Reshaped:
    """PKU-SafeRLHF: two responses, of which the safer one is preferred: that of `safer_response_id`; without this
    column, the only one that is safe; without that, that of `better_response_id`."""
    columns, source = table.columns, table.source
    flags = ("is_response_0_safe", "is_response_1_safe")
    numbered = next((name for name in ("safer_response_id", "better_response_id") if name in columns), None)
    by_flags = numbered != "safer_response_id" and all(name in columns for name in flags)
    if not by_flags and numbered is None:
        raise DposcopeError(
            f"{source} does not say which response is preferred; give it a column safer_response_id or "
            "better_response_id"
        )
    made: dict[str, list[Any]] = {"prompt": [], "chosen": [], "rejected": []}
    for row, (prompt, *answers) in enumerate(
        zip(columns["prompt"], columns["response_0"], columns["response_1"], strict=True)
    ):
        if by_flags:
            safe = [_flag(columns[name][row], f"{name} in row {row + 1} of {source}") for name in flags]
            if safe[0] == safe[1]:
                continue
            better = safe.index(True)
        else:
            better = _flag(columns[cast(str, numbered)][row], f"{numbered} in row {row + 1} of {source}")
        for name, cell in (("prompt", prompt), ("chosen", answers[better]), ("rejected", answers[1 - better])):
            made[name].append(cell)
    return Reshaped(RawTable(source, made), len(columns["prompt"]) - len(made["prompt"]))


def _flag(cell: Any, what: str) -> bool:
    text = str(cell).strip().lower()
    if text in ("true", "1", "1.0"):
        return True
    if text in ("false", "0", "0.0"):
        return False
    raise DposcopeError(f"{what} is {cell!r}; write true or false, or 1 or 0")
