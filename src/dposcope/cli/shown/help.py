"""Help pages: `--help` shows the options that most people need, `--help-all` shows all of them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from attrs import define, evolve
from cyclopts import App
from cyclopts.help import DefaultFormatter

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

HELP, HELP_ALL = "--help", "--help-all"
_FLAGS = (HELP, "-h", HELP_ALL)

MATTER: Final[Mapping[str, tuple[str, ...]]] = {
    "reproduce": (
        *("--out", "--preset", "--dry-run", "--borrow", "--raw", "--concept", "--prompts", "--comments"),
        *("--learn-text", "--neutral", "--passages", "--scorer", "--chat", "--device"),
    ),
    "edit": (
        *("--out", "--concept", "--prompts", "--comments", "--neutral", "--passages", "--direction", "--alpha"),
        *("--ablate", "--logppl-budget", "--scorer", "--push", "--chat", "--device"),
    ),
    "tune": (
        *("--out", "--concept", "--prompts", "--report-prompts", "--comments", "--learn-text", "--neutral"),
        *("--max-logppl-increase", "--teacher", "--quick", "--scorer", "--push", "--chat", "--device"),
    ),
    "evaluate": (
        *("--out", "--condition", "--concept", "--prompts", "--comments", "--neutral", "--passages", "--scorer"),
        *("--also-score", "--protocol", "--limit", "--dry-run", "--chat", "--device"),
    ),
    "explain": (
        *("--out", "--concept", "--prompts", "--comments", "--neutral", "--passages", "--direction", "--scorer"),
        *("--neurons-only", "--limit", "--raw", "--borrow", "--chat", "--device"),
    ),
    "pairs": (
        *("--out", "--method", "--count", "--concept", "--prompts", "--learn-text", "--comments", "--scorer"),
        *("--samples", "--pairing", "--dry-run", "--chat", "--device"),
    ),
    "dpo": (
        *("--out", "--pairs", "--learn-text", "--harmless", "--train", "--preset", "--kl-weight", "--learning-rate"),
        *("--epochs", "--teacher", "--batch-size", "--push", "--chat", "--device"),
    ),
    "generate": (
        *("--edit", "--prompt", "--prompts", "--limit", "--strength", "--chat", "--system", "--new-tokens", "--sample"),
        *("--raw", "--json", "--device"),
    ),
    "chat": (
        *("--edit", "--strength", "--chat", "--system", "--wrap", "--new-tokens", "--sample", "--temperature"),
        *("--raw", "--device"),
    ),
    "probe": (
        *("--out", "--concept", "--comments", "--kind", "--direction-rows", "--direction-block", "--protocol"),
        *("--dry-run", "--raw", "--json", "--device"),
    ),
    "serve": (
        *("--edit", "--chat", "--system", "--wrap", "--new-tokens", "--sample", "--temperature", "--port"),
        *("--device",),
    ),
}
"""Command → the options on its first page. A command that is not here has few options and shows all of them."""


@define(kw_only=True)
class Chosen(DefaultFormatter):
    """A help page with some of the options."""

    names: frozenset[str]

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
        """Draw one group of options, or nothing where none of it is chosen. Commands and arguments are always drawn."""
        if panel.format == "parameter":
            kept = [one for one in panel.entries if not one.names or self.names & set(one.names)]
            panel = evolve(panel, entries=kept)
        super().__call__(console, options, panel)


def set_help(app: App, tokens: Sequence[str], epilogue: str) -> list[str]:
    """Set the pages of `app` for a command line that asks for help.

    Args:
        app: the program.
        tokens: the command line.
        epilogue: the last words on the program's own page.

    Returns:
        The command line as cyclopts reads it.
    """
    app.help_formatter, app.help_epilogue = DefaultFormatter(), epilogue
    if not any(flag in tokens for flag in _FLAGS):
        return list(tokens)
    path, apps, _ = app.parse_commands([one for one in tokens if one not in _FLAGS])
    if path:
        command = " ".join(path)
        every = option_names(apps[-1])
        chosen = set(MATTER.get(command, every))
        more = sum(1 for names in every.values() if not chosen & set(names))
        if more and HELP_ALL not in tokens:
            app.help_formatter = Chosen(names=frozenset(chosen))
            app.help_epilogue = f"{more} more options: dposcope {command} {HELP_ALL}"
        else:
            app.help_epilogue = "Options of every command, and exit codes: dposcope --help"
    return [HELP if one == HELP_ALL else one for one in tokens]


def option_names(command: App) -> dict[str, tuple[str, ...]]:
    """First name of every option of a command → all its names."""
    if command.default_command is None:
        return {}
    arguments = command.assemble_argument_collection(parse_docstring=False)
    return {
        one.names[0]: one.names
        for one in arguments
        if not one.children and one.names and one.names[0].startswith("--") and one.show
    }
