"""Script that fits the caption pool of the recipe `avatars`: `python -m gankit_avatars.fit_pool`.

The pool sits on hidden layer 3 of all-MiniLM-L6-v2, where colours are still bound to their nouns. It is fitted on
captions alone, with a linear classifier of the attributes that they tell, and written to `caption_pool.safetensors`
with its accuracies on unseen captions. A few minutes on one CPU core.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from gankit.interfaces import AttentionPool
from gankit_avatars.attributes import Avatar
from gankit_avatars.captions import captions
from gankit_avatars.weights import MINILM, PackagedWeights

FILE = Path(__file__).with_name("caption_pool.safetensors")
SEED, LAYER = 7, 3  # avatars of another seed than those that models are trained on
TOLD = ("top", "hair_color", "hat_color", "skin", "accessory", "clothes_color", "clothes", "facial_hair")


@torch.inference_mode()
def encode(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Hidden states [N, T, 384] of layer 3 in half precision, and the mask [N, T]."""
    from transformers import AutoModel, AutoTokenizer

    folder = PackagedWeights().folder(MINILM)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder, num_hidden_layers=LAYER).eval()
    ids = tokenizer(texts)["input_ids"]
    tokens = torch.zeros(len(texts), max(map(len, ids)), 384, dtype=torch.half)
    mask = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    by_length = sorted(range(len(texts)), key=lambda i: len(ids[i]))
    for start in range(0, len(texts), 64):
        rows = by_length[start : start + 64]
        batch = tokenizer([texts[i] for i in rows], padding=True, return_tensors="pt")
        width = batch["input_ids"].shape[1]
        tokens[rows, :width] = encoder(**batch).last_hidden_state.half()
        mask[rows, :width] = batch["attention_mask"].bool()
    return tokens, mask


def fit(count: int = 8000, held_out: int = 1000, epochs: int = 14, batch: int = 100) -> dict[str, float]:
    """Fit the pool, write FILE, and return the accuracy of each attribute on unseen captions."""
    torch.manual_seed(0)
    avatars = [Avatar.draw(SEED, i) for i in range(count + held_out)]
    tokens, mask = encode([captions(avatar, SEED, i)[0] for i, avatar in enumerate(avatars)])
    targets = []
    for name in TOLD:
        values = [str(getattr(avatar, name)) for avatar in avatars]
        known = sorted(set(values))
        targets.append(torch.tensor([known.index(value) for value in values]))
    sizes = [int(target.max()) + 1 for target in targets]
    pool = AttentionPool(384)
    head = nn.Linear(pool.width, sum(sizes))
    optimizer = torch.optim.AdamW([*pool.parameters(), *head.parameters()], weight_decay=0.01)
    steps = epochs * (count // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)

    def pooled(rows: Tensor) -> Tensor:
        width = int(mask[rows].sum(1).max())
        return pool(tokens[rows, :width].float(), mask[rows, :width])

    for epoch in range(epochs):
        for rows in torch.randperm(count).split(batch)[: count // batch]:
            logits = head(pooled(rows)).split(sizes, 1)
            loss = torch.stack([F.cross_entropy(x, t[rows]) for x, t in zip(logits, targets)]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}", flush=True)
    unseen = torch.arange(count, count + held_out)
    with torch.no_grad():
        guesses = head(pooled(unseen)).split(sizes, 1)
        right = [(x.argmax(1) == t[unseen]).float().mean().item() for x, t in zip(guesses, targets)]
        seen = torch.cat([pooled(rows) for rows in torch.arange(count).split(500)])
        pool.mean.copy_(seen.mean(0))
        pool.std.copy_(seen.std(0) + 1e-3)
    accuracy = {name: round(share, 4) for name, share in zip(TOLD, right)}
    note = {"held_out_accuracy": json.dumps(accuracy), "fitted_on": f"{count} captions, seed {SEED}"}
    save_file({name: t.contiguous() for name, t in pool.state_dict().items()}, FILE, note)
    return accuracy


if __name__ == "__main__":
    print(json.dumps(fit(), indent=2))
