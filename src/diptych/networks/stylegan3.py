"""StyleGAN3's generator (Karras et al., 2021, arXiv:2106.12423): no layer can tell where on the image it is.

t: 3x3 convolutions, equivariant to translation; r: 1x1 convolutions, radial filters, twice the channels, also
to rotation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diptych.errors import WrongUse
from diptych.networks.bands import Band, bands, layers_for, lowpass, square
from diptych.networks.convolution import conv2d
from diptych.networks.equalized import EqualizedLinear, at_least_float32, full_precision
from diptych.networks.filters import filtered_lrelu
from diptych.networks.mapping import Mapping
from diptych.saveable import saveable


class FourierInput(nn.Module):
    """Sines over the plane, moved and turned as the style says: (B, D) -> (B, C, h, w).

    transform: (3, 3), another transform of the plane after that, in units of the image's side; it takes
    places of the output to where they were (appendix F). Frequencies beyond the band are dampened.
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor
    points: Tensor

    def __init__(self, band: Band, *, style: int) -> None:
        super().__init__()
        self.band = band
        self.affine = EqualizedLinear(style, 4)
        self.weight = nn.Parameter(torch.randn(band.channels, band.channels))
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        direction = nn.functional.normalize(torch.randn(band.channels, 2))
        radius = torch.rand(band.channels, 1).sqrt()  # uniform over the disc
        self.register_buffer("freqs", band.cutoff * radius * direction)
        self.register_buffer("phases", torch.rand(band.channels) - 0.5)
        self.register_buffer("transform", torch.eye(3), persistent=False)

    def forward(self, style: Tensor) -> Tensor:
        """style (B, D)."""
        with full_precision(style):  # bfloat16 would round frequencies, and move what they draw
            return self.drawn(at_least_float32(style))

    def drawn(self, style: Tensor) -> Tensor:
        """What `forward` gives; style (B, D), of float32 or more."""
        band, c = self.band, self.band.channels
        moved = self.affine(style)
        moved = moved / moved[:, :2].square().sum(1, keepdim=True).sqrt()
        cosine, sine = moved[:, 0, None], moved[:, 1, None]
        fx, fy = self.freqs.T
        turned = torch.stack([cosine * fx + sine * fy, cosine * fy - sine * fx], 2)  # (B, C, 2)
        shift = self.transform[:2, 2] - moved[:, None, 2:]
        phases = self.phases + (turned * shift).sum(2)
        freqs = turned @ self.transform[:2, :2]
        room = band.rate / 2 - band.cutoff
        amplitude = (1 - (freqs.square().sum(2).sqrt() - band.cutoff) / room).clamp(0, 1)
        y, x = (self.places(n)[None, :, None] for n in band.size)
        across = x * freqs[:, None, :, 0] + phases[:, None]  # (B, w, C)
        angle = (y * freqs[:, None, :, 1])[:, :, None] + across[:, None]
        waves = torch.sin(2 * math.pi * angle) * amplitude[:, None, None]
        return (waves @ (self.weight.T / math.sqrt(c))).permute(0, 3, 1, 2)

    def places(self, n: int) -> Tensor:
        """Where n samples lie around the middle of the image, whose side is 1."""
        return (torch.arange(n, device=self.freqs.device) + (1 - n) / 2) / self.band.rate


