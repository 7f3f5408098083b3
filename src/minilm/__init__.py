"""The public names of minilm, each loaded when it is first used.

In: `minilm.load`, `minilm.Tokenizer`, ... as attributes or `from minilm import ...`.
Out: the object from the module that defines it; importing this package alone imports no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minilm.corpus.shards import Shards as Shards
    from minilm.distill.relations import Relations as Relations
    from minilm.distill.relations import relation_loss as relation_loss
    from minilm.distill.run import distill as distill
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
    "distill": "minilm.distill",  # the subpackage itself, which is callable: one name, one object
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
    module = import_module(home)
    value: object = module if home == f"minilm.{name}" else getattr(module, name)
    globals()[name] = value
    return value


class _CallableRoom(ModuleType):
    """The subpackage `minilm.distill`, which is also the public function of that name."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Run `minilm.distill.run.distill`."""
        run: object = import_module("minilm.distill.run").distill
        assert callable(run)
        return run(*args, **kwargs)


class _Package(ModuleType):
    """Makes the subpackage callable when the import system binds it here, whoever imports it first."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "distill" and type(value) is ModuleType:
            value.__class__ = _CallableRoom
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    """List the public names without importing them."""
    return sorted(__all__)
