"""Training in shares: equal to training without, in files that either takes up, in a part of the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import made_up, newest
from diptych import catalog
from diptych.budget import Budget
from diptych.checkpoints import Checkpoints
from diptych.errors import WrongUse
from diptych.runs import Run, load_model
from diptych.system.files import read_tensors
from diptych.training import fsdp
from diptych.training.probe import probe
from diptych.training.state import Training
from processes import SETTINGS, together, trained

NAMES = [
    name
    for name, spec in catalog.recipes().items()
    if len(spec(made_up().train, **spec.small).method.phases()) == 1
]


def all_of_them(folder: Path, shared: bool) -> None:
    """A short run of each recipe, with the weights that posthoc averages are made of."""
    for name in NAMES:
        trained(name, folder / name, shards=2, fsdp=shared, averages=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Every recipe in two processes: in shares, and not."""
    folder = tmp_path_factory.mktemp("shares")
    for kind, shared in (("shared", True), ("usual", False)):
        assert together(2, all_of_them, folder / kind, shared, patience=300) == [None, None]
    return folder / "shared", folder / "usual"


def test_denoisers_can_be_shared_out() -> None:
    assert {"edm", "edm2", "dit", "ddpm", "flow", "adm", "iddpm", "consistency"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shares_change_nothing_but_rounding(name: str, runs: tuple[Path, Path]) -> None:
    """Losses, every tensor of checkpoint, model and stored averages: the same names, shapes, and numbers."""
    ours, theirs = (Run(folder / name) for folder in runs)
    assert ours.log()[-1]["losses"] == pytest.approx(theirs.log()[-1]["losses"], rel=1e-5)
    averages = sorted(file.name for file in (theirs.path / "averages").iterdir())
    assert len(averages) == 4
    files = [f"checkpoints/{newest(ours).name}", "model.safetensors", *(f"averages/{a}" for a in averages)]
    for file in files:
        (one, _), (other, _) = (read_tensors(run.path / file) for run in (ours, theirs))
        assert one.keys() == other.keys()
        for key, tensor in one.items():
            assert tensor.dtype == other[key].dtype
            if file.startswith("checkpoints") and tensor.ndim == 4:  # as it lies in memory
                continue
            torch.testing.assert_close(tensor, other[key], rtol=1e-3, atol=1e-4)
    images = [load_model(run.path, "cpu").sample(range(4)).int() for run in (ours, theirs)]
    assert (images[0] - images[1]).abs().max() <= 1
    state = Checkpoints(ours.path / "checkpoints").read(newest(ours))
    other = Checkpoints(theirs.path / "checkpoints").read(newest(theirs))
    for key, tensor in state["method"].items():
        torch.testing.assert_close(tensor, other["method"][key], rtol=1e-3, atol=1e-4)
    noted, usual = (tree["optimizers"][0]["state"] for tree in (state, other))
    assert noted.keys() == usual.keys()
    for number in noted:
        for key, slot in noted[number].items():
            torch.testing.assert_close(slot, usual[number][key], rtol=1e-3, atol=1e-5)


def training(name: str, shared: bool, **settings: Any) -> Training:
    """One of a small recipe, at its first step."""
    spec, data = catalog.recipe(name), made_up()
    torch.manual_seed(0)
    usual = replace(SETTINGS, fsdp=shared, **settings)
    return Training(spec(data.train, **spec.small), data.train, 64, usual)


def numbers(tensors: Mapping[str, Tensor]) -> int:
    """How many of them lie on this process."""
    return sum(fsdp.local([t])[0].numel() for t in tensors.values())


def held(name: str) -> tuple[int, int, int, int, int, int]:
    """Numbers in weights, averages and slots on this process after a step; and those that are in all."""
    here = training(name, True)
    here.step()
    slots = {
        f"{i} {k}": slot
        for i, kept in enumerate(here.phases[0].optimizer.state.values())
        for k, slot in kept.items()
        if slot.ndim
    }
    named = [dict(here.method.named_parameters()), dict(here.average.named_parameters()), slots]
    whole = [sum(t.numel() for t in part.values()) for part in named]
    return (*map(numbers, named), *whole)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["edm2", "dit"])
def test_each_process_holds_its_part(name: str) -> None:
    """Half of all weights, averages and optimizer slots, but for what has no dimensions or an odd length."""
    for answer in together(2, held, name):
        for here, whole in zip(answer[:3], answer[3:], strict=True):
            assert whole > 1000
            assert here == pytest.approx(whole / 2, rel=0.02)


def back_and_forth(name: str, file: Path) -> list[str]:
    """What differs when a state in shares is written, taken up without shares, and the other way round."""
    first = training(name, True)
    for _ in range(2):
        first.step()
    state = first.state_dict()
    if torch.distributed.get_rank() == 0:
        Checkpoints(file.parent).write(1, state, 1)
    torch.distributed.barrier()
    state = Checkpoints(file.parent).read(file)
    states = [state]
    for shared in (False, True):
        other = training(name, shared)
        other.load_state_dict(state)
        assert other.steps == 2
        states.append(other.state_dict())
    if torch.distributed.get_rank():
        return []
    flat = [dict(leaves(state)) for state in states]
    assert len(flat[0]) > 100
    return [k for k, v in flat[0].items() if not all(torch.equal(v, other[k]) for other in flat[1:])]


