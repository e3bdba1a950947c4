"""A training in shares: each process keeps its part of weights, gradients, averages and optimizer slots.

torch's FSDP2 (fully_shard) brings a block's weights together while the block is at work, and its gradients'
sums to their owners (PyTorch FSDP, Zhao et al., 2023, arXiv:2304.11277; ZeRO, stage 3, Rajbhandari et al.,
2020, arXiv:1910.02054). A share is a DTensor; numbers without dimensions, and what lies outside of the
network, every process has in full.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeGuard, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from diptych.errors import WrongUse
from diptych.system import parallel

Module = TypeVar("Module", bound=nn.Module)


def check(phases: int) -> None:
    """Raises WrongUse where a training of so many phases cannot lie in shares."""
    if not parallel.several():
        raise WrongUse(
            "--shard is for several processes, and this is one", "start it by torchrun, or leave --shard out"
        )
    if phases > 1:
        raise WrongUse(
            f"--shard is for methods that train one network in one phase; this one has {phases} phases",
            "leave --shard out: FSDP neither lets networks hold still while others take their turn, nor "
            "differentiates gradients again, as penalties do",
        )


def even(batch: int, shards: int) -> int:
    """The number of shards nearest to this one that is as many for each process: all work in lockstep.

    >>> even(10, 3)
    3
    """
    processes = parallel.world()
    return processes * max(1, min(batch // processes, -(-shards // processes)))


def blocks(module: nn.Module, within: str = "") -> dict[str, nn.Module]:
    """The outermost modules of ModuleLists, by name: layers that a forward pass calls one after another."""
    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        place = f"{within}.{name}" if within else name
        listed = isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList)
        found |= {place: child} if listed else blocks(child, place)
    return found


def network(module: nn.Module, names: Iterable[str]) -> str:
    """The name of the smallest module that holds all of these blocks and is no list itself.

    >>> network(nn.ModuleDict({"net": nn.Sequential()}), ["net.down.0", "net.up.0"])
    'net'
    """
    common: list[str] | None = None
    for name in names:
        parts = name.split(".")[:-1]
        if common is None:
            common = parts
        same = [a == b for a, b in zip(common, parts, strict=False)]
        common = common[: same.index(False) if False in same else len(same)]
    while common and isinstance(module.get_submodule(".".join(common)), nn.ModuleList):
        common.pop()
    return ".".join(common or ())


def share_out(module: nn.Module, device: torch.device) -> None:
    """Leaves to each process its share of a module's network: rows of all tensors of each block and the rest.

    Raises WrongUse where the network has no blocks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    found = blocks(module)
    if not found:
        raise WrongUse("--shard shares out the blocks of a network, and this network has none in a list")
    root = module.get_submodule(network(module, found))
    root.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # FSDP takes no other
    mesh = init_device_mesh(device.type, (parallel.world(),))
    single = {parameter for parameter in root.parameters() if not parameter.ndim}
    for part in [*found.values(), root]:
        if any(True for _ in part.parameters()):
            part.register_forward_pre_hook(channels_last)
            part.register_forward_hook(own_memory)
            shared = fully_shard(part, mesh=mesh, ignored_params=single)
            shared.set_gradient_divide_factor(1.0)  # losses are weighted already: sums are wanted
            shared.set_force_sum_reduction_for_comms(True)


