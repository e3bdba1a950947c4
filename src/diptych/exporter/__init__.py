"""A whole Model as one ONNX graph: noise (and labels) in, images out, checked before it is written."""

from __future__ import annotations

import copy
import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import remove_parametrizations

import diptych
from diptych.errors import RunError, WrongUse
from diptych.exporter.unrolled import (
    parts_of,
    put_in_place,
    recorded,
    standing_in,
    to_onnx,
)
from diptych.model import Condition, Model, Noise, to_uint8
from diptych.saveable import to_tree
from diptych.system.files import write

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime

TOLERANCE = 1e-4  # largest difference from eager, of images in [-1, 1]
LARGEST = 2**31 - 2**20  # bytes that one protobuf file holds


@dataclass(frozen=True)
class Exported:
    """An ONNX file that was written, and what it takes and gives."""

    path: Path
    inputs: Mapping[str, str]  # {"noise": "float32 (batch, 3, 32, 32)", "label": "int64 (batch)"}
    outputs: Mapping[str, str]  # {"image": "float32 (batch, 3, 32, 32)"}
    difference: float | None  # the largest from eager, for images in [-1, 1]; None: not checked
    seconds: float
    bytes: int

    def __str__(self) -> str:
        takes, gives = (
            ", ".join(f"{name} {kind}" for name, kind in values.items())
            for values in (self.inputs, self.outputs)
        )
        checked = "not checked" if self.difference is None else f"within {self.difference:.1g} of the model"
        return f"{self.path}: {self.bytes / 2**20:.1f} MiB, {checked}\n{takes} -> {gives}"


def export(
    model: Model,
    path: str | Path,
    *,
    uint8: bool = False,
    check: bool = True,
    batches: Sequence[int] = (1, 3, 8),
    class_names: Sequence[str] = (),
) -> Exported:
    """Writes a model, its sampler unrolled, as one ONNX file of any batch size, once it is checked.

    Inputs are "noise" (or "noise_0", "noise_1" ...), standard normal float32 (batch, ...), and "label": int64
    (batch) where there are classes, float32 (batch, K) where there are attributes. The output is "image",
    (batch, C, H, W), float32 in about [-1, 1], or uint8 where asked for.
    class_names: what the classes are called, for the file's metadata; as many as the model has, else none.
    The check runs the file in onnxruntime beside eager at each of `batches`; one that fails
    leaves no file. Raises WrongUse where the extra is not installed, where the model wants more than labels,
    RunError where the exporter or the check fails.
    """
    begun, path = time.perf_counter(), Path(path)
    require("onnx", "onnxscript", *(["onnxruntime"] if check else []))
    if unknown := model.wants - {"label"}:
        raise WrongUse(f"a model that wants {', '.join(sorted(unknown))} cannot be exported yet")
    graph = Graph(folded(copy.deepcopy(model).cpu().eval().requires_grad_(False)), uint8).eval()
    traced = trace(graph)
    describe(traced, graph, path.stem, class_names)
    proto = serialized(traced)
    difference = largest_difference(proto, graph, batches) if check else None
    write(path, lambda temporary: _put(temporary, proto))
    inputs, outputs = (signature(values) for values in (traced.graph.inputs, traced.graph.outputs))
    return Exported(path, inputs, outputs, difference, time.perf_counter() - begun, len(proto))


def folded(model: Model) -> Model:
    """The model, changed in place: weights that are computed from others (spectral norms) become plain."""
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            remove_parametrizations(module, name)
    return model


class Graph(nn.Module):
    """A model whose noise is an argument."""

    def __init__(self, model: Model, uint8: bool) -> None:
        super().__init__()
        self.model, self.uint8 = model, uint8

    def forward(self, *inputs: Tensor) -> Tensor:
        """Takes all that the model draws, in order, then the labels where it knows any."""
        noise, label = (inputs[:-1], inputs[-1]) if "label" in self.model.wants else (inputs, None)
        image: Tensor = self.model(Noise.given(noise), Condition(label=label)).contiguous()
        return to_uint8(image) if self.uint8 else image

    def example(self, n: int) -> tuple[Tensor, ...]:
        """Inputs for `n` images: noise as the model draws it, the classes or examples in turn."""
        noise, drawn = Noise(range(n)).recorded()
        label = self.model.labels_for(range(n))
        self.model(noise, Condition(label=label))
        return (*drawn, *(() if label is None else (label,)))

    def names(self, inputs: Sequence[Tensor]) -> list[str]:
        """What the inputs are called."""
        label = ["label"] if "label" in self.model.wants else []
        drawn = len(inputs) - len(label)
        return [*(["noise"] if drawn == 1 else [f"noise_{i}" for i in range(drawn)]), *label]


