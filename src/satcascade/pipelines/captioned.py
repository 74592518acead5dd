"""A pipeline's captions: its frozen text encoder, and the embeddings of what it is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from satcascade.errors import SatcascadeError, UsageError
from satcascade.models.text import (
    TextEmbeddings,
    TextEncoder,
    check_captions,
    check_texts,
    load_text_encoder,
    pad_embeddings,
)
from satcascade.pipelines.stored import StoredPipeline


class TextEncoderWarning(UserWarning):
    """The text encoder at hand is not the one that a model was trained with."""


class CaptionedPipeline(StoredPipeline):
    """A pipeline with a frozen text encoder, which it names in its configuration and does not save."""

    unet: Any
    _text_encoder: TextEncoder | None = None

    @property
    def text_encoder(self) -> TextEncoder:
        """The frozen text encoder, loaded when it is first asked for.

        Raises:
            SatcascadeError: its weights cannot be had, or it is not the kind the networks were made for.
        """
        if self._text_encoder is None:
            # Its parameters must be ordinary tensors, even when the first caption meets a running pipeline.
            with torch.inference_mode(False):
                self.text_encoder = load_text_encoder(self.config.text_encoder, self.device)
        assert self._text_encoder is not None
        return self._text_encoder

    @text_encoder.setter
    def text_encoder(self, encoder: TextEncoder) -> None:
        expected = self.unet.config.text_dim
        if encoder.dim != expected:
            raise SatcascadeError(
                f"text encoder '{encoder.name}' gives {encoder.dim} numbers a token, this model takes "
                f"{expected}: use the encoder it was trained with"
            )
        trained_with = self.config.text_encoder_fingerprint
        if trained_with is not None and encoder.fingerprint != trained_with:
            warnings.warn(
                f"text encoder '{encoder.name}' is not the one this model was trained with (fingerprint "
                f"{encoder.fingerprint}, not {trained_with}): pictures may not follow their captions",
                TextEncoderWarning,
                stacklevel=2,
            )
        self._text_encoder = encoder
        self.register_to_config(text_encoder=encoder.name)

    def encode(self, captions: str | Sequence[str]) -> TextEmbeddings:
        """Embed captions with the pipeline's frozen text encoder, on the pipeline's device.

        Raises:
            UsageError: a caption is empty, or no text.
            SatcascadeError: the encoder's weights cannot be had.
        """
        captions = as_texts(captions)
        return self.text_encoder.to(self.device)(captions)

    def _captions(
        self, prompt: str | Sequence[str] | None, embeds: TextEmbeddings | None, images_of_each: int
    ) -> TextEmbeddings:
        """The embeddings of the captions asked for, each as often as there are to be images of it."""
        if (prompt is None) == (embeds is None):
            raise UsageError("give either captions (prompt) or their embeddings (prompt_embeds)")
        if images_of_each < 1:
            raise UsageError(f"num_images_per_prompt {images_of_each} is not possible: give 1 or more")
        if embeds is None:
            assert prompt is not None
            texts = as_texts(prompt)
            check_captions(texts)
            # A caption that comes several times is read once.
            distinct = list(dict.fromkeys(texts))
            embeds, rows = self.encode(distinct), [distinct.index(text) for text in texts]
        else:
            rows = list(range(len(embeds)))
        return embeds.to(self._execution_device)[[row for row in rows for _ in range(images_of_each)]]

    def _negative_captions(
        self, prompt: str | Sequence[str] | None, count: int, images_of_each: int
    ) -> TextEmbeddings | None:
        """The embeddings of ``count`` negative captions; a row without tokens stands for an empty one."""
        if prompt is None:
            return None
        captions = count // images_of_each
        texts = as_texts(prompt, "negative prompt")
        if isinstance(prompt, str):
            texts *= captions
        if len(texts) != captions:
            raise UsageError(
                f"{len(texts)} negative prompts for {captions} captions: give one for all, or one each"
            )
        known = {text: self.encode(text).embeddings[0] for text in dict.fromkeys(texts) if text.strip()}
        if not known:
            return None
        none = next(iter(known.values()))[:0]
        rows = [known.get(text, none) for text in texts for _ in range(images_of_each)]
        return pad_embeddings(rows).to(self._execution_device)


def as_texts(prompt: str | Sequence[str], what: str = "caption") -> list[str]:
    """One text or several, as a list.

    Raises:
        UsageError: it is neither, or something in the list is no text.
    """
    if isinstance(prompt, str):
        return [prompt]
    try:
        texts = list(prompt)
    except TypeError as error:
        kind = type(prompt).__name__
        raise UsageError(f"the {what} is of type {kind}: give a text, or a list of texts") from error
    check_texts(texts, what)
    return texts