def channels_last(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook: images lie in memory as they would if the weights did not have to be contiguous."""
    images = [isinstance(x, Tensor) and x.ndim == 4 for x in inputs]
    return tuple(
        x.contiguous(memory_format=torch.channels_last) if image else x
        for x, image in zip(inputs, images, strict=True)
    )


def own_memory(module: nn.Module, inputs: Any, output: Any) -> Any:
    """A forward hook: views are copied, because FSDP's own hooks get lost where one is changed in place."""
    return output.clone() if isinstance(output, Tensor) and output._is_view() else output


def in_shares(module: nn.Module, optimizers: Iterable[torch.optim.Optimizer], device: torch.device) -> None:
    """`share_out`, and the optimizers, which have made no step yet, move the shares."""
    before = {id(parameter): name for name, parameter in module.named_parameters()}
    share_out(module, device)
    now = dict(module.named_parameters())
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [now[before[id(p)]] if id(p) in before else p for p in group["params"]]


# ------------------------------------------------------------------ tensors


class Share(Protocol):
    """What is used of a DTensor here: to import that class takes a second."""

    device_mesh: Any
    placements: Any

    def to_local(self) -> Tensor:
        """This process's own values, in place."""

    def full_tensor(self) -> Tensor:
        """The values of all: a collective."""


def is_share(tensor: object) -> TypeGuard[Share]:
    """Whether a tensor lies in shares."""
    return hasattr(tensor, "to_local")


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Of shares this process's own values, in place; other tensors as they are."""
    return [t.to_local() if is_share(t) else t for t in tensors]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which there are shares: a collective. Any other as it is."""
    return tensor.full_tensor() if is_share(tensor) else tensor


def gathered(tree: Any) -> Any:
    """A tree of mappings, lists and tensors with the shares brought together, on the CPU; tensors that lie in
    shares are left to the first process alone."""
    if is_share(tree):
        found = tree.full_tensor().detach()
        return found.cpu() if parallel.rank() == 0 else found.new_empty(0)
    if isinstance(tree, Mapping):
        return {key: gathered(item) for key, item in tree.items()}
    return [gathered(item) for item in tree] if isinstance(tree, list) else tree


def as_in(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, that all processes have, as the share that `like` is; as it is where that is none."""
    if is_share(tensor) or not is_share(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    here = tensor.to(like.to_local().device).contiguous()
    return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)


def as_in_all(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`as_in` for what has a counterpart of the same name."""
    return {name: as_in(t, like[name]) if name in like else t for name, t in tensors.items()}


def slots_as_in(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer, with what it notes of each number in a parameter as that parameter lies."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        i: {k: as_in(v, parameters[i]) if v.shape == parameters[i].shape else v for k, v in slots.items()}
        for i, slots in saved["state"].items()
    }
    return {**saved, "state": state}


# ----------------------------------------------------------------- gradients


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together, shares or not, of all processes."""
    shares = [g.to_local() for g in gradients if is_share(g)]
    own = [g for g in gradients if not is_share(g)]
    norm = torch.nn.utils.get_total_norm(own, foreach=True)
    if not shares:
        return norm
    squares = torch.nn.utils.get_total_norm(shares, foreach=True).square()
    dist.all_reduce(squares)
    return (squares + norm.square()).sqrt()


def clip(gradients: Sequence[Tensor], largest: float, norm: Tensor) -> None:
    """Scales gradients of this norm down to the largest one, as torch's clip_grad_norm_ does."""
    torch._foreach_mul_(local(gradients), torch.clamp(largest / (norm + 1e-6), max=1.0))


def step(optimizer: torch.optim.Optimizer) -> None:
    """One step of it: fused kernels take shares, or tensors that are none, but not both at once."""
    groups = optimizer.param_groups
    if not any(is_share(p) for group in groups for p in group["params"]):
        optimizer.step()
        return
    parts = [
        {**group, "params": [p for p in group["params"] if is_share(p) == shared]}
        for group in groups
        for shared in (True, False)
    ]
    optimizer.param_groups = [part for part in parts if part["params"]]
    try:
        optimizer.step()
    finally:
        optimizer.param_groups = groups


# ------------------------------------------------------------------- models


def outline(module: Module) -> Module:
    """A copy whose parameters have no values, made before those are shared out."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        for p in module.parameters()
    }
    return copy.deepcopy(module, memo=dict(empty))


@torch.no_grad()
def filled(outlined: Module, shared: nn.Module) -> Module:
    """An outline with all the weights of the module that it was made of: a collective."""
    full: dict[int, Any] = {}
    pairs = zip(outlined.parameters(), shared.parameters(), strict=True)
    for empty, share in pairs:
        values = torch.empty_like(empty, device=share.device).copy_(whole(share))
        full[id(empty)] = nn.Parameter(values, requires_grad=False)
    found = copy.deepcopy(outlined, memo=full)
    for kept, new in zip(found.buffers(), shared.buffers(), strict=True):
        kept.copy_(new)
    return found
