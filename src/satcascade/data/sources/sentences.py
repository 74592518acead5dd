"""Captions in cells and JSON values, and captions made from labels."""

from __future__ import annotations

import re
import string
from dataclasses import replace
from typing import Any

from satcascade.data.sources.sample import Sample, one_line
from satcascade.errors import UsageError

_TEXTS = ("raw", "caption", "sentence", "text")


def sentence_text(sentence: Any) -> str:
    """One caption; empty where there is none.

    That is a text, a list of its tokens, or an object with ``raw`` (``caption``, ``sentence``, ``text``) or
    else ``tokens``.
    """
    if isinstance(sentence, dict):
        texts = (sentence_text(sentence.get(key)) for key in (*_TEXTS, "tokens"))
        return next(filter(None, texts), "")
    if isinstance(sentence, list | tuple):
        return " ".join(filter(None, map(sentence_text, sentence)))
    return "" if sentence is None else str(sentence).strip()


def sentences_in(value: Any) -> list[str]:
    """The captions in a value: of a list one for each entry; an object of lists is one such list.

    The ``datasets`` library turns a list of objects into an object of lists:
    ``{"raw": ["a pond", "a lake"]}``.
    """
    if isinstance(value, dict):
        texts = next((value[key] for key in _TEXTS if isinstance(value.get(key), list | tuple)), None)
        tokens = value.get("tokens")
        if texts is None and isinstance(tokens, list | tuple) and any(isinstance(t, list) for t in tokens):
            texts = tokens
        value = value if texts is None else texts
    if isinstance(value, list | tuple):
        return [sentence_text(each) for each in value]
    return [sentence_text(value)]


def check_template(template: str) -> None:
    """Refuse a template of captions that is not one line of text in which ``{label}`` is the only field.

    Raises:
        UsageError: naming the field that is not known, or what else is wrong.
    """
    if not template.strip() or len(template.splitlines()) > 1:
        raise UsageError("the caption template is empty or has several lines: write one, with {label} in it")
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(
            f"the caption template '{template}' cannot be read ({error}): write a brace as {{{{ or }}}}"
        ) from error
    for _, field, form, conversion in parts:
        if field is not None and (field != "label" or form or conversion):
            written = f"{field}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}"
            raise UsageError(
                f"the caption template '{template}' has an unknown field {{{written}}}: the only one is "
                "{label}"
            )


def captioned(sample: Sample, template: str) -> Sample:
    """A sample that has no caption, with one made of its label; any other as it is."""
    needs_label = any(field is not None for _, field, _, _ in string.Formatter().parse(template))
    if any(map(one_line, sample.captions)) or (needs_label and not sample.label):
        return sample
    return replace(sample, captions=(template.format(label=label_words(sample.label or "")),))


def label_words(label: str) -> str:
    """A label as words: ``SparseResidential`` and ``sparse_residential`` are sparse residential."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    return " ".join(parted.replace("_", " ").replace("-", " ").lower().split()) or label
