"""Targets generated for held-out pairs during training, and their scores.

In: the model being trained, held-out pairs. Out: one text per selected pair; their ROUGE and BLEU-4.

The references of ROUGE are those of the file. The references of BLEU-4 are detokenized from the model's own tokens,
one per pair, so BLEU-4 is suitable for selecting checkpoints, but not comparable with published numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minilm.decode.decoder import Decoder, pos_shift_of
from minilm.decode.settings import GenerationSettings
from minilm.infer.generate import Generation
from minilm.infer.sources import GenerationSource
from minilm.model.heads import Model
from minilm.score.generation import ScoredText, bleu_counts, bleu_scores
from minilm.score.rouge.postprocess import plain_sentences
from minilm.score.rouge.scores import ROUGE_METRICS, rouge_metrics, rouge_scores
from minilm.score.rouge.stemming import rouge_stem
from minilm.tally import Tally
from minilm.tasks.seq2seq.rows import Pairs
from minilm.tasks.seq2seq.settings import Seq2SeqSettings
from minilm.text.detokenize import text_of
from minilm.text.tokenizer import Tokenizer
from minilm.train.distributed import Ranks, gathered

GENERATED_METRICS = (*ROUGE_METRICS, "Bleu_4")


def generate_targets(
    model: Model,
    pairs: Pairs,
    tokenizer: Tokenizer,
    settings: Seq2SeqSettings,
    *,
    ranks: Ranks,
) -> dict[int, str]:
    """Generate targets for an evenly spaced selection of pairs; the processes divide the work.

    Args:
        model: a model in evaluation mode with a trained head.
        pairs: held-out pairs.
        tokenizer: tokenizer of the pairs.
        settings: `dev_generated` pairs, `beam_size`, `max_target_tokens`, and the `mask_way` of training.
        ranks: this process among the processes of the run.

    Returns:
        Generated text by index of the pair, in ascending order; every process gets all of them.
    """
    decoder = Decoder(model, tokenizer, pos_shift=pos_shift_of(settings.mask_way))
    wanted = GenerationSettings(beam_size=settings.beam_size, max_target_tokens=settings.max_target_tokens)
    generation = Generation(decoder, tokenizer, wanted, max_source_tokens=None)
    count = min(settings.dev_generated, len(pairs))
    rows = [number * len(pairs) // count for number in range(count)]  # evenly spaced, the same at every evaluation
    own = rows[ranks.rank :: ranks.world_size]
    sources = [
        GenerationSource(
            parts=[[tokenizer.id_to_token(token) for token in pairs.sources[row].tolist()]], id="", location=""
        )
        for row in own
    ]
    framed = generation.encode(sources, Tally())
    found = {own[index]: one.text for batch in generation.run(framed, own) for index, one in batch}
    merged: dict[int, str] = {}
    for part in gathered(found, ranks):
        merged |= part
    return {row: merged[row] for row in rows}


def generation_numbers(texts: Mapping[int, str], pairs: Pairs, tokenizer: Tokenizer) -> dict[str, float]:
    """ROUGE-1, -2, -L, -Lsum and BLEU-4, times 100, of generated texts by index of the pair."""
    predictions = [plain_sentences(text) for text in texts.values()]
    references = [[plain_sentences(pairs.references[row])] for row in texts]
    rouge = rouge_metrics(rouge_scores(predictions, references, stem=rouge_stem))
    counts = [
        bleu_counts(ScoredText(text=text, references=(text_of(pairs.targets[row].tolist(), tokenizer),)))
        for row, text in texts.items()
    ]
    bleu = bleu_scores(np.sum(counts, axis=0, dtype=np.float64))
    return {name: rouge[name] for name in ROUGE_METRICS} | {"Bleu_4": 100 * bleu[3]}
