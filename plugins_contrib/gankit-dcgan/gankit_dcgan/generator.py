"""The generator of DCGAN (Radford, Metz and Chintala, ICLR 2016, section 3)."""

import torch
from torch import Tensor, nn

from gankit.interfaces import Cond, CondSpec, GankitError, Generator, embedding_of, levels


class DCGAN(Generator):
    """Transposed convolutions from a latent to an image: a small and fast baseline.

    The paper's batch norm is a group norm here, so that an image does not depend on the others of its batch.

    Args:
        z_dim: width of the latent.
        channels: feature maps of the finest level; each coarser one has twice as many, up to max_channels.
        max_channels: most feature maps of any level.
    """

    conformance = {"z_dim": 16, "channels": 8}

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        cond: CondSpec,
        *,
        z_dim: int = 128,
        channels: int = 64,
        max_channels: int = 512,
    ) -> None:
        super().__init__()
        (height, width), doublings = levels(image_shape)  # the start grid, such as 4x4
        if not doublings:
            raise GankitError(f"generator 'dcgan' needs even sides of 8 pixels or more, not {width}x{height}")
        maps = [min(channels << level, max_channels) for level in reversed(range(doublings))]
        self.z_dim, self.num_ws, self.image_shape = z_dim, 1, image_shape
        self.w_dim = 2 * z_dim if cond.c_dim else z_dim
        self.embed = nn.Linear(cond.c_dim, z_dim) if cond.c_dim else None
        self.layers = nn.Sequential(nn.ConvTranspose2d(self.w_dim, maps[0], (height, width)))
        for before, after in zip(maps, [*maps[1:], image_shape[0]]):
            double = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
            self.layers.extend([nn.GroupNorm(1, before), nn.ReLU(), double])
        for layer in self.layers:
            if isinstance(layer, nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=0.02)

    def mapping(
        self,
        z: Tensor,
        cond: Cond = None,
        *,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """w = [psi z, projected condition]: truncation pulls the latent to its mean and leaves the condition."""
        w = z if truncation_cutoff == 0 else truncation_psi * z
        if self.embed is not None:
            w = torch.cat([w, self.embed(embedding_of(cond))], dim=1)
        return w[:, None]

    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        """There is no per-pixel noise in this network, so `noise_mode` makes no difference."""
        return torch.tanh(self.layers(ws[:, 0, :, None, None]))
