"""diffusers' video autoencoders as clip networks: in one pass, in causal parts, or in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from tokenmill.tokenizers.checkpoints import assign, fill_random, load_weights
from tokenmill.tokenizers.clip_grid import Frames
from tokenmill.tokenizers.clips import CausalClipEncoder, ClipEncoder
from tokenmill.tokenizers.describe import no_decoder
from tokenmill.tokenizers.locate import PATH, RANDOM
from tokenmill.tokenizers.networks.diffusers_video_parts import LtxParts, TileStream
from tokenmill.tokenizers.video_vae_facts import HUNYUAN, LTX, WAN
from tokenmill_schemas.errors import CheckpointError

STREAM = "video"
#: Prefixes of everything that only decoding needs, which a checkpoint may lack.
_DECODING = ("decoder.", "post_quant_conv.")


class VideoVaeNetwork(nn.Module):
    """A diffusers video autoencoder.

    It is a `tokenmill.tokenizers.clips.ClipNetwork`, and a `CausalNetwork` where `is_causal`.

    Args:
        vae: an AutoencoderKLWan, AutoencoderKLHunyuanVideo or AutoencoderKLLTXVideo.
        frames: the lengths of clips that it takes, and of the parts that it can take them in.
        with_logvar: tokens are the posterior's mean and log-variance, otherwise the mean.
        flags: ``framewise``, ``tiling``, ``slicing``, and ``tiles`` by diffusers' attributes.
    """

    def __init__(
        self, vae: Any, frames: Frames, *, with_logvar: bool, flags: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.vae, self.with_logvar = vae, with_logvar
        self.kind = type(vae).__name__
        self.frames = self.parts = frames
        self.framewise, self.slicing = flags["framewise"], flags["slicing"]
        # Slicing is done here: that of LTX's decoder (diffusers 0.42.1) fails with a timestep.
        vae.use_tiling, vae.use_slicing = flags["tiling"], False
        for name, value in flags["tiles"].items():
            setattr(vae, name, value)
        self._set_framewise(self.framewise)
        self._ltx = LtxParts(vae.encoder) if self.kind == LTX else None

    @property
    def is_causal(self) -> bool:
        """Whether one pass over a clip is a pass over its parts with a memory."""
        if self.framewise or self.vae.use_tiling or self.kind == HUNYUAN:
            return False
        config = self.vae.config
        return self.kind == WAN or bool(config.encoder_causal and config.patch_size_t == 1)

    def drop_decoder(self) -> None:
        """Give up what only decoding needs."""
        self.vae.decoder = None
        if hasattr(self.vae, "post_quant_conv"):
            self.vae.post_quant_conv = None

    def tokens(self, clips: Tensor) -> dict[str, Tensor]:
        """Return the latents ``float32[B, t, h, w, C or 2 C]`` of clips in one pass.

        Raises:
            ValueError: it takes no clips of this length.
        """
        self.frames.slots(clips.shape[2])
        parts = clips.tensor_split(len(clips) if self.slicing else 1)
        posteriors = [self.vae.encode(part).latent_dist for part in parts]
        return {STREAM: torch.cat([self._kept(posterior) for posterior in posteriors])}

    def kept(self, moments: Tensor) -> dict[str, Tensor]:
        """Return the latents of what the encoder gives, ``[B, 2 C, t, h, w]``."""
        return {STREAM: self._kept(DiagonalGaussianDistribution(moments))}

    def begin(self, clips: int) -> list[Any]:
        """Return a memory of nothing, for each of so many clips where they go one by one."""
        fresh: Callable[[], Any] = dict if self._ltx else self._wan_memory
        return [fresh() for _ in range(clips if self.slicing else 1)]

    def part(self, clips: Tensor, past: list[Any]) -> dict[str, Tensor]:
        """Return the latents of the first frame, or of the next four (LTX: eight)."""
        run = self._ltx.run if self._ltx else self._wan_part
        pairs = zip(clips.tensor_split(len(past)), past, strict=True)
        return self.kept(torch.cat([run(part, memory) for part, memory in pairs]))

    def whole(self, clips: Tensor) -> Tensor:
        """Return ``[B, 2 C, t, h, w]`` of clips in one piece of time, however long."""
        with self._without_framewise():
            moments: Tensor = self.vae.encode(clips).latent_dist.parameters
        return moments

    def clips(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return ``[B, 3, T, H, W]`` of the means.

        Raises:
            JobError: the checkpoint had no decoder.
        """
        if self.vae.decoder is None:
            raise no_decoder("diffusers_video_vae")
        config = self.vae.config
        channels = config.z_dim if self.kind == WAN else config.latent_channels
        means = tokens[STREAM][..., :channels].permute(0, 4, 1, 2, 3)
        parts = means.tensor_split(len(means) if self.slicing else 1)
        return torch.cat([self._decode(part) for part in parts])

    def _decode(self, means: Tensor) -> Tensor:
        decoded: Tensor
        if self.kind != LTX or not self.vae.config.timestep_conditioning:
            decoded = self.vae.decode(means).sample
            return decoded
        # At timestep 0 a conditioned decoder takes the latent as clean. Some also inject noise,
        # which is drawn alike every time.
        devices = [means.device] if means.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            decoded = self.vae.decode(means, means.new_zeros(len(means))).sample
        return decoded

    def _kept(self, posterior: DiagonalGaussianDistribution) -> Tensor:
        # diffusers clamps the log-variance to [-30, 20] when it makes the distribution.
        both = [posterior.mean, posterior.logvar] if self.with_logvar else [posterior.mean]
        return torch.cat(both, dim=1).float().permute(0, 2, 3, 4, 1)

    def _wan_memory(self) -> list[Any]:
        return [
            None for module in self.vae.encoder.modules() if isinstance(module, WanCausalConv3d)
        ]

    def _wan_part(self, clips: Tensor, memory: list[Any]) -> Tensor:
        if self.vae.config.patch_size is not None:
            folded: Any = patchify  # which is not annotated
            clips = folded(clips, patch_size=self.vae.config.patch_size)
        out = self.vae.encoder(clips, feat_cache=memory, feat_idx=[0])
        moments: Tensor = self.vae.quant_conv(out)
        return moments

    def _set_framewise(self, value: bool) -> None:
        # LTX (diffusers 0.42.1) looks at the flag of decoding when it encodes.
        if self.kind != WAN:
            self.vae.use_framewise_encoding = self.vae.use_framewise_decoding = value

    @contextmanager
    def _without_framewise(self) -> Iterator[None]:
        self._set_framewise(False)
        try:
            yield
        finally:
            self._set_framewise(self.framewise)


