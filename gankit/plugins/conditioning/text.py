"""Text conditioner on a pretrained transformers encoder: BERT kind (MiniLM by default), CLIP or T5.

A frozen embedding that varies slowly with meaning is what lets a GAN follow prompts it has not seen (StyleGAN-T, Sauer
et al. 2023, section 3).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gankit.core.data.text_cache import TextCache
from gankit.core.interfaces.conditions import Condition, Conditioner, CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.interfaces.networks import Pretrained
from gankit.core.models.pretrained import find_folder, read_safetensors, shapes_only
from gankit.core.runtime.random import rand, randn
from gankit.core.runtime.tensor_files import sha256_of
from gankit.errors import GankitError
from gankit.plugins.conditioning.attention_pool import load_pool


class EncodedText(Conditioner):
    """Base of conditioners with a text encoder: loading on first use, embedding cache, empty texts, dropout and noise.

    A frozen encoder is loaded at the first text that the cache lacks, and checkpoints refer to it by `identity`. A
    trainable one is loaded at once and is a module like any other, always in eval mode. Constructors end with `set_up`.
    """

    name: str  # the plugin's, for messages
    encoder_name: str  # encoder and pooling options; equal for comparable features
    _anchor: Tensor  # an empty buffer that follows the module's device

    def __init__(self, *, trainable: bool, noise: float, dropout: float) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise GankitError(f"dropout = {dropout} of conditioner {self.name!r} must be in [0, 1]")
        if noise < 0:
            raise GankitError(f"noise = {noise} of conditioner {self.name!r} must not be negative")
        self.trainable, self.noise, self.dropout = trainable, noise, dropout
        self._captioned = self._total = 0
        self._cache: TextCache | None = None
        self.frozen: Pretrained | None = None
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    def set_up(self, *, c_dim: int, token_dim: int = 0) -> None:
        """Set `spec`, and load the encoder if it is trainable."""
        self.spec = CondSpec(c_dim=c_dim, token_dim=token_dim)
        if self.trainable:
            self.encoder = self.load_encoder().eval().requires_grad_(True)

    @abstractmethod
    def load_encoder(self) -> nn.Module: ...

    @abstractmethod
    def features(self, encoder: Any, texts: Sequence[str]) -> Condition:
        """Encode at least one text on the encoder's device -> embedding [B, c_dim] and, if there are any, tokens and
        mask."""

    @abstractmethod
    def cache_key(self) -> str:
        """A string that differs wherever the features of a text may differ (weights, options)."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Name of the encoder and, if it is frozen, the sha256 of its weights."""

    @property
    def token_rows(self) -> int:
        """Maximum number of tokens of a text; used if `spec.token_dim` is not 0."""
        return 0

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        if not vocabulary.captioned:
            raise GankitError(
                f"conditioner {self.name!r} needs images with captions, but the data has none; "
                "use another conditioner, or data with captions"
            )
        self._captioned, self._total = vocabulary.captioned, vocabulary.total

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(captioned=self._captioned, total=self._total)

    def columns(self) -> list[tuple[str, str]]:
        """One name for each feature, made of encoder and index: only features of equal encoders are comparable."""
        return [(f"{self.name} {self.encoder_name}", str(i)) for i in range(self.spec.c_dim)]

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset({"text"})

    def prepare(self, cache_dir: Path | None, device: torch.device) -> None:
        """Open the cache on disk. Token sequences are too large for it and stay in memory."""
        if cache_dir is not None and not self.trainable and not self.spec.token_dim:
            self._cache = TextCache(cache_dir, self.cache_key(), self.spec.c_dim)

    def train(self, mode: bool = True) -> EncodedText:
        super().train(mode)
        if self.trainable:  # its dropout would draw numbers that no image's place decides
            self.encoder.eval()
        return self

    def encode(self, labels: Sequence[Label]) -> Condition:
        texts = [(label.text or "").strip() for label in labels]
        rows = [i for i, text in enumerate(texts) if text]
        device = self._anchor.device
        given = self._encode([texts[i] for i in rows]) if rows else None
        longest = given.mask.shape[1] if given is not None and given.mask is not None else 1
        cond = Condition(torch.zeros(len(labels), self.spec.c_dim, device=device))
        if self.spec.token_dim:
            cond.tokens = torch.zeros(len(labels), longest, self.spec.token_dim, device=device)
            cond.mask = torch.zeros(len(labels), longest, dtype=torch.bool, device=device)
        if given is None:
            return cond
        where = torch.tensor(rows, device=device)
        pairs = [(getattr(cond, key), getattr(given, key)) for key in ("embedding", "tokens", "mask")]
        return Condition(*(a if a is None else a.index_copy(0, where, b.to(device)) for a, b in pairs))

    def _encode(self, texts: list[str]) -> Condition:
        if self.trainable:
            return self.features(self.encoder, texts)
        c_dim, width = self.spec.c_dim, self.spec.token_dim
        rows = self.token_rows if width else 0

        def one(text: str) -> Tensor:
            """Encode a text as a row of fixed width: embedding, number of tokens, zero-padded tokens."""
            if self.frozen is None:
                self.frozen = Pretrained(self.encoder_name, self.load_encoder()).to(self._anchor.device)
            encoder = self.frozen.network
            with torch.no_grad(), torch.autocast(self._anchor.device.type, enabled=False):
                got = self.features(encoder, [text])
            if got.embedding is None or got.tokens is None:
                return got.embedding[0]  # type: ignore[index]
            flat = nn.functional.pad(got.tokens[0], (0, 0, 0, rows - got.tokens.shape[1])).flatten()
            return torch.cat([got.embedding[0], flat.new_tensor([got.tokens.shape[1]]), flat])

        if self._cache is None:
            self._cache = TextCache(None, "", c_dim + (1 + rows * width if width else 0))
        packed = self._cache.get(texts, one)
        if not width:
            return Condition(packed)
        lengths = packed[:, c_dim].long()
        longest = int(lengths.max())
        tokens = packed[:, c_dim + 1 :].view(len(texts), rows, width)[:, :longest]
        return Condition(packed[:, :c_dim], tokens, torch.arange(longest) < lengths[:, None])

    def augment(self, cond: Condition) -> Condition:
        c, tokens, mask = cond.embedding, cond.tokens, cond.mask
        assert c is not None
        if self.noise:
            given = (c.detach() != 0).any(dim=1, keepdim=True)  # "not given" stays exactly zero
            c = c + self.noise * c.shape[1] ** -0.5 * randn(*c.shape, device=c.device) * given
        if self.dropout:
            keep = rand(len(c), 1, device=c.device) >= self.dropout
            c = c * keep
            if tokens is not None and mask is not None:
                tokens, mask = tokens * keep[:, :, None], mask & keep
        return Condition(c, tokens, mask)