def trace(graph: Graph) -> ir.Model:
    """The ONNX graph, with every trace of this machine stripped from its nodes."""
    with recorded(graph) as small:
        example = graph.example(2)
    with recorded(graph) as large:
        graph.example(3)
    parts = parts_of(graph, small, large)
    batch = [{0: torch.export.Dim("batch", min=1)}] * len(example)
    with standing_in(parts):
        traced = to_onnx(graph, example, batch, graph.names(example), ["image"])
    traced = put_in_place(traced, parts) if parts else traced
    for node in traced.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    return traced


def describe(traced: ir.Model, graph: Graph, name: str, class_names: Sequence[str] = ()) -> None:
    """What a program that holds only the file needs to know, as the file's metadata."""
    model = graph.model
    traced.producer_name, traced.producer_version = "diptych", diptych.__version__
    traced.graph.name, traced.graph.doc_string = name, None
    traced.doc_string = f"{type(model).__name__}: standard normal noise to images"
    traced.metadata_props.clear()
    traced.metadata_props.update(
        {
            "name": name,
            "model": type(model).__name__,
            "image_shape": json.dumps(model.image_shape),
            "classes": str(model.classes),
            "class_names": json.dumps(list(class_names) if len(class_names) == model.classes else []),
            "attributes": json.dumps(model.attribute_names),
            "options": json.dumps(to_tree(model.options)),
            "value_range": "[0, 255]" if graph.uint8 else "[-1, 1]",
            "to_uint8": "as it is" if graph.uint8 else "clip(round((image + 1) * 127.5), 0, 255)",
            "noise": "standard normal, independent",
            "diptych": diptych.__version__,
        }
    )


def serialized(traced: ir.Model) -> bytes:
    """The file's bytes. Raises RunError where there are more than a protobuf holds."""
    import onnx_ir as ir

    size = sum(value.const_value.nbytes for value in traced.graph.initializers.values() if value.const_value)
    if size > LARGEST:
        raise RunError(f"the weights take {size / 2**30:.1f} GiB, but an ONNX file holds less than 2")
    proto: bytes = ir.to_proto(traced).SerializeToString()
    return proto


def signature(values: Sequence[ir.Value]) -> dict[str, str]:
    """Type and shape of each value, by name."""
    return {
        str(value.name): f"{value.dtype.numpy()} ({', '.join(map(str, value.shape or ()))})"
        for value in values
        if value.dtype
    }


def largest_difference(proto: bytes, graph: Graph, batches: Sequence[int]) -> float:
    """Between onnxruntime and eager over batches of these sizes. Raises RunError from TOLERANCE up."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        found = max(_difference(session, graph, n) for n in batches)
    except Exception as error:  # onnxruntime's own errors share no base class
        raise RunError(f"onnxruntime cannot run the exported graph: {error}") from error
    level = 1 / 127.5 if graph.uint8 else 0.0  # a value halfway between two levels may be rounded either way
    if not found < TOLERANCE + level:
        raise RunError(f"the exported graph differs from the model by {found:.2g}", "nothing was written")
    return found


def _difference(session: onnxruntime.InferenceSession, graph: Graph, n: int) -> float:
    inputs = graph.example(n)
    with torch.no_grad():
        expected = graph(*inputs).float()
    (image,) = session.run(
        ["image"], {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    )
    unit = (
        127.5 if graph.uint8 else max(1.0, float(expected.abs().max()))
    )  # untrained networks leave [-1, 1] far behind
    return float((torch.from_numpy(image).float() - expected).abs().max() / unit)


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def require(*modules: str) -> None:
    """Raises WrongUse, with the command to install them, where modules of the extra are missing."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise WrongUse(
                f"exporting needs {module}, which is not installed", "pip install 'diptych[export]'"
            )
