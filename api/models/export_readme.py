"""The README of an export."""

from api.models.card import ModelCard

_WEIGHTS = """# Model {model_id}

Epoch {epoch} of model {number} of the job {job_id}, trained by Latentry {version}
on the data set {dataset_id} ({neurons} neurons, bins of {bin_width_s:g} s). `card.json` describes it in full.

## Weights

`model.safetensors` holds every parameter in float32, `load.py` reads it with torch alone:

```python
from load import load

weights = load("model.safetensors")
print({{name: tuple(values.shape) for name, values in weights.items()}})
```

`safetensors.torch.load_file` and `safetensors.numpy.load_file` read it, too. A product is `x @ weight + bias`. A GRU
(`encoder`, {generator}…) has its three parts side by side, reset r, update z and candidate n: with a = x @ input_weight +
input_bias and c = h @ recurrent_weight, r = σ(a_r + c_r), z = σ(a_z + c_z), n = tanh(a_n + r · (c_n + candidate_bias)),
h ← (1 - z) · n + z · h. The first axis of an encoder's parameters is its direction: forward, backward in time.
{generator_step}"""

_STEPS = {
    "node": "g ← g + 0.1 · (tanh(g @ recurrent_weight + v @ input_weight + hidden_bias) @ recurrent_output_weight + output_bias)",
    "linear": "with ρ = exp(-exp(-log_time_constant)) and θ = angle, units i and i + ⌊G / 2⌋ are multiplied by ρ and turned by θ "
    "(a last odd unit is multiplied by ρ · cos θ), then v @ input_weight + input_bias is added",
    "low_rank": "g ← 0.9 · g + 0.1 · (tanh(g) @ recurrent_read_weight @ recurrent_write_weight + v @ input_weight + input_bias)",
}
"""The step of the generators that are no GRU, by the names of their parameters."""

_SCORES = """
## Scores

{table}

{meaning}
"""

_PROGRAM = """
## Program

`{file}` is the model as a program: it reads spikes and returns latents. It does not need Latentry.

{code}
`spikes` is float32 [trials, bins, {neurons}]: counts in bins of {bin_width_s:g} s, the neurons in the order of the data
set{external}. All trials must have the same length and be recorded in all bins. `card.json` lists the
outputs. Latents are those at the means of the posterior: the same spikes give the same numbers, and
rates differ slightly from those of the service, which averages over samples of the posterior.
"""

_TORCH = """```python
import torch

model = torch.export.load("model.pt2").module()
latents = model(spikes{external})
print(latents["rates"].shape)
```

It needs the version of torch that wrote it, {torch}, or a later one.
"""

_ONNX = """```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
names = [output.name for output in session.get_outputs()]
latents = dict(zip(names, session.run(None, {{"spikes": spikes{external}}})))
print(latents["rates"].shape)
```
"""


def readme(card: ModelCard, program: str | None, program_neurons: int) -> str:
    """Return how to use each file of an export.

    Parameters
    ----------
    card
        Card of the model.
    program
        ``torch_export``, ``onnx`` or None.
    program_neurons
        Number of neurons that the program reads.
    """
    neurons = " + ".join(str(one.neurons) for one in card.data.sessions)
    kind = card.architecture.get("generator", "gru")
    step = _STEPS.get(kind)
    text = _WEIGHTS.format(
        model_id=card.model_id,
        epoch=card.weights_epoch,
        number=card.number,
        job_id=card.job_id,
        version=", ".join(dict.fromkeys(one["latentry"] or "?" for one in card.trained_with))
        or "of an unknown version",
        dataset_id=card.data.dataset_id,
        neurons=neurons,
        bin_width_s=card.data.bin_width_s,
        generator="" if step else "`generator`, ",
        generator_step=f"\nThe generator `{kind}` with its state g and its inputs v: {step}.\n"
        if step
        else "",
    )
    if program is not None:
        width = card.architecture.get("external_inputs", 0)
        if program == "onnx":
            given = ', "external_inputs": external_inputs' if width else ""
            file, code = "model.onnx", _ONNX.format(external=given)
        else:
            given = ", external_inputs" if width else ""
            file, code = "model.pt2", _TORCH.format(external=given, torch=card.written_with["torch"])
        also = f"; `external_inputs` is float32 [trials, bins, {width}]" if width else ""
        text += _PROGRAM.format(
            file=file,
            code=code,
            neurons=program_neurons,
            bin_width_s=card.data.bin_width_s,
            external=also,
        )
    text += _scores(card)
    cite = "\n".join(f"- {one.citation} {one.url}" for one in card.references)
    return f"{text}\n## Cite\n\n{cite}\n\n{card.licence}\n"


def _scores(card: ModelCard) -> str:
    """Return a table of the scores that are not losses, beside those of simple predictors; empty if there are none."""
    shown = {
        name: value
        for name, value in card.scores.items()
        if value is not None and "loss" not in name and name != "best_epoch"
    }
    if not shown:
        return ""
    names = list(dict.fromkeys(name for found in card.baselines.values() for name in found))
    rows = [
        [f"`{score}`", f"{value:.4g}", *(_number(card.baselines.get(score, {}).get(name)) for name in names)]
        for score, value in shown.items()
    ]
    heads = ["score", "model", *(f"`{name}`" for name in names)]
    has_test = any(score.endswith("_test") for score in shown)
    return _SCORES.format(
        table="\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows]),
        meaning="Scores that end with `_test` are of trials that neither trained nor selected the model, and are unbiased. Those "
        "that end with `_valid` are of the trials that it was selected on, so they are optimistic."
        if has_test
        else "The job had no test trials. The model was selected on the trials of these scores, so they are optimistic; a job "
        "with `training.test_fraction` has unbiased ones.",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
