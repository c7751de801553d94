"""See what preference tuning did to a language model, neuron by neuron, and edit neurons to the same end.

import dposcope as ds

lm, prompts, scorer = ds.load("gemma-3-270m"), ds.load_prompts(None), ds.load_scorer("profanity")
print("before", scorer([one.text for one in ds.generate(lm, prompts)]).mean())
comments = ds.load_comments(None).balanced()
toxic = ds.mean_difference(lm, comments.texts, comments.labels)
edit = ds.Edit.of(ds.group_gains(lm, ds.collect_means(lm, prompts), toxic, alpha=0.1), ds.ablate(toxic))
with edit.on(lm):
    print("after", scorer([one.text for one in ds.generate(lm, prompts)]).mean())
"""

import lazy_loader

# The stub beside this file lists the names. Each is imported when first asked for: `dposcope --help` need not wait for
# torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