class TextConditioner(EncodedText):
    """Embedding of the caption by a text encoder of transformers; zeros where no text is given.

    Args:
        model: hub id or folder of the encoder in the hub's layout, weights as safetensors.
        pooling: how token features become one vector: "mean", "max", "cls" (first token), "eos" (last token; for the
            last layer of CLIP with its text projection) or "attention" (see pool_weights).
        pool_weights: hub id or safetensors file of the fitted pool for pooling "attention".
        layers: hidden layers that are pooled and concatenated; 0 is the input embedding, -1 the output.
        normalize: scale the embedding to length 1, each layer having an equal share.
        scale: factor on the embedding; how strongly it acts beside z and other conditions when training begins.
        max_length: tokens of a text beyond this number, or beyond the encoder's own limit, are cut off.
        trainable: fine-tune the encoder together with G (see train.lr_conditioner); turns the cache off.
        tokens: also emit the sequence of token features of the last layer, for networks with cross-attention.
        noise: standard deviation of Gaussian noise that training adds, in units of 1/sqrt(width); 0.5 to 1 keeps D
            from memorising captions.
        dropout: probability in [0, 1] with which training hides the text of an image.
        dtype: precision of a frozen encoder.
    """

    name = "text"

    def __init__(
        self,
        *,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        pooling: Literal["mean", "max", "cls", "eos", "attention"] = "mean",
        pool_weights: str | None = None,
        layers: tuple[int, ...] = (-1,),
        normalize: bool = True,
        scale: float = 1.0,
        max_length: int = 128,
        trainable: bool = False,
        tokens: bool = False,
        noise: float = 0.0,
        dropout: float = 0.0,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__(trainable=trainable, noise=noise, dropout=dropout)
        self.model, self.pooling, self.layers, self.normalize = model, pooling, tuple(layers), normalize
        self.scale, self.max_length, self.tokens, self.dtype = scale, max_length, tokens, dtype
        self.encoder_name = f"{model} {pooling} {pool_weights} {tuple(layers)} {normalize} {scale:g}"
        self._tokenizer: Any = None
        self._read_config()
        depth, hidden = self._config.num_hidden_layers, self._config.hidden_size
        wrong = [layer for layer in layers if not -depth - 1 <= layer <= depth]
        if wrong or not layers:
            raise GankitError(
                f"layers = {list(layers)} of conditioner 'text': {model} has the layers {-depth - 1} to {depth}"
            )
        if max_length < 3:
            raise GankitError(f"max_length = {max_length} of conditioner 'text' must be at least 3")
        self.pool: Pretrained | None = None
        if (pooling == "attention") != (pool_weights is not None):
            raise GankitError(
                "conditioner 'text': pooling 'attention' and pool_weights go together; set both or none"
            )
        if pool_weights is not None:
            if len(layers) > 1:
                raise GankitError(
                    "conditioner 'text': pooling 'attention' reads one layer; set layers to a single one"
                )
            self.pool = Pretrained(pool_weights, load_pool(pool_weights, hidden))
        if trainable and dtype != "float32":
            raise GankitError(
                f"dtype = {dtype} of conditioner 'text' does not go with trainable; remove one of them"
            )
        c_dim = sum(self._config.projection_dim if self._projected(layer) else hidden for layer in layers)
        if self.pool is not None:
            c_dim = self.pool.network.width
        self.set_up(c_dim=c_dim, token_dim=hidden if tokens else 0)

    def _read_config(self) -> None:
        from transformers import AutoConfig

        local = Path(self.model).expanduser()
        self._folder = local if local.is_dir() else find_folder(self.model)
        try:
            config = AutoConfig.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise GankitError(f"{self._folder} is not a text encoder for transformers ({reason})") from None
        self._is_clip = config.model_type in ("clip", "clip_text_model")
        self._is_seq2seq = config.is_encoder_decoder
        self._whole_config, self._config = config, getattr(config, "text_config", config)

    def _projected(self, layer: int) -> bool:
        """True if the pooled vector of a layer goes through CLIP's text projection."""
        return self._is_clip and self.pooling == "eos" and layer in (-1, self._config.num_hidden_layers)

    def load_encoder(self) -> nn.Module:
        import transformers

        kind: Any = transformers.AutoModel
        if self._is_clip:
            kind = transformers.CLIPTextModelWithProjection
        elif self._is_seq2seq:  # T5 and its relatives: the encoder alone
            kind = transformers.AutoModelForTextEncoding
        try:
            with _quiet_transformers():
                if shapes_only():
                    encoder = kind(self._config) if self._is_clip else kind.from_config(self._whole_config)
                else:
                    encoder = kind.from_pretrained(
                        self._folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
                    )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise GankitError(
                f"the text encoder {self.model!r} cannot be loaded from {self._folder} ({reason}); its folder needs "
                "config.json, the tokenizer and model.safetensors"
            ) from None
        if isinstance(getattr(encoder, "pooler", None), nn.Module):
            encoder.pooler = None  # BERT's sentence classifier, not used here and often not trained
        deepest = max(layer % (self._config.num_hidden_layers + 1) for layer in self.layers)
        stack = getattr(getattr(encoder, "encoder", None), "layer", None)  # of BERT and its relatives
        if isinstance(stack, nn.ModuleList) and not self.tokens and not self.trainable:
            del stack[deepest:]  # layers beyond the last one that is read
        return encoder.to(getattr(torch, self.dtype))

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            try:
                self._tokenizer = AutoTokenizer.from_pretrained(
                    self._folder, local_files_only=True, trust_remote_code=False
                )
            except (OSError, ValueError, ImportError) as error:
                reason = " ".join(str(error).split())[:300]
                raise GankitError(
                    f"the tokenizer of {self.model!r} cannot be loaded from {self._folder} ({reason})"
                ) from None
            self._tokenizer.padding_side = "right"
        return self._tokenizer

    @property
    def token_rows(self) -> int:
        # T5's positions are relative, and its tokenizer says 512 or a huge number; others have a table of positions.
        positions = getattr(self._config, "max_position_embeddings", None) or self.max_length
        return min(self.max_length, positions, self.tokenizer.model_max_length)

    def features(self, encoder: Any, texts: Sequence[str]) -> Condition:
        device = next(encoder.parameters()).device
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.token_rows, return_tensors="pt"
        )
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        inner = encoder.text_model if self._is_clip else encoder
        wants_all = any(layer not in (-1, self._config.num_hidden_layers) for layer in self.layers)
        output = inner(input_ids=ids, attention_mask=mask, output_hidden_states=wants_all)
        last, mask = output.last_hidden_state.float(), mask.bool()
        pooled = []
        for layer in self.layers:
            is_last = layer in (-1, self._config.num_hidden_layers)  # CLIP's and T5's has a final norm
            vector = self._pool(last if is_last else output.hidden_states[layer].float(), mask)
            if self._projected(layer):
                vector = encoder.text_projection(vector.to(encoder.dtype)).float()
            pooled.append(nn.functional.normalize(vector, dim=1) if self.normalize else vector)
        embedding = torch.cat(pooled, dim=1)
        if self.normalize and len(pooled) > 1:
            embedding = embedding * len(pooled) ** -0.5
        embedding = embedding * self.scale
        return Condition(embedding, last * mask[:, :, None], mask) if self.tokens else Condition(embedding)

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pool hidden states [B, T, D] over the tokens of mask [B, T] -> [B, D], or [B, width of the attention
        pool]."""
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "eos":  # tokenizers put it last, also after cutting
            return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(dim=1) - 1]
        if self.pooling == "attention":
            assert self.pool is not None
            return self.pool.network(hidden, mask)
        if self.pooling == "max":
            return hidden.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
        return (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def cache_key(self) -> str:
        options = (self.pooling, self.layers, self.normalize, self.scale, self.max_length, self.dtype)
        pools = [] if self.pool is None else [sha256_of(self.pool.network.state_dict())]
        return json.dumps([folder_digest(self._folder), *options, *pools])

    def identity(self) -> dict[str, str]:
        if self.trainable:
            return {}
        tensors: dict[str, Tensor] = {}
        for file in sorted(self._folder.glob("*.safetensors")):
            tensors |= read_safetensors(file)
        identity = {"sha256": sha256_of(tensors)}
        if self.pool is not None:
            identity["pool"] = sha256_of(self.pool.network.state_dict())
        return identity


def folder_digest(folder: Path) -> str:
    """SHA-256 of the files that determine what an encoder computes: configuration, tokenizer, weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".txt", ".model", ".safetensors") and path.is_file():
            digest.update(path.name.encode())
            with open(path, "rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Context without transformers' progress bar and its warning about the unused half of a CLIP or T5."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