def leaves(tree: Any, place: str = "") -> Any:
    """Every tensor of a state with its place."""
    if isinstance(tree, Tensor):
        yield place, tree
    elif isinstance(tree, Mapping | list | tuple):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, item in items:
            yield from leaves(item, f"{place}/{key}")


@pytest.mark.parametrize("name", ["edm2", "flow"])
def test_a_state_means_the_same_with_and_without_shares(name: str, tmp_path: Path) -> None:
    assert together(2, back_and_forth, name, tmp_path / f"{1:012d}.safetensors") == [[], []]


def resumed(out: Path, processes: int) -> dict[str, float]:
    """The second half of a run, in shares where there are several processes."""
    return dict(trained("edm2", out, budget="48-images", fsdp=processes > 1).log()[-1]["losses"])


def halted(out: Path, shared: bool) -> None:
    """The first three steps of six."""
    step = Training.step

    def step_and_stop(here: Training) -> None:
        step(here)
        if here.steps == 3:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)

    Training.step = step_and_stop  # type: ignore[method-assign]
    trained("edm2", out, budget="48-images", fsdp=shared)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3)])
def test_a_run_in_shares_goes_on_without_or_in_other_shares(before: int, after: int, tmp_path: Path) -> None:
    assert all(isinstance(e, KeyboardInterrupt) for e in together(before, halted, tmp_path / "a", True))
    assert all(isinstance(e, KeyboardInterrupt) for e in together(before, halted, tmp_path / "b", False))
    ours = together(after, resumed, tmp_path / "a", after)
    assert len(ours) == after
    theirs = trained("edm2", tmp_path / "b", budget="48-images") if after == 1 else None
    if theirs is not None:
        assert ours[0] == pytest.approx(theirs.log()[-1]["losses"], rel=1e-4)
    assert Run(tmp_path / "a").finished


def half_precision(shared: bool) -> float:
    """The loss of the third step in bfloat16."""
    here = training("edm2", shared, precision="bfloat16", microbatch=2)
    for _ in range(3):
        here.logs.clear()
        here.step()
    return here.logs.means()["denoiser"]


def test_in_bfloat16_and_microbatches() -> None:
    one, other = (together(2, half_precision, shared)[0] for shared in (True, False))
    assert one == pytest.approx(other, rel=2e-3)


def probed(budget: int) -> tuple[float, float]:
    """FLOPs an image, and bytes of a run, as a probe finds them."""
    plan = probe(lambda total: training("edm", True), Budget(budget, "images"), steps=2)
    return plan.flop_per_image, plan.disk_mib


def test_a_probe_counts_what_a_process_does() -> None:
    usual = probe(lambda total: training("edm", False), Budget(100, "images"), steps=2)
    for flop, disk in together(2, probed, 100):
        assert flop == pytest.approx(usual.flop_per_image, rel=1e-3)
        assert disk == pytest.approx(usual.disk_mib)


def gan() -> None:
    training("r3gan", True)


def test_refused() -> None:
    """Phases that take turns, one process, a network without blocks."""
    for error in together(2, gan):
        assert isinstance(error, WrongUse)
        assert "has 2 phases" in error.message
    with pytest.raises(WrongUse, match="for several processes"):
        training("edm", True)
    with pytest.raises(WrongUse, match="none in a list"):
        fsdp.share_out(nn.Linear(2, 2), torch.device("cpu"))


def test_blocks_and_the_network_that_holds_them() -> None:
    layer = nn.Linear(2, 2)
    net = nn.ModuleDict(
        {
            "head": layer,
            "down": nn.ModuleList([nn.ModuleList([layer]), nn.Sequential(nn.ModuleList([layer]))]),
            "up": nn.ModuleList([layer]),
        }
    )
    outer = nn.ModuleDict({"other": layer, "net": net})
    found = fsdp.blocks(outer)
    assert list(found) == ["net.down.0.0", "net.down.1", "net.up.0"]
    assert fsdp.network(outer, found) == "net"
    assert fsdp.network(outer, ["net.up.0"]) == "net"


def test_norm_and_clipping_are_torchs() -> None:
    one, other = (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    parameter = nn.Parameter(torch.zeros(3, 4))
    parameter.grad = one.clone()
    theirs = torch.nn.utils.clip_grad_norm_([parameter], 0.5)
    norm = fsdp.total_norm([other])
    assert torch.equal(norm, theirs)
    fsdp.clip([other], 0.5, norm)
    assert torch.equal(other, parameter.grad)
    assert float(fsdp.total_norm([other])) == pytest.approx(0.5, rel=1e-4)
