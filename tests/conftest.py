"""What many tests share: a text encoder small enough to make on the spot, and a prepared set."""

from __future__ import annotations

import string
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import settings

from satcascade.data.prepare import prepare
from satcascade.data.prepared import PreparedDataset
from synthetic import make_synthetic_rsicd


@pytest.fixture(scope="session")
def tiny_text_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that ``load_text_encoder`` takes: a random BERT of width 16 that reads 128 tokens.

    Its words are single letters, so that different captions have different tokens.
    """
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=128,
    ).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=128,
        )
        BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def synthetic_rsicd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic set of 40 images of 64 x 64 in RSICD's layout; not to be changed."""
    return make_synthetic_rsicd(tmp_path_factory.mktemp("synthetic") / "rsicd")


@pytest.fixture(scope="session")
def prepared_synthetic(
    synthetic_rsicd: Path, tiny_text_encoder: str, tmp_path_factory: pytest.TempPathFactory
) -> PreparedDataset:
    """The synthetic set, prepared at 64 x 64 with the tiny encoder; not to be changed."""
    out = tmp_path_factory.mktemp("prepared") / "rsicd"
    prepare(synthetic_rsicd, out, image_size=64, encoder=tiny_text_encoder, progress=False)
    return PreparedDataset.open(out)


@pytest.fixture(scope="session")
def tiny_model(tiny_text_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved pipeline of random weights (see ``tiny_cascade``); not to be changed."""
    from tiny_cascade import tiny_pipeline

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline(tiny_text_encoder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_preset(tiny_text_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cascade of 32 and 64 px that trains in seconds; dropout is on, so that resuming has to restore it."""
    model = {
        "patch_size": 4,
        "widths": [16, 32],
        "blocks": [1, 1],
        "attention": [False, True],
        "head_dim": 16,
        "cond_dim": 32,
        "text_dim": 16,
        "dropout": 0.1,
    }
    training = {
        "steps": 12,
        "batch_size": 6,
        "learning_rate": 0.003,
        "warmup_steps": 2,
        "decay_steps": 3,
        "checkpoint_every": 4,
        "log_every": 2,
        "sample_every": 30,
        "precision": "float32",
        "optimizer": "muon",
    }
    low_res = {"low_res": True, "self_attention": False}
    noise = {"crop": 32, "low_res_noise": {"low": 0.0, "high": 8.0}}
    preset = {
        "name": "tiny",
        "text_encoder": tiny_text_encoder,
        "base": {"model": model | {"sample_size": 32}, "training": training},
        "sr": {"model": model | low_res | {"sample_size": 64}, "training": training | noise},
        "sampling": {"base": {"steps": 3, "guidance_scale": 2.0}, "sr": {"steps": 2}, "low_res_log_snr": 3.0},
    }
    path = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    path.write_text(yaml.safe_dump(preset))
    return str(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of the page first: one process works on them alone, and they wait more than they compute."""
    items.sort(key=lambda item: "web/test_browser" not in item.nodeid)


# A first example may pay for torch's lazy initialisation; timings are no matter of tests here.
settings.register_profile("satcascade", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("satcascade")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB, to fill."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
