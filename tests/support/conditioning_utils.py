"""Text encoders at toy size with random weights, and small helpers for tests of conditioners."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from gankit.core.interfaces.conditions import Condition, Conditioner
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.runtime.random import batch_random

WORDS = "a the man woman cat with and red blue hat hair long short glasses".split(" ")  # noqa: SIM905
VOCABULARY = Vocabulary(
    classes={"cat": 5, "dog": 3, "bird": 1},
    tags={"smile": 9, "glasses": 7, "red hair": 4, "blue hair": 2, "scar": 1},
    captioned=9,
    total=9,
)


def ready(conditioner: Conditioner, vocabulary: Vocabulary = VOCABULARY) -> Conditioner:
    conditioner.set_vocabulary(vocabulary)
    return conditioner


def text(*texts: str) -> list[Label]:
    return [Label(texts=(t,)) if t else Label() for t in texts]


def augmented_in_parts(conditioner: Conditioner, cond: Condition, sizes: list[int]) -> Condition:
    parts, start, total = [], 0, sum(sizes)
    for size in sizes:
        with batch_random("test", total=total, start=start, count=size):
            parts.append(conditioner.augment(cond[start : start + size]))
        start += size
    return Condition.cat(parts)


def word_tokenizer(folder: Path, ending: list[str], limit: int) -> None:
    """Words as tokens, with `ending` appended to every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        "$A " + " ".join(ending), special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=limit,
    ).save_pretrained(folder)


def make_bert(folder: Path) -> Path:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=12, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    )
    return folder


def make_t5(folder: Path) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    word_tokenizer(folder, ["</s>"], limit=512)
    return folder


def make_hf_clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    tower = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    config = CLIPConfig(
        text_config={**tower, **ids, "vocab_size": 50, "max_position_embeddings": 11, "projection_dim": 24},
        vision_config={**tower, "image_size": 8, "patch_size": 4, "projection_dim": 24},
        projection_dim=24,
    )
    CLIPModel(config).save_pretrained(folder)
    word_tokenizer(folder, ["</s>"], limit=77)
    return folder


NAME = "gankit-tiny-clip"
EMBED_DIM, SIDE = 12, 16


def make_open_clip(folder: Path, *, image_layers: int = 2) -> tuple[str, Path]:
    """Register the architecture and write weights; returns its name in open_clip and the safetensors file."""
    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": EMBED_DIM,
        "vision_cfg": {
            "image_size": SIDE,
            "layers": image_layers,
            "width": 16,
            "head_width": 8,
            "patch_size": 4,
        },
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    name = NAME if image_layers == 2 else f"{NAME}-{image_layers}"
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.create_model(name)
        for parameter in clip.parameters():  # the usual start is so small that all texts look the same
            parameter.data.normal_(std=0.3)
    save_file(clip.state_dict(), folder / "clip.safetensors")
    return name, folder / "clip.safetensors"
