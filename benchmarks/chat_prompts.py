"""Prompts as a chat model's users send them: each behind the chat template, as a user's message.

    python benchmarks/chat_prompts.py smollm2-135m-instruct --prompts prompts.jsonl --out chat.jsonl [--raw-too]

The message asks to continue the text, since prompts are beginnings of texts. The model's answer then begins where it
would begin for a user. With `--raw-too` the prompts as they are stand before those behind the template.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import dposcope as ds
from dposcope.artefacts import write_text
from dposcope.data.prompts import load_prompts
from dposcope.errors import DposcopeError
from dposcope.model.language_model import LanguageModel

ASKED = "Continue this text: {prompt}"


def behind_template(lm: LanguageModel, prompts: Sequence[str]) -> list[str]:
    """Each prompt as a user's message, up to where the model answers.

    Raises:
        DposcopeError: the tokenizer has no chat template.
    """
    if not lm.tokenizer.chat_template:
        raise DposcopeError(f"{lm.name} has no chat template; name a chat model")
    return [
        str(
            lm.tokenizer.apply_chat_template(
                [{"role": "user", "content": ASKED.format(prompt=prompt)}], tokenize=False, add_generation_prompt=True
            )
        )
        for prompt in prompts
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--raw-too", action="store_true")
    options = parser.parse_args()
    try:
        prompts = load_prompts(options.prompts)
        written = [*(prompts if options.raw_too else ()), *behind_template(ds.load(options.model), prompts)]
    except DposcopeError as error:
        print(f"chat_prompts: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    write_text(options.out, "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in written))


if __name__ == "__main__":
    main()