class AliasFreeLayer(nn.Module):
    """Modulated convolution, bias, leaky ReLU at a higher sampling rate between two low-pass filters.

    image: the last layer, to colours, which is linear. radial: whether the second filter is. clamp bounds
    what the non-linearity makes. half_life: images after which half of the past inputs are forgotten. batch:
    images of a whole step, to be set from outside where it falls into shards; 0: as many as come in.
    """

    magnitude: Tensor
    up_taps: Tensor | None
    down_taps: Tensor | None

    def __init__(
        self,
        enter: Band,
        leave: Band,
        *,
        style: int,
        kernel: int,
        image: bool,
        radial: bool,
        taps: int,
        oversampling: int,
        clamp: float,
        half_life: float,
    ) -> None:
        super().__init__()
        self.image, self.clamp, self.half_life, self.batch = image, clamp, half_life, 0
        self.size, self.kernel = leave.size, 1 if image else kernel
        self.affine = EqualizedLinear(style, enter.channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(leave.channels, enter.channels, self.kernel, self.kernel))
        self.bias = nn.Parameter(torch.zeros(leave.channels))
        self.register_buffer("magnitude", torch.ones(()))
        rate = max(enter.rate, leave.rate) * (1 if image else oversampling)
        self.up, self.down = rate // enter.rate, rate // leave.rate
        up_taps, down_taps = (taps * f if f > 1 and not image else 1 for f in (self.up, self.down))
        up = lowpass(up_taps, enter.cutoff, 2 * enter.half_width, rate)
        down = lowpass(down_taps, leave.cutoff, 2 * leave.half_width, rate, radial)
        self.register_buffer("up_taps", up, persistent=False)
        self.register_buffer("down_taps", down, persistent=False)
        ends = []
        for n, made in zip(enter.size[::-1], leave.size[::-1], strict=True):
            samples = (made - 1) * self.down + 1 + up_taps + down_taps - 2  # before the filters
            padding = samples - (n + self.kernel - 1) * self.up
            before = (padding + self.up) // 2  # up samples stand around the one they come from (appendix C.3)
            ends += [before, padding - before]
        self.padding = tuple(ends)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x (B, C_in, h, w), style (B, D) -> (B, C_out, h', w')."""
        if self.training:
            self.observe(x)
        with full_precision(x):
            scale, norm = self.normalised(self.affine(at_least_float32(style)))
            scale = scale * self.magnitude.rsqrt()
        y = conv2d(x * scale.to(x.dtype)[:, :, None, None], self.weight, padding=self.kernel - 1)
        bias = self.bias.to(y.dtype)[:, None, None]
        y = y + bias if norm is None else torch.addcmul(bias, y, norm.to(y.dtype)[:, :, None, None])
        gain, slope = (1.0, 1.0) if self.image else (math.sqrt(2), 0.2)
        return filtered_lrelu(
            y,
            self.up_taps,
            self.down_taps,
            up=self.up,
            down=self.down,
            padding=self.padding,
            gain=gain,
            slope=slope,
            clamp=self.clamp or None,
        )

    def normalised(self, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scales of the inputs (B, I), and those of the outputs (B, O) which make all weights' norms 1."""
        if self.image:
            return scale / math.sqrt(self.weight.shape[1]), None
        scale = scale * scale.square().mean(1, keepdim=True).rsqrt()
        squares = at_least_float32(self.weight).square().sum((2, 3))  # (O, I)
        size = self.kernel**2 / squares.mean(1)  # weights of mean square 1, and then demodulated
        return scale, (size / (size * (scale.square() @ squares.T) + 1e-8)).sqrt()

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """The running mean square of inputs, which they are divided by (section 3.2)."""
        seen = at_least_float32(x.detach()).square().mean()
        # by the step's batch: shards each move the magnitude as it was before, and are averaged
        images = self.batch or x.shape[0]
        self.magnitude.lerp_(seen.to(self.magnitude.dtype), 1 - 0.5 ** (images / self.half_life))


