"""A GPU that is not there: tensors that say cuda:0, compute on the CPU, refuse to be mixed, and count waits.

Each is a wrapper around a CPU tensor. Within `pretend()` torch believes that there is CUDA, and autocast goes
by CUDA's own lists of operations. Random numbers are those of the CPU's generator, so that a training here is
one on the CPU. `allow_device` comes before the process's first backward pass: autograd counts devices then.
"""

from __future__ import annotations

import ctypes
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
# what the host waits in, because it must know a value, or how many there are
WAITS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "_linalg_eigh",
    "_linalg_svd",
    "linalg_eig",
    "linalg_cholesky_ex",
    "linalg_inv_ex",
    "_linalg_solve_ex",
    "linalg_lstsq",
    "bincount",
    "histc",
}
INDEXED = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
WHERE = torch.device("cuda", 0)


class OnDevice(Tensor):
    """A tensor of the pretended GPU; `held` is what it holds."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        odd = held.is_inference() != torch.is_inference_mode_enabled()  # as a view of an older tensor is
        with torch.inference_mode(held.is_inference()) if odd else nullcontext():
            self = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
                dtype=held.dtype, layout=held.layout, device=WHERE,
            )  # fmt: skip
        self.held = held
        return self  # type: ignore[no-any-return]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({self.held})"

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        NOTED.waits["tolist", place()] += 1
        return self.held.detach().tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        twin = self.detach().clone().requires_grad_(self.requires_grad)
        memo[id(self)] = twin = nn.Parameter(twin, self.requires_grad) if hasattr(self, "_is_param") else twin
        return twin

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


class Noted:
    """Where the host waited, which it also does where it copies from memory that is not pinned."""

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.doubles = True


NOTED, PINNED = Noted(), dict[int, Tensor]()


def place(depth: int = 3) -> str:
    """The innermost lines of the package that are at work."""
    frames = [f for f in traceback.extract_stack() if "/diptych/" in f.filename]
    told = [f"{f.filename.rpartition('/diptych/')[2]}:{f.lineno}" for f in frames]
    return " < ".join(told[::-1][:depth])


class Operations(TorchDispatchMode):
    """Sees every operation: also those without a tensor of the device that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (aten.to, aten.item):  # in inference mode they come whole
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return dispatched(func, args, kwargs or {})


