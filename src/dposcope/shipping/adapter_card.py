"""The README beside adapters: which holds what, and how they are put on."""

from collections.abc import Sequence

from dposcope.interventions.edit import Edit

GAINS, ABLATION = "gains", "ablation"
"""Names of the adapters' folders."""


def adapter_card(base: str, edit: Edit, kinds: Sequence[str]) -> str:
    """Markdown, with a head that model hubs read.

    Args:
        base: name of the base model.
        edit: what they do together.
        kinds: which folders there are.
    """
    quoted = base.replace("\\", "\\\\").replace('"', '\\"')
    rows = {
        GAINS: "IA³: factors of what the output projections of MLPs (and of attention heads) read",
        ABLATION: "LoRA: output projections lose a share of their component along directions",
    }
    lines = [
        "---",
        "library_name: peft",
        f'base_model: "{quoted}"',
        "tags: [dposcope, activation-editing]",
        "---",
        "",
        "# An edit as adapters",
        "",
        f"For `{base}`: {edit}. {edit.origin}",
        "",
        "| folder | what it holds |",
        "| --- | --- |",
        *(f"| `{kind}/` | {rows[kind]} |" for kind in kinds),
        "",
        "```python",
        "from peft import PeftModel",
        "",
    ]
    if len(kinds) == 2:
        lines += [
            "# Together: the LoRA first, so that it reads what the gains have scaled.",
            f'model = PeftModel.from_pretrained(base, "{ABLATION}").get_base_model()',
            f'model = PeftModel.from_pretrained(model, "{GAINS}")',
        ]
    else:
        lines.append(f'model = PeftModel.from_pretrained(base, "{kinds[0]}")')
    lines += [
        "with model.disable_adapter():",
        "    ...  # the base model again",
        "```",
        "",
        "## What was not tested",
        "",
        "Behaviour outside the measured prompts, other languages, long texts, instruction following, knowledge of",
        "facts, bias, and attacks on the edit. The base model's licence and terms of use apply.",
        "",
    ]
    return "\n".join(lines)
