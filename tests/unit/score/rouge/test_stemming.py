"""Stems equal those of ROUGE-1.5.5: WordNet's exceptions first, then its Porter stemmer with its two-fold step 4."""

from __future__ import annotations

import pytest

from minilm.score.rouge.stemming import porter_stem, rouge_stem, word_exceptions

# Words and their stems by the Perl program, one or more for each rule.
STEMS = """
caresses caress / ponies poni / caress caress / cats cat / gas ga / feed feed / agreed agre / plastered plaster /
bled bled / motoring motor / sing sing / conflated conflat / troubled troubl / sized size / hopping hop / falling fall /
hissing hiss / fizzed fizz / failing fail / filing file / happy happi / sky sky / yes ye / yellowing yellow / say sai /
relational relat / conditional condit / valenci valenc / digitizer digit / conformabli conform / radicalli radic /
differentli differ / vileli vile / analogousli analog / operator oper / feudalism feudal / decisiveness decis /
hopefulness hope / formaliti formal / sensitiviti sensit / sensibiliti sensibl / apologi apolog / triplicate triplic /
formative form / formalize formal / electriciti electr / electrical electr / goodness good / revival reviv /
allowance allow / inference infer / airliner airlin / gyroscopic gyroscop / adjustable adjust / defensible defens /
irritant irrit / replacement replac / adjustment adjust / dependent depend / adoption adopt / commission commiss /
homologou homolog / communism commun / activate activ / angulariti angular / homologous homolog / effective effect /
bowdlerize bowdler / probate probat / rate rate / cease ceas / controll control / roll roll / agreement agreem /
accidentally accid / adoptionent adoption / argument argum / continental contin /
dimensional dimens / a1 a1 / 2015 2015 / ied i / y y / is is
"""


@pytest.mark.parametrize("pair", [pair.split() for pair in STEMS.split("/")], ids=" ".join)
def test_the_stemmer_is_that_of_the_perl_program(pair):
    word, stem = pair
    assert porter_stem(word) == stem


@pytest.mark.parametrize(
    ("word", "stem"),
    [("better", "well"), ("children", "child"), ("went", "go"), ("thought", "think"), ("running", "run"),
     ("men", "men"), ("was", "was"), ("yes", "yes"), ("cats", "cat"), ("", "")],
)  # fmt: skip
def test_exceptions_go_first_and_short_words_stay(word, stem):
    assert rouge_stem(word) == stem


def test_the_table_contains_only_what_changes_something():
    table = word_exceptions()
    assert len(table) == 3636
    assert list(table) == sorted(table)
    assert all(word.isalnum() and len(word) > 3 and porter_stem(word) != base for word, base in table.items())
