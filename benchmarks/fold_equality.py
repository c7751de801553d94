"""Does the folded checkpoint, loaded with nothing but transformers, write what the hooked model writes?

    python benchmarks/fold_equality.py --edit runs/edit/edit.safetensors [--prompts F] [--neutral F] [--limit 200]

In float32: folds the edit, saves it, loads the folder with `AutoModelForCausalLM` alone, continues each prompt greedily
with `model.generate`, and compares token by token with the hooked model; then log-perplexity on neutral text. Where
texts differ, it prints how close the two best logits were at the first differing token.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dposcope as ds
from dposcope.study.checkpoint import write_checkpoint


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--edit", required=True)
    parser.add_argument("--prompts")
    parser.add_argument("--neutral")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--windows", type=int, default=4)
    arguments = parser.parse_args()

    lm = ds.load(arguments.model, dtype="float32")
    edit = ds.Edit.load(arguments.edit)
    prompts = ds.load_prompts(arguments.prompts, limit=arguments.limit)
    neutral = ds.load_neutral(arguments.neutral)
    with edit.on(lm):
        hooked = ds.generate(lm, prompts)
        hooked_loss = ds.window_losses(lm, neutral, max_windows=arguments.windows).mean

    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(lm, edit, Path(folder) / "model")
        model = AutoModelForCausalLM.from_pretrained(Path(folder) / "model").eval()
        tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "model")
    assert model.dtype == torch.float32, model.dtype

    differing = 0
    for prompt, continuation in zip(prompts, hooked, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        start = inputs["input_ids"].shape[1]
        written = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0, start:].tolist()
        ids = [token for token in written if token not in lm.end_ids]
        if ids != continuation.ids:
            differing += 1
            same = next((i for i, pair in enumerate(zip(ids, continuation.ids, strict=False)) if pair[0] != pair[1]), 0)
            read = torch.tensor([[*inputs["input_ids"][0].tolist(), *ids[:same]]])
            best = model(read, logits_to_keep=1).logits[0, -1].topk(2).values
            print(f"differs at token {same}: the two best logits were {float(best[0] - best[1]):.2e} apart")
    plain = ds.LanguageModel(model, tokenizer, "folded")
    folded_loss = ds.window_losses(plain, neutral, max_windows=arguments.windows).mean
    print(f"{len(prompts)} prompts, float32: {differing} continuations differ")
    print(
        f"log-PPL hooked {hooked_loss:.6f}, folded {folded_loss:.6f}, apart {abs(hooked_loss - folded_loss):.1e} "
        f"({arguments.windows} windows)"
    )


if __name__ == "__main__":
    main()
