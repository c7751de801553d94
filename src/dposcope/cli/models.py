"""`dposcope models`: the models that come as packages."""

from cyclopts import App

app = App(
    name="models",
    help="Models that come as Python packages, for a first run without a hub.\n\n"
    "dposcope models\n\n"
    "dposcope models path gemma-3-270m",
)


@app.default
def show(*, json: bool = False) -> None:
    """List the models, and whether they are in the cache.

    Parameters
    ----------
    json
        Print the list as JSON.
    """
    from dposcope.model.bundled import BUNDLED
    from dposcope.terminal import print_json, say

    if json:
        rows = [
            {"name": model.name, "about": model.about, "licence": model.licence, "folder": str(model.folder)}
            | {"ready": model.ready}
            for model in BUNDLED.values()
        ]
        print_json(rows)
        return
    for model in BUNDLED.values():
        state = "in the cache" if model.ready else model.mend
        say(model.name)
        for line in (model.about, f"licence: {model.licence}", state):
            say(f"    {line}")


@app.command
def path(name: str, /) -> None:
    """Print the folder of a model's checkpoint, which from_pretrained loads; the first call builds it.

    dposcope models path gemma-3-270m

    Parameters
    ----------
    name
        Name of the model, such as gemma-3-270m.
    """
    from dposcope.model.bundled import bundled_folder
    from dposcope.terminal import say

    say(str(bundled_folder(name)))


@app.command
def get(name: str, /) -> None:
    """Download a model's package from the package index if necessary, and put its checkpoint into the cache.

    dposcope models get smollm2-135m-instruct

    Parameters
    ----------
    name
        Name of the model, such as smollm2-135m-instruct; or neural, the scorer that reads words in order.
    """
    from dposcope.evaluation.neural import load_neural, neural_folder
    from dposcope.model.bundled import bundled_folder
    from dposcope.terminal import say

    if name == "neural":
        load_neural()
        say(str(neural_folder()))
        return
    say(str(bundled_folder(name, download=True)))
