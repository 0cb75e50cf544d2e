"""Combined conditioner: several conditioners side by side, any of which may be given or left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from gankit.core.config.options import Nested
from gankit.core.interfaces.conditions import Condition, Conditioner, CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.runtime.random import rand
from gankit.errors import GankitError


class CombinedConditioner(Conditioner):
    """Concatenated embeddings of its parts, then one flag for each part: 1 given, 0 not given.

    A part that an image lacks, or that training hides, is all zeros with flag 0.

    Args:
        parts: conditioners by plugin name with their options, e.g. {class: {}, tags: {min_count: 50}, text: {}}.
        part_dropout: probability in [0, 1] with which training hides each part of an image, independently.
        drop_all: probability in [0, 1] with which training hides all parts of an image.
    """

    conformance: ClassVar[dict[str, Any]] = {"parts": {"class": {}, "tags": {}}}

    def __init__(
        self,
        *,
        parts: Annotated[dict[str, Conditioner], Nested("conditioner", many=True)],
        part_dropout: float = 0.1,
        drop_all: float = 0.1,
    ) -> None:
        super().__init__()
        if not parts:
            raise GankitError(
                "conditioner 'combined' needs at least one entry in parts, e.g. {class: {}, text: {}}"
            )
        for name, value in (("part_dropout", part_dropout), ("drop_all", drop_all)):
            if not 0 <= value <= 1:
                raise GankitError(f"{name} = {value} of conditioner 'combined' must be in [0, 1]")
        self.parts = nn.ModuleDict(parts)
        self.part_dropout, self.drop_all = part_dropout, drop_all
        self.spec = CondSpec()
        self.slices: dict[str, slice] = {}  # columns of each part in the embedding
        self.flags = slice(0, 0)  # columns of the flags, in the order of the parts
        self._token_part: str | None = None

    def _parts(self) -> dict[str, Any]:
        return dict(self.parts.items())

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        parts = self._parts()
        for part in parts.values():
            part.set_vocabulary(vocabulary)
        for name, part in parts.items():
            if not part.spec.c_dim:
                raise GankitError(
                    f"part {name!r} of conditioner 'combined' has no embedding; remove it from parts"
                )
        with_tokens = [name for name, part in parts.items() if part.spec.token_dim]
        if len(with_tokens) > 1:
            raise GankitError(
                f"parts {' and '.join(map(repr, with_tokens))} of conditioner 'combined' both emit tokens; "
                "switch them off in all but one"
            )
        self._token_part = with_tokens[0] if with_tokens else None
        end, self.slices = 0, {}
        for name, part in parts.items():
            self.slices[name] = slice(end, end + part.spec.c_dim)
            end += part.spec.c_dim
        self.flags = slice(end, end + len(parts))
        token_dim = parts[self._token_part].spec.token_dim if self._token_part else 0
        self.spec = CondSpec(c_dim=self.flags.stop, token_dim=token_dim)

    def vocabulary(self) -> Vocabulary:
        merged = Vocabulary()
        for part in self._parts().values():
            vocabulary = part.vocabulary()
            merged.classes |= vocabulary.classes
            merged.tags |= vocabulary.tags
            merged.captioned = max(merged.captioned, vocabulary.captioned)
            merged.total = max(merged.total, vocabulary.total)
            merged.fields |= vocabulary.fields
        return merged

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset().union(*(part.accepts for part in self._parts().values()))

    def examples(self) -> Mapping[str, Sequence[Any]]:
        return {field: some for part in self._parts().values() for field, some in part.examples().items()}

    def check(self, label: Label) -> None:
        for part in self._parts().values():
            part.check(label)

    def mirror(self, label: Label) -> Label | None:
        mirrored: Label | None = label
        for part in self._parts().values():
            mirrored = None if mirrored is None else part.mirror(mirrored)
        return mirrored

    def columns(self) -> list[tuple[str, str]]:
        named = [column for part in self._parts().values() for column in part.columns()]
        return named + [("given", name) for name in self._parts()]

    def ignored(self, label: Label) -> list[str]:
        """Tags of a label that are known but have no effect."""
        return [tag for part in self._parts().values() for tag in part.ignored(label)]

    def identity(self) -> dict[str, str]:
        """Hashes of the parts' frozen encoders."""
        return {
            f"{name}.{key}": value
            for name, part in self._parts().items()
            for key, value in part.identity().items()
        }

    def prepare(self, cache_dir: Path | None, device: torch.device) -> None:
        for part in self._parts().values():
            part.prepare(cache_dir, device)

    def encode(self, labels: Sequence[Label]) -> Condition:
        return self._join({name: part.encode(labels) for name, part in self._parts().items()})

    def augment(self, cond: Condition) -> Condition:
        parts, embedding = self._parts(), cond.embedding
        assert embedding is not None
        augmented = {}
        for name, part in parts.items():
            own = Condition(embedding[:, self.slices[name]])
            if name == self._token_part:
                own.tokens, own.mask = cond.tokens, cond.mask
            augmented[name] = part.augment(own)
        keep = torch.ones(len(embedding), len(parts), dtype=torch.bool, device=embedding.device)
        if self.part_dropout:
            keep &= rand(*keep.shape, device=keep.device) >= self.part_dropout
        if self.drop_all:
            keep &= rand(len(keep), 1, device=keep.device) >= self.drop_all
        return self._join({name: _masked(augmented[name], keep[:, i]) for i, name in enumerate(parts)})

    def _join(self, parts: dict[str, Condition]) -> Condition:
        embeddings = [part.embedding for part in parts.values() if part.embedding is not None]
        # Zeros mean "not given" in every conditioner, so a part that hid all it had gets flag 0 as well.
        flags = torch.stack([(e.detach() != 0).any(dim=1) for e in embeddings], dim=1)
        joined = Condition(torch.cat([*embeddings, flags.to(embeddings[0].dtype)], dim=1))
        if self._token_part:
            joined.tokens, joined.mask = parts[self._token_part].tokens, parts[self._token_part].mask
        return joined


def _masked(cond: Condition, keep: Tensor) -> Condition:
    """Zero the embedding and tokens, and mask out all tokens, in rows where `keep` [B] is False."""
    return cond.map(
        lambda t: t & keep[:, None] if t.dtype == torch.bool else t * keep.view(-1, *[1] * (t.dim() - 1))
    )
