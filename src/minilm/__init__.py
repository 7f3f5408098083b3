"""The public names of minilm, each loaded when it is first used.

In: `minilm.load`, `minilm.Tokenizer`, ... as attributes or `from minilm import ...`.
Out: the object from the module that defines it; importing this package alone imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minilm.corpus.shards import Shards as Shards
    from minilm.decode.settings import GenerationSettings as GenerationSettings
    from minilm.distill.relation_loss import V1_PAIRS as V1_PAIRS
    from minilm.distill.relation_loss import V2_PAIRS as V2_PAIRS
    from minilm.distill.relation_loss import relation_loss as relation_loss
    from minilm.errors import MinilmError as MinilmError
    from minilm.export.asymmetric import write_asymmetric as write_asymmetric
    from minilm.infer.api import LoadedModel as LoadedModel
    from minilm.infer.api import load as load
    from minilm.infer.predictions import Classified as Classified
    from minilm.infer.predictions import Ranked as Ranked
    from minilm.model.checkpoint import read_model as read_model
    from minilm.model.checkpoint import write_model as write_model
    from minilm.model.config import EncoderConfig as EncoderConfig
    from minilm.model.encoder import Encoder as Encoder
    from minilm.model.encoder import Relations as Relations
    from minilm.model.packing import Packed as Packed
    from minilm.model.packing import pack as pack
    from minilm.recipe.loading import load_recipe as load_recipe
    from minilm.recipe.shipped import find_recipe as find_recipe
    from minilm.run_recipe import RunSummary as RunSummary
    from minilm.run_recipe import run as run
    from minilm.tasks.squad.answers import Answer as Answer
    from minilm.tasks.squad.read import Question as Question
    from minilm.tasks.tokens.entities import Entity as Entity
    from minilm.tasks.tokens.entities import Tagged as Tagged
    from minilm.text.tokenizer import Tokenizer as Tokenizer

__version__ = "0.1.0"

_HOME = {
    "Answer": "minilm.tasks.squad.answers",
    "Classified": "minilm.infer.predictions",
    "Ranked": "minilm.infer.predictions",
    "Encoder": "minilm.model.encoder",
    "EncoderConfig": "minilm.model.config",
    "Entity": "minilm.tasks.tokens.entities",
    "GenerationSettings": "minilm.decode.settings",
    "LoadedModel": "minilm.infer.api",
    "MinilmError": "minilm.errors",
    "Packed": "minilm.model.packing",
    "Question": "minilm.tasks.squad.read",
    "Relations": "minilm.model.encoder",
    "RunSummary": "minilm.run_recipe",
    "Shards": "minilm.corpus.shards",
    "Tagged": "minilm.tasks.tokens.entities",
    "Tokenizer": "minilm.text.tokenizer",
    "V1_PAIRS": "minilm.distill.relation_loss",
    "V2_PAIRS": "minilm.distill.relation_loss",
    "find_recipe": "minilm.recipe.shipped",
    "load": "minilm.infer.api",
    "load_recipe": "minilm.recipe.loading",
    "pack": "minilm.model.packing",
    "read_model": "minilm.model.checkpoint",
    "relation_loss": "minilm.distill.relation_loss",
    "run": "minilm.run_recipe",
    "write_asymmetric": "minilm.export.asymmetric",
    "write_model": "minilm.model.checkpoint",
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