class TiledClipEncoder(ClipEncoder):
    """The live encoder of a network that cuts time into overlapping tiles."""

    def open_stream(self) -> TileStream:
        """Return a stream for one clip, which holds the frames of one tile."""
        return TileStream(self)

    def run(self, step: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Return ``step(inputs)`` in the encoder's arithmetic."""
        inputs = inputs.to(self.device).contiguous(memory_format=self.layout)
        with torch.inference_mode(), self._autocast():
            return step(inputs)


def encoder_class(network: VideoVaeNetwork) -> type[ClipEncoder]:
    """Return the encoder that gives a network's latents, for long clips too where it can."""
    if network.framewise:
        return TiledClipEncoder
    return CausalClipEncoder if network.is_causal else ClipEncoder


def fill_video_vae(network: VideoVaeNetwork, checkpoint: str) -> None:
    """Load the autoencoder's weights; without a decoder it only encodes.

    LTX's statistics of its latents are no weights: where they are missing, they are 0 and 1.

    Raises:
        CheckpointError: keys are missing or have other shapes.
    """
    vae = network.vae
    neutral = {}
    if network.kind == LTX:
        channels = vae.config.latent_channels
        neutral = {"latents_mean": torch.zeros(channels), "latents_std": torch.ones(channels)}
    if checkpoint.startswith(RANDOM):
        fill_random(vae, checkpoint)
        vae.load_state_dict(neutral, strict=False, assign=True)
        return
    try:
        done = assign(vae, neutral | load_weights(checkpoint), optional=_DECODING)
    except CheckpointError as error:
        if error.path:
            raise
        raise CheckpointError(f"{checkpoint}: {error}", path=PATH) from error
    if done.absent:
        network.drop_decoder()
