"""A whole sampling as one CUDA graph: captured once a batch size, then replayed with other noise and labels.

Thousands of small kernels are then launched as one, which on a GPU is most of the time of a small network.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.errors import WrongUse
from diptych.model import Condition, Model, Noise, takes_after

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]  # call -> replay, its result


def cuda_graph(call: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Captures what `call`, which has run before, does on the current device. Replaying writes the result."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # kernels are chosen and memory is found before the capture
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph.replay, result


@dataclass(frozen=True)
class Captured:
    """A replay, the tensors that it reads, and the one that it writes.

    kept: what the model had worked out before; the graph reads it, so it must live as long.
    """

    noise: Sequence[Tensor]
    label: Tensor | None
    replay: Callable[[], object]
    image: Tensor
    kept: Sequence[object] = ()

    def __call__(self, noise: Sequence[Tensor], label: Tensor | None) -> Tensor:
        """Images (B, C, H, W) of this noise and these labels."""
        for kept, new in zip(self.noise, noise, strict=True):
            kept.copy_(new)
        if self.label is not None and label is not None:
            self.label.copy_(label)
        self.replay()
        return self.image.clone()


class Graphed(Model):
    """The same model, its weights shared, that replays a graph in the place of each sampling.

    Raises WrongUse where there is no CUDA device, or the condition is more than labels.
    """

    def __init__(self, model: Model, capture: Capture = cuda_graph) -> None:
        super().__init__()
        if capture is cuda_graph and model.device.type != "cuda":
            raise WrongUse(
                "a CUDA graph needs a model on a CUDA device", "leave --graph out on other devices"
            )
        if unknown := model.wants - {"label"}:
            raise WrongUse(f"a model that wants {', '.join(sorted(unknown))} cannot be captured yet")
        self.model, self.options, self.capture = model, model.options, capture
        takes_after(self, model)
        self.drawn: Sequence[torch.Size] | None = None  # shapes of what the model draws, in order
        self.captured: dict[object, Captured] = {}
        self.lock = threading.Lock()  # a graph has one place for its noise

    def networks(self) -> Sequence[nn.Module]:
        """The model's."""
        return self.model.networks()

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in about [-1, 1]. The first call of each batch size captures the graph."""
        label = condition.label
        with self.lock, torch.no_grad(), without_cast_cache(), on_its_device(self.model):
            if self.drawn is None:
                recording, values = noise.recorded()
                self.model(recording, condition)
                self.drawn = [value.shape[1:] for value in values]
            else:
                values = [noise.normal(*shape) for shape in self.drawn]
            kind = (values[0].shape[0], None if label is None else (label.dtype, label.shape))
            if kind not in self.captured:
                self.captured[kind] = self._captured(values, label)
            return self.captured[kind](values, label)

    def _captured(self, values: Sequence[Tensor], label: Tensor | None) -> Captured:
        with torch.inference_mode(False):
            noise = [torch.empty_like(value).copy_(value) for value in values]
            kept = None if label is None else torch.empty_like(label).copy_(label)
        condition = Condition(label=kept)

        def call() -> Tensor:
            return self.model(Noise.given(noise), condition)  # type: ignore[no-any-return]

        call()  # what is kept between calls must not be made within the capture
        return Captured(noise, kept, *self.capture(call), self.model.lasting())


def on_its_device(model: Model) -> AbstractContextManager[object]:
    """Makes the GPU that a model is on the current one: a graph is captured there and nowhere else."""
    device = model.device
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def without_cast_cache() -> Iterator[None]:
    """Autocast keeps cast weights until it ends, and a graph would read them afterwards."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
