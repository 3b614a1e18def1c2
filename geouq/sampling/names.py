"""What samplers and precisions are called: names alone, so that a command line is read before torch is imported."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A sampler that can be asked for by name: what differs between its samples, and the module and class of it."""

    differs: str
    module: str
    cls: str


SAMPLERS = {
    "dropout": Row("channels switched off", "geouq.sampling.dropout", "Dropout"),
    "ssn": Row("one draw of the logits' own distribution", "geouq.sampling.ssn", "StochasticSegmentation"),
    "laplace": Row("the weights of the last layer", "geouq.sampling.laplace", "Laplace"),
    "ensemble": Row("the model", "geouq.sampling.ensemble", "Ensemble"),
}
AUTO = "auto"
#: what ``--sampler`` takes, and what it says
CHOICES = (AUTO, *SAMPLERS)
HELP = (
    "What differs between samples: "
    + "; ".join(f"{name}: {row.differs}" for name, row in SAMPLERS.items())
    + f"; {AUTO}: what the model is made for, an ensemble if there are several."
)
#: of a network's arithmetic, torch's names
PRECISIONS = ("float32", "bfloat16", "float16")
