"""The model card of a trained model: `README.md` in its folder.

In: what the run knows about the model. Out: Markdown with the metadata that the Hugging Face hub reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

Kind = Literal["embed", "text", "tokens", "squad", "seq2seq", "rerank"]
# Kind of task -> the hub's name of it, and a call.
_USES: dict[Kind, tuple[str, str]] = {
    "embed": ("feature-extraction", 'model.encode(["a text", "another text"])'),
    "text": ("text-classification", 'model.classify(["a text"])'),
    "tokens": ("token-classification", 'model.tag(["a text"])'),
    "squad": ("question-answering", 'model.answer("a question", "a text with its answer")'),
    "rerank": ("text-ranking", 'model.rank("a query", ["a text", "another text"])'),
    "seq2seq": ("text-generation", 'model.generate(["a text"])'),
}


def model_card(title: str, *, kind: Kind, base: str, tags: Sequence[str], pairs: bool, sections: Sequence[str]) -> str:
    """The card.

    Args:
        title: name of the model.
        kind: of the task that it is for.
        base: the model that it comes from.
        tags: words to find it by, besides `minilm`.
        pairs: whether a classifier takes two texts.
        sections: paragraphs about how it was made, and what to know.
    """
    pipeline, call = _USES[kind]
    if pairs and kind == "text":
        call = 'model.classify(["a text"], ["its second text"])'
    values = {
        "library_name": "minilm",
        "pipeline_tag": pipeline,
        "base_model": base,
        "license": "unknown",
        "tags": ["minilm", *tags],
    }
    head = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    usage = f'```python\nimport minilm\n\nmodel = minilm.load("FOLDER")\nprint({call})\n```'
    license_note = (
        "The license is that of the base model and of the training data, which this card does not know: set `license` "
        "in its first lines before you publish it."
    )
    parts = [f"---\n{head}\n---", f"# {title}", *sections, f"## Use\n\n{usage}", f"## License\n\n{license_note}"]
    return "\n\n".join(parts) + "\n"
