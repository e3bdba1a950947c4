"""Tracing a sampler to ONNX: a network that it calls many times is traced once, and put into each place; so
is one whose gradient it takes.

Tracing takes the time: 35 calls of a U-Net take minutes one by one and seconds this way; the graph is equal.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diptych.errors import RunError
from diptych.exporter.gradients import written_out
from diptych.model import RECORDING

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "diptych"  # of the functions that stand for parts, until these are put in place
Arguments = tuple[Tensor | None, ...]
Sizes = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Call:
    """A module was called with these arguments and returned a tensor of this size."""

    arguments: Arguments
    result: tuple[int, ...]
    dtype: torch.dtype

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The arguments that are there."""
        return tuple(argument for argument in self.arguments if argument is not None)

    @property
    def sizes(self) -> Sizes:
        """Of the arguments, and whether they are there."""
        return tuple(None if argument is None else tuple(argument.shape) for argument in self.arguments)


Calls = dict[str, list[Call | None]]  # by the module's name


@dataclass(frozen=True)
class Part:
    """A module that is called many times in the same way; two batch sizes show which of its sizes move."""

    name: str
    module: nn.Module
    small: Call
    large: Call

    def moving(self) -> list[dict[int, Any]]:
        """For each tensor argument, the dimensions that change with the batch."""
        pairs = zip(self.small.sizes, self.large.sizes, strict=True)
        return [
            {d: torch.export.Dim.DYNAMIC for d, (s, t) in enumerate(zip(small, large, strict=True)) if s != t}
            for small, large in pairs
            if small is not None and large is not None
        ]

    def result_size(self, arguments: Arguments) -> list[int]:
        """The result's size for these arguments: a dimension that moves is one of theirs that moves along."""
        places = [(i, d) for i, size in enumerate(self.small.sizes) for d in range(len(size or ()))]
        found: dict[tuple[int, int], int] = {}
        for i, d in places:
            was = (self.small.sizes[i] or ())[d], (self.large.sizes[i] or ())[d]
            argument = arguments[i]
            if was[0] != was[1] and argument is not None:
                found.setdefault(was, argument.shape[d])
        both = zip(self.small.result, self.large.result, strict=True)
        return [s if s == t else found[s, t] for s, t in both]

    def stand_in(self, *arguments: Tensor | None) -> Tensor:
        """One node in the place of all that the module does."""
        given = [argument for argument in arguments if argument is not None]
        operator, size = f"{DOMAIN}::{self.name}", self.result_size(arguments)
        return torch.onnx.ops.symbolic(operator, given, dtype=self.small.dtype, shape=size, version=1)

    def traced(self) -> ir.Model:
        """The module's own graph."""
        small, large = self.small.tensors, self.large.tensors
        filled = Filled(self.module, self.small.arguments).eval()
        if differentiates(self.module):
            filled = Filled(written_out(filled, small, large), small)
        return to_onnx(filled, small, self.moving())


class Filled(nn.Module):
    """A module whose arguments that are None need not be given."""

    def __init__(self, module: nn.Module, arguments: Arguments) -> None:
        super().__init__()
        self.module, self.given = module, [argument is not None for argument in arguments]

    def forward(self, *tensors: Tensor) -> Tensor:
        """The tensors among the arguments, in order."""
        following = iter(tensors)
        result: Tensor = self.module(*(next(following) if given else None for given in self.given))
        return result


def differentiates(module: nn.Module) -> bool:
    """Whether its forward pass takes a gradient, as it says itself."""
    return getattr(module, "differentiates", False)


def parts_of(graph: nn.Module, small: Calls, large: Calls) -> list[Part]:
    """The outermost modules, from tensors to a tensor, that were called more than once in the same way or
    that take a gradient."""
    found: dict[str, Part] = {}
    for name, module in graph.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        enough = 1 if differentiates(module) else 2
        if inside or len(small[name]) < enough or not any(True for _ in module.parameters()):
            continue
        if (first := alike(small[name])) and (second := alike(large[name])):
            found[name] = Part(name.replace(".", "_"), module, first, second)
    return list(found.values())


@contextmanager
def recorded(graph: nn.Module) -> Iterator[Calls]:
    """Within it, notes each module's calls; None for one that is not from tensors to a tensor."""
    seen: Calls = {name: [] for name, _ in graph.named_modules()}

    def note(name: str, given: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        plain = not named and all(value is None or isinstance(value, Tensor) for value in given)
        fits = plain and isinstance(result, Tensor)
        seen[name].append(Call(given, tuple(result.shape), result.dtype) if fits else None)

    with ExitStack() as hooks, torch.no_grad():
        hooks.callback(RECORDING.reset, RECORDING.set(True))  # else guided levels would differ from others
        for name, module in graph.named_modules():
            hook = partial(lambda name, _, *call: note(name, *call), name)
            hooks.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield seen


def alike(seen: Sequence[Call | None]) -> Call | None:
    """The first of the calls, where all have its sizes."""
    first = seen[0]
    same = first is not None and all(call is not None and call.sizes == first.sizes for call in seen)
    return first if same else None


@contextmanager
def standing_in(parts: Sequence[Part]) -> Iterator[None]:
    """Within it, calling a part's module leaves one node."""
    for part in parts:
        part.module.forward = part.stand_in
    try:
        yield
    finally:
        for part in parts:
            del part.module.forward


def put_in_place(outer: ir.Model, parts: Sequence[Part]) -> ir.Model:
    """Writes each part's graph where its node stands; the copies share their weights."""
    import onnx_ir as ir
    from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass

    for part in parts:
        inner = part.traced()
        weights = [share(value, part, outer.graph) for value in inner.graph.initializers.values()]
        inner.graph.inputs.extend(inner.graph.initializers.values())
        inner.graph.initializers.clear()
        function = ir.Function(DOMAIN, part.name, graph=inner.graph, attributes=[])
        outer.functions[function.identifier()] = function
        for node in [node for node in outer.graph if node.op_identifier() == function.identifier()]:
            given = len(node.inputs)
            node.resize_inputs(given + len(weights))
            for i, weight in enumerate(weights):
                node.replace_input_with(given + i, weight)
    inlined = InlinePass()(outer).model
    inlined.opset_imports.pop(DOMAIN, None)
    return RemoveUnusedNodesPass()(inlined).model


def share(value: ir.Value, part: Part, graph: ir.Graph) -> ir.Value:
    """A part's weight as one of the whole graph."""
    import onnx_ir as ir

    weight = ir.Value(
        name=f"{part.name}.{value.name}", type=value.type, shape=value.shape, const_value=value.const_value
    )
    graph.register_initializer(weight)
    return weight


def to_onnx(
    module: nn.Module,
    example: tuple[Tensor, ...],
    moving: Sequence[dict[int, Any]],
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> ir.Model:
    """PyTorch's own exporter, without its chatter. Raises RunError with its reason where it gives up."""
    with quiet():
        try:
            program = torch.onnx.export(
                module,
                example,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=(tuple(moving),),
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise RunError(
                f"{type(module).__name__} cannot be exported: {error.__cause__ or error}"
            ) from error
    traced: ir.Model = program.model  # type: ignore[union-attr]
    return traced


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter warns of its own internals and of a torchvision that nobody needs here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
