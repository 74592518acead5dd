"""Embeddings of the captions of a run: from the cache of a prepared set where it fits, otherwise encoded."""

from __future__ import annotations

from collections.abc import Sequence

from satcascade.data.captions import Captions
from satcascade.data.prepared import PreparedDataset
from satcascade.models.text import TextEmbeddings, pad_embeddings
from satcascade.pipelines.cascade import CascadePipeline


class CaptionEmbeddings:
    """Embeddings of a run's captions: from the prepared set's cache if it fits, otherwise encoded.

    Captions are encoded one by one, so that their embeddings do not depend on what else is in a batch.

    Attributes:
        origin: ``cached float16`` or ``float32``, for the records.
    """

    def __init__(self, pipeline: CascadePipeline, captions: Captions):
        self._pipeline = pipeline
        self._captions = captions
        self._known: dict[str, TextEmbeddings] = {}
        prepared = captions.prepared
        self._cached = prepared is not None and self._fits(prepared)
        self.origin = "cached float16" if self._cached else "float32"

    def __call__(self, numbers: Sequence[int]) -> TextEmbeddings:
        """The embeddings of captions, given by their numbers in the run, padded to the longest of them."""
        prepared, ids = self._captions.prepared, self._captions.caption_ids
        if self._cached and prepared is not None and ids is not None:
            return prepared.text([ids[number] for number in numbers])
        texts = [self._captions.texts[number] for number in numbers]
        # Only what this batch needs: a long run has more captions than memory should hold.
        self._known = {
            text: self._known[text] if text in self._known else self._pipeline.encode(text)
            for text in dict.fromkeys(texts)
        }
        return pad_embeddings([self._known[text].embeddings[0] for text in texts])

    def _fits(self, prepared: PreparedDataset) -> bool:
        """Whether the cache was made by the very encoder that the pipeline was trained with."""
        expected = self._pipeline.config.text_encoder_fingerprint or self._pipeline.text_encoder.fingerprint
        return bool(prepared.manifest["encoder"]["fingerprint"] == expected)
