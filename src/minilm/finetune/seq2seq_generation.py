"""Targets generated for held-out pairs during training, and what they score.

In: the model as it is, held-out pairs. Out: one text per chosen pair; ROUGE and BLEU-4 of them.

ROUGE compares with the references of the file. BLEU-4 compares with the targets as the model's own tokens put
together again, each pair by itself, so it is for choosing checkpoints, not for comparing with papers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minilm.decode.decoder import Decoder, pos_shift_of
from minilm.decode.settings import GenerationSettings
from minilm.infer.generate import Generation
from minilm.infer.sources import Source
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
    """Generate for the chosen pairs, the work shared by the processes.

    Args:
        model: in evaluation mode; its head counts as trained.
        pairs: held-out pairs.
        tokenizer: of their ids.
        settings: how many pairs and beams, how long targets are, how the model is trained.
        ranks: this process among those that share the work.

    Returns:
        Text by number of the pair, in order; every process gets all.
    """
    decoder = Decoder(model, tokenizer, pos_shift=pos_shift_of(settings.mask_way))
    wanted = GenerationSettings(beam_size=settings.beam_size, max_target_tokens=settings.max_target_tokens)
    generation = Generation(decoder, tokenizer, wanted, max_source_tokens=None)
    count = min(settings.dev_generated, len(pairs))
    rows = [number * len(pairs) // count for number in range(count)]  # spread evenly, always the same
    own = rows[ranks.rank :: ranks.world_size]
    sources = [
        Source(parts=[[tokenizer.id_to_token(token) for token in pairs.sources[row].tolist()]], id="", place="")
        for row in own
    ]
    framed = generation.encode(sources, Tally())
    found = {own[index]: one.text for batch in generation.run(framed, own) for index, one in batch}
    everyones: dict[int, str] = {}
    for part in gathered(found, ranks):
        everyones |= part
    return {row: everyones[row] for row in rows}


def generation_numbers(texts: Mapping[int, str], pairs: Pairs, tokenizer: Tokenizer) -> dict[str, float]:
    """ROUGE-1, -2, -L, -Lsum and BLEU-4 of generated texts by number of the pair, times 100."""
    predictions = [plain_sentences(text) for text in texts.values()]
    references = [[plain_sentences(pairs.references[row])] for row in texts]
    rouge = rouge_metrics(rouge_scores(predictions, references, stem=rouge_stem))
    counts = [
        bleu_counts(ScoredText(text=text, references=(text_of(pairs.targets[row].tolist(), tokenizer),)))
        for row, text in texts.items()
    ]
    bleu = bleu_scores(np.sum(counts, axis=0, dtype=np.float64))
    return {name: rouge[name] for name in ROUGE_METRICS} | {"Bleu_4": 100 * bleu[3]}
