"""The public names of minilm, each loaded when it is first used.

In: `minilm.load`, `minilm.Tokenizer`, ... as attributes or `from minilm import ...`.
Out: the object from the module that defines it; importing this package alone imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minilm.corpus.shards import Shards as Shards
    from minilm.distill.relations import Relations as Relations
    from minilm.distill.relations import relation_loss as relation_loss
    from minilm.infer.api import load as load
    from minilm.model.config import EncoderConfig as EncoderConfig
    from minilm.model.encoder import Encoder as Encoder
    from minilm.model.packing import Packed as Packed
    from minilm.recipe import load_recipe as load_recipe
    from minilm.text.tokenizer import Tokenizer as Tokenizer

__version__ = "0.1.0"

_HOME = {
    "Encoder": "minilm.model.encoder",
    "EncoderConfig": "minilm.model.config",
    "Packed": "minilm.model.packing",
    "Relations": "minilm.distill.relations",
    "Shards": "minilm.corpus.shards",
    "Tokenizer": "minilm.text.tokenizer",
    "load": "minilm.infer.api",
    "load_recipe": "minilm.recipe",
    "relation_loss": "minilm.distill.relations",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    """Import the module that defines a public name and hand the name over."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'minilm' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names without importing them."""
    return sorted(__all__)
