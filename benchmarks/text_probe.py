"""Probes of a frozen text encoder: accuracy of attributes (colours bound to nouns) predicted from its features.

Captions of avatars go through all-MiniLM-L6-v2; small networks learn to predict the attributes from its hidden states,
averaged over the tokens or pooled by learned attention. Prints the accuracy on unseen captions for each kind of pooling
and layer. `python benchmarks/text_probe.py` takes some ten minutes on one CPU core.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankit_avatars.attributes import Avatar, Draws
from gankit_avatars.captions import caption
from gankit_avatars.weights import MINILM, PackagedWeights

TOLD = ("top", "hair_color", "hat_color", "skin", "accessory", "clothes_color")


class MeanPool(nn.Module):
    """Mean over the tokens, scaled to unit length: the usual sentence embedding."""

    width = 384

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        mean = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(mean, dim=1) * self.width**0.5


class AttentionPool(nn.Module):
    """Attention pooling by a few learned queries, each with its own softmax over the tokens, with shared values."""

    def __init__(self, queries: int = 8, values: int = 64) -> None:
        super().__init__()
        self.query, self.value, self.width = nn.Linear(384, queries), nn.Linear(384, values), queries * values

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        attention = self.query(tokens).masked_fill(mask[..., None] == 0, -1e4).softmax(1)  # [B, T, Q]
        return (attention.mT @ self.value(tokens)).flatten(1)


@torch.inference_mode()
def encode(texts: list[str], layers: list[int], length: int = 52) -> tuple[dict[int, Tensor], Tensor]:
    """Layer -> hidden states [N, length, 384] in half precision, and the mask [N, length]."""
    from transformers import AutoModel, AutoTokenizer

    folder = PackagedWeights().folder(MINILM)
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    hidden = {layer: torch.zeros(len(texts), length, 384, dtype=torch.half) for layer in layers}
    mask = torch.zeros(len(texts), length)
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(texts), 64):
        rows = by_length[start : start + 64]
        batch = tokenizer(
            [texts[i] for i in rows], padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        states = encoder(**batch, output_hidden_states=True).hidden_states
        width = states[0].shape[1]
        mask[rows, :width] = batch["attention_mask"].float()
        for layer in layers:
            hidden[layer][rows, :width] = states[layer].half()
    return hidden, mask


def probe(
    pool: nn.Module, tokens: Tensor, mask: Tensor, targets: dict[str, Tensor], held_out: int, epochs: int = 15
) -> dict[str, float]:
    """Train pool and classifier on all but the last `held_out` rows; returns the accuracy on those by attribute."""
    torch.manual_seed(0)
    sizes = [int(target.max()) + 1 for target in targets.values()]
    head = nn.Sequential(
        nn.Linear(pool.width, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, sum(sizes))
    )
    parameters = [*pool.parameters(), *head.parameters()]
    count, batch = len(tokens) - held_out, 100
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * (count // batch))
    scale = tokens[:500].float()[mask[:500] > 0].std()

    def predict(rows: Tensor) -> tuple[Tensor, ...]:
        width = int(mask[rows].sum(1).max())
        return head(pool(tokens[rows, :width].float() / scale, mask[rows, :width])).split(sizes, 1)

    for _ in range(epochs):
        for rows in torch.randperm(count)[: count // batch * batch].split(batch):
            loss = sum(F.cross_entropy(x, t[rows]) for x, t in zip(predict(rows), targets.values()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    rows = torch.arange(count, len(tokens))
    with torch.no_grad():
        right = [x.argmax(1) == t[rows] for x, t in zip(predict(rows), targets.values())]
    return {name: r.float().mean().item() for name, r in zip(targets, right)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=int, default=6000)
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 3, 4, 6])
    args = parser.parse_args()
    torch.set_num_threads(1)

    avatars = [Avatar.draw(7, i) for i in range(args.captions + args.held_out)]
    texts = [caption(avatar, Draws("probe", i)) for i, avatar in enumerate(avatars)]
    targets = {}
    for name in TOLD:
        values = [str(getattr(avatar, name)) for avatar in avatars]
        known = sorted(set(values))
        targets[name] = torch.tensor([known.index(value) for value in values])
    hidden, mask = encode(texts, args.layers)
    for layer in args.layers:
        for pool in (MeanPool(), AttentionPool()):
            accuracy = probe(pool, hidden[layer], mask, targets, args.held_out)
            scores = "  ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
            print(f"layer {layer} {type(pool).__name__:13s} {scores}", flush=True)


if __name__ == "__main__":
    main()