class Numbered(TorchFunctionMode):
    """cuda is cuda:0: torch's idle guard does not know which one is current."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to:
            args = tuple(map(numbered, args))
        if "device" in kwargs:
            kwargs["device"] = numbered(kwargs["device"])
        return func(*args, **kwargs)


def numbered(value: Any) -> Any:
    """cuda:0 for cuda, anything else as it is."""
    return WHERE if isinstance(value, str | torch.device) and str(value) == "cuda" else value


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Computed on the CPU, after a look at where the arguments lie."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    wanted = kwargs.get("device")
    there = bool(ours) if wanted is None else torch.device(wanted).type == "cuda"
    if func is aten.copy_.default:
        there = isinstance(args[0], OnDevice)
    if not ours and not there:
        return func(*args, **kwargs)
    name = func._schema.name.partition("::")[2]
    if func in COPIES:
        source = args[func is aten.copy_.default]
        awaited = not kwargs.get("non_blocking") and args[2:] != (True,)
        if isinstance(source, OnDevice) != there and (awaited or id(source) not in PINNED):
            NOTED.waits["to the device" if there else "to the CPU", place()] += 1
    elif ours:
        check_places(func, name, tensors, args)
    if there and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    changed = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if wanted is not None:
        changed["device"] = torch.device("cpu")
    held_args, held_kwargs = tree_map_only(OnDevice, lambda t: t.held, (args, changed))
    found = func(*held_args, **held_kwargs)
    double = any(t.dtype == torch.float64 for t in tree_leaves(found) if isinstance(t, Tensor))
    if double and not NOTED.doubles and (there or ours[0].dtype != torch.float64):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
    if func._schema.is_mutable:
        given = kwargs.get("out", args[0])
        if isinstance(given, OnDevice) and given.shape != given.held.shape:  # squeeze_, say
            with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
                func(*args, **kwargs)
        if isinstance(found, Tensor) and (name.endswith("_") or "out" in kwargs):
            return given
    return tree_map_only(Tensor, OnDevice, found) if there and name != "_local_scalar_dense" else found


def check_places(func: Any, name: str, tensors: list[Tensor], args: Any) -> None:
    """Raises as CUDA would where tensors of two devices meet; notes what waits."""
    if name in WAITS or (name == "repeat_interleave" and func._overloadname == "Tensor"):
        NOTED.waits[name, place()] += 1
    strangers = [t for t in tensors if t.ndim and not isinstance(t, OnDevice)]
    if name in INDEXED:
        indices = [index for index in args[1] if index is not None]
        masks = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        if masks and not ("put" in name and len(indices) == args[2].numel() == 1):  # that is a masked_fill
            NOTED.waits["a mask as index", place()] += 1
        if isinstance(args[0], OnDevice):
            if not all(isinstance(index, OnDevice) for index in indices):
                NOTED.waits["an index of the CPU", place()] += 1
            strangers = [t for t in strangers if all(t is not index for index in indices)]
    if strangers:
        raise RuntimeError(f"{func}: tensors {[(*t.shape,) for t in strangers]} are on the CPU, at {place()}")


def pinned(self: Tensor, *_: Any) -> Tensor:
    """In the place of Tensor.pin_memory."""
    if isinstance(self, OnDevice):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    twin = self.clone()
    PINNED[id(twin)] = twin
    return twin


@contextmanager
def pretend(bf16: bool = False, doubles: bool = True) -> Iterator[Noted]:
    """Within it there is a GPU, with bfloat16 or without. doubles: it has float64, which Apple's have not."""
    allow_device()
    patches: dict[str, Any] = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.is_bf16_supported": lambda *_, **__: bf16,
        **{
            f"torch.cuda.{name}": lambda *_: None for name in ("_lazy_init", "synchronize", "manual_seed_all")
        },
        "torch.cuda.reset_peak_memory_stats": lambda *_: None,
        "torch.cuda.max_memory_allocated": lambda *_: 2**20,
        "torch.cuda.get_device_name": lambda *_: "pretended",
        "torch.cuda.get_rng_state": lambda *_: torch.get_rng_state(),
        "torch.Tensor.pin_memory": pinned,
        "diptych.diffusion.sight.Tensor": OnDevice,
    }
    lifted, swapped = (
        torch._C._only_lift_cpu_tensors(),
        torch.__future__.get_swap_module_params_on_conversion(),
    )  # type: ignore[attr-defined]
    with ExitStack() as held:
        for name, stand_in in patches.items():
            held.enter_context(mock.patch(name, stand_in))
        torch._C._set_only_lift_cpu_tensors(True)  # type: ignore[attr-defined]
        held.callback(torch._C._set_only_lift_cpu_tensors, lifted)  # type: ignore[attr-defined]
        torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter stays itself where it goes
        held.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        NOTED.waits.clear()
        NOTED.doubles = doubles
        held.callback(PINNED.clear)
        held.enter_context(Numbered())
        held.enter_context(Operations())
        yield NOTED


def allow_device() -> None:
    """Has autograd, in a build without CUDA, take tensors of it: by an idle guard and the word of its hooks.

    torch itself puts that guard where CUDA's own counts no device: it is shown one, all of whose methods
    return 0. Of the hooks `isBuilt` and `hasPrimaryContext`, 3rd and 5th in their table in torch 2.13, come
    to return 1.
    """
    folder, pointer = Path(torch.__file__).parent / "lib", ctypes.c_void_p
    c10, cpu = (ctypes.CDLL(str(folder / name)) for name in ("libc10.so", "libtorch_cpu.so"))
    guards = (pointer * 2).in_dll(c10, "_ZN3c104impl26device_guard_impl_registryE")
    if guards[1] is not None:
        return
    none = ctypes.CFUNCTYPE(ctypes.c_byte, pointer)(lambda guard: 0)
    methods = (pointer * 64)(*[ctypes.cast(none, pointer).value] * 64)
    guard = pointer(ctypes.addressof(methods))
    guards[1] = ctypes.addressof(guard)
    torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]
    cpu._ZN2at6detail12getCUDAHooksEv.restype = pointer
    hooks = pointer.from_address(cpu._ZN2at6detail12getCUDAHooksEv())
    table = (pointer * 100)(*(pointer * 100).from_address(hooks.value or 0))
    table[2] = table[4] = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, pointer).value
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(table))  # it is looked at until the process has ended
    hooks.value = ctypes.addressof(table)