class Synthesis(nn.Module):
    """Styles (B, layers, D) -> images; the first is the input's, the last that of the layer to colours."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        plan: Sequence[Band],
        *,
        critical: int,
        style: int,
        kernel: int,
        radial: bool,
        taps: int,
        oversampling: int,
        scale: float,
        clamp: float,
        half_life: float,
    ) -> None:
        super().__init__()
        self.image_shape, self.scale, self.layers = image_shape, scale, len(plan) + 1
        self.input = FourierInput(plan[0], style=style)
        last = len(plan) - 1
        self.stack = nn.ModuleList(
            AliasFreeLayer(
                plan[max(0, i - 1)],
                band,
                style=style,
                kernel=kernel,
                image=i == last,
                radial=radial and i < last - critical,
                taps=taps,
                oversampling=oversampling,
                clamp=clamp,
                half_life=half_life,
            )
            for i, band in enumerate(plan)
        )

    def forward(self, styles: Tensor, noise: str | Sequence[Tensor] = "const") -> Tensor:
        """(B, C, H, W); noise: there are no such inputs, they would stick to pixels."""
        x = self.input(styles[:, 0])
        for i, layer in enumerate(self.stack):
            x = layer(x, styles[:, i + 1])
        return at_least_float32(x) * self.scale


@saveable
class StyleGAN3Generator(nn.Module):
    """From latents (B, latent), and labels, to images (B, C, H, W).

    In training, `mean` follows the mean style and each layer the magnitude of its inputs. layers: those
    between the input and the one to colours, 0: by the size. kernel, radial: 3 and no for t, 1 and yes for r.
    For the rest see `bands`, `AliasFreeLayer` and `Mapping`.
    """

    mean: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        latent: int = 512,
        style: int = 512,
        mapping_layers: int = 2,
        layers: int = 0,
        critical: int = 2,
        base: int = 32768,
        largest: int = 512,
        kernel: int = 3,
        radial: bool = False,
        first_cutoff: float = 2.0,
        first_stopband: float = 2**2.1,
        last_stopband: float = 2**0.3,
        margin: int = 10,
        taps: int = 6,
        oversampling: int = 2,
        scale: float = 0.25,
        clamp: float = 256.0,
        half_life: float = 40_000.0,
        label_gain: float = 1.0,
    ) -> None:
        super().__init__()
        check(image_shape, layers, critical, oversampling)
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        self.latent = latent
        plan = bands(
            image_shape,
            layers=layers or layers_for(image_shape),
            critical=critical,
            base=base,
            largest=largest,
            first_cutoff=first_cutoff,
            first_stopband=first_stopband,
            last_stopband=last_stopband,
            margin=margin,
        )
        self.synthesis = Synthesis(
            image_shape,
            plan,
            critical=critical,
            style=style,
            kernel=kernel,
            radial=radial,
            taps=taps,
            oversampling=oversampling,
            scale=scale,
            clamp=clamp,
            half_life=half_life,
        )
        self.layers, self.noise_shapes = self.synthesis.layers, list[tuple[int, int, int]]()
        self.mapping = Mapping(
            latent,
            style,
            self.layers,
            depth=mapping_layers,
            classes=classes,
            attributes=attributes,
            label_gain=label_gain,
        )
        self.register_buffer("mean", torch.zeros(style))

    def reads_latents(self) -> list[Tensor]:
        """What reads each layer's style, (out, D): see `diptych.latent.directions`."""
        layers = [self.synthesis.input, *self.synthesis.stack]
        return [layer.affine.weight * layer.affine.scale for layer in layers]

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent), label (B,) int64 or (B, K); without a label the mean of all is taken."""
        styles = self.mapping(z, label)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(styles[:, 0].detach().mean(0).to(self.mean.dtype), 0.002)
        return self.synthesis(styles)  # type: ignore[no-any-return]


def check(image_shape: tuple[int, int, int], layers: int, critical: int, oversampling: int) -> None:
    """Raises WrongUse for what the architecture cannot do."""
    if square(image_shape) < 8:
        raise WrongUse(
            f"images of {image_shape[1]}x{image_shape[2]} pixels are too small for alias-free layers",
            "height or width must be at least 5",
        )
    if critical < 1 or (layers and layers <= critical):
        raise WrongUse(
            f"{layers} layers with {critical} critical ones are not possible",
            "at least one layer is critical and at least one is not",
        )
    if oversampling < 2:
        raise WrongUse(f"non-linearities need at least twice the sampling rate, not {oversampling} times")
