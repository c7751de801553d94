"""See what preference tuning did to a language model, neuron by neuron, and edit neurons to the same end.

import dposcope as ds

lm = ds.load("gemma-3-270m")
comments = ds.load_comments(None).balanced()
toxic = ds.mean_difference(lm, comments.texts, comments.labels)
prompts = ds.load_prompts(None)
means = ds.collect_means(lm, prompts)
edit = ds.Edit.of(ds.group_gains(lm, means, toxic, alpha=0.1), ds.ablate(toxic))
with edit.on(lm):
    print(ds.generate(lm, prompts[:1])[0].text)
ds.fold(lm, edit).save_pretrained("gemma-3-270m-edited")
"""

import lazy_loader

# The stub beside this file lists the names. Each is imported when first asked for: `dposcope --help` need not wait for
# torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
