from __future__ import annotations

import random
import string
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from rounding import assert_equal_but_for_rounding, nudged_weights
from satcascade.errors import SatcascadeError, UsageError
from satcascade.evaluation.measures.clip import clip_score
from satcascade.evaluation.networks.clip import load_clip
from satcascade.evaluation.networks.features import load_features
from synthetic import CLASSES, synthetic_image, synthetic_rows


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a CLIP model of random weights that reads single letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    words = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", *string.ascii_lowercase, *string.punctuation]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]"
    ).save_pretrained(folder)
    common = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "projection_dim": 8,
    }
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = {**common, **ids, "vocab_size": len(words), "max_position_embeddings": 24}
    vision = {**common, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        CLIPModel(config).save_pretrained(folder)
    return str(folder)


def embeddings(n: int, seed: int) -> Tensor:
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosines_and_the_published_shuffle() -> None:
    images, texts = embeddings(30, 1), embeddings(30, 2)
    found = clip_score(images, 5 * texts)
    random.seed(17)
    captions = list(range(30))
    random.shuffle(captions)
    own = torch.cosine_similarity(images, texts)
    shuffled = torch.cosine_similarity(images, texts[captions])
    assert found.score == pytest.approx(float(own.mean()))
    assert found.std == pytest.approx(float(own.std()))
    assert found.shuffled == pytest.approx(float(shuffled.mean()))
    assert found.metrics()["clip_lift"] == pytest.approx(float(own.mean() - shuffled.mean()))
    assert {"clip_score", "clip_score_shuffled", "clip_lift"} < found.metrics().keys()


def test_the_lift_is_high_for_fitting_captions_and_none_for_shuffled_ones() -> None:
    images = embeddings(400, 1) + 3
    texts = images + embeddings(400, 2)
    fitting = clip_score(images, texts)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    wrong = clip_score(images, texts[order])
    # Of the difference of two means.
    noise = wrong.std * (2 / 400) ** 0.5
    assert fitting.lift > 10 * noise
    assert abs(wrong.lift) < 3 * noise
    assert wrong.score < fitting.score


def test_each_class_has_its_own_score() -> None:
    images, texts = embeddings(6, 1), embeddings(6, 2)
    found = clip_score(images, texts, ["Pond", "Farm", "Pond", None, "Farm", "Pond"])
    assert {name: score.n for name, score in found.by_class.items()} == {"Farm": 2, "Pond": 3}
    assert found.by_class["Pond"].score == pytest.approx(float(found.scores[[0, 2, 5]].mean()))


def test_a_shuffled_bundle_has_no_lift_with_any_model(tiny_clip: str) -> None:
    model = load_clip(tiny_clip)
    rows = synthetic_rows(48)
    images = [synthetic_image(row["label"], row["imgid"], 32) for row in rows]
    captions = [row["captions"][0] for row in rows]
    random.Random(1).shuffle(captions)
    seen: list[int] = []
    found = clip_score(model.images(images, seen.append), model.texts(captions, seen.append))
    assert sum(seen) == 2 * 48
    assert found.std > 0
    assert abs(found.lift) < 3 * found.std * (2 / 48) ** 0.5


def test_embeddings_are_those_of_the_model(tiny_clip: str) -> None:
    from transformers import AutoTokenizer, CLIPModel

    model, tokenizer = CLIPModel.from_pretrained(tiny_clip), AutoTokenizer.from_pretrained(tiny_clip)
    captions = ["a pond", "many trees, and a very long caption that has to be cut"]
    images = [synthetic_image(label, 1, 256) for label in CLASSES]
    pixels = [
        torch.tensor(list(image.resize((32, 32), Image.Resampling.BICUBIC).tobytes())).reshape(32, 32, 3)
        for image in images
    ]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    x = ((torch.stack(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    tokens = tokenizer(captions, padding=True, truncation=True, max_length=24, return_tensors="pt")

    def computed(kind: str) -> torch.Tensor:
        inputs = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        return getattr(model(**inputs, pixel_values=x), f"{kind}_embeds")

    def again(kind: str, seed: int) -> torch.Tensor:
        with nudged_weights(seed, model):
            return computed(kind)

    ours = load_clip(tiny_clip)
    with torch.inference_mode():
        for kind, found in (("image", ours.images(images)), ("text", ours.texts(captions))):
            unit = torch.nn.functional.normalize(found, dim=1).float()
            assert_equal_but_for_rounding(unit, computed(kind), partial(again, kind))
    assert len(tokenizer(captions[1])["input_ids"]) > 24


def test_image_embeddings_are_a_feature_network(tiny_clip: str) -> None:
    network = load_features(f"clip-image:{tiny_clip}")
    images = [synthetic_image("Pond", number, 64) for number in range(3)]
    assert network(images).shape == (3, network.dim) == (3, 8)
    assert network(images).equal(load_clip(tiny_clip).images(images))


def test_a_model_that_cannot_be_had_is_refused_in_a_line(tmp_path: Path, tiny_text_encoder: str) -> None:
    for name in (str(tmp_path / "gone"), tiny_text_encoder):
        with pytest.raises(SatcascadeError, match=r"cannot be loaded .*efficientnet-lite0") as caught:
            load_clip(name)
        assert "\n" not in str(caught.value)


def test_a_model_that_lacks_weights_is_refused(tiny_clip: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in Path(tiny_clip).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SatcascadeError, match=r"lacks weights, such as visual_projection\.weight"):
        load_clip(str(tmp_path))


def test_too_few_and_uneven_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="too few images for the CLIP-score: 1"):
        clip_score(embeddings(1, 1), embeddings(1, 2))
    with pytest.raises(UsageError, match="3 images and 2 captions"):
        clip_score(embeddings(3, 1), embeddings(2, 2))
