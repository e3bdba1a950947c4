"""The state of a training and its one step: phases in turn, averaged weights, logs, a guard against NaN."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

import torch
from torch import Tensor

from diptych.data.images import Images
from diptych.errors import Diverged, WrongUse
from diptych.given import fitted
from diptych.method import Batch, Clock, Phase
from diptych.model import Model
from diptych.recipe import Recipe
from diptych.system import parallel
from diptych.system.device import mixed, pick
from diptych.training import fsdp
from diptych.training.averages import Averages
from diptych.training.shards import Together, caveats, count_shards, noting, reseed, split

ON_ALARM = ("warn", "stop", "rollback", "firmer")
WHOLE = 2**63 - 1
BETWEEN = {  # the least, the most, and what is usual
    "seed": (0, 2**64 - 1, "--seed 0, say: torch's seeds have 64 bits"),
    "microbatch": (0, WHOLE, "0 is the whole batch at once"),
    "ticks": (1, WHOLE, "--ticks 10, say: log lines, sample sheets and checkpoints"),
    "snapshots": (0, 63, "each is kept after twice as many ticks as the one before; 0 keeps none"),
    "keep": (1, WHOLE, "--keep 2, say: resuming needs a checkpoint"),
    "averages": (0, WHOLE, "--averages 16, say; 0 stores none"),
}


@dataclass(frozen=True)
class Settings:
    """How long, from which seed, and on what: all that is not the recipe's own."""

    budget: str = "10m"  # see diptych.budget
    seed: int = 0
    microbatch: int = 0  # images that go through the networks at once; 0: the whole batch
    precision: str = "auto"
    ticks: int = 10  # log lines, sample sheets and checkpoints in a whole training
    snapshots: int = (
        1  # averaged weights that are kept: of the first tick, the second, the fourth, the eighth ...
    )
    device: str = "auto"
    compile: bool = False  # slow to begin, then faster: for GPUs and long trainings
    init: str = ""  # a run whose weights this one begins with, where they fit; see diptych.training.transfer
    keep: int = 2  # checkpoints: the last so many, beside the one that scored best
    averages: int = 0  # moments whose weights are stored for averages made afterwards; see averages.py
    on_alarm: str = "warn"  # or stop, rollback, firmer; see diptych.alarms
    deterministic: bool = False  # refuses operations of a GPU that are not the same each time
    fsdp: bool = False  # weights and optimizers lie in shares on the processes; see diptych.training.fsdp

    def __post_init__(self) -> None:
        for name, value in fitted(vars(self), get_type_hints(Settings), vars(Settings)).items():
            object.__setattr__(self, name, value)
        for name, (least, most, usual) in BETWEEN.items():
            if not least <= (value := getattr(self, name)) <= most:
                bound = f"at least {least}" if value < least else f"at most {most}"
                raise WrongUse(f"{name} must be {bound}, not {value}", usual)
        if self.on_alarm not in ON_ALARM:
            raise WrongUse(
                f"on an alarm nothing called {self.on_alarm!r} can be done",
                f"there is: {', '.join(ON_ALARM)}",
            )


class Training:
    """Networks, averages, optimizers and a clock. `step` moves all of them by one batch.

    shards: into how many the batch falls, where that was decided before (see diptych.training.shards).
    """

    def __init__(self, recipe: Recipe, data: Images, total: int, settings: Settings, shards: int = 0) -> None:
        if len(data) < recipe.batch:
            raise WrongUse(
                f"{len(data)} images to train on are fewer than a batch of {recipe.batch}",
                f"--batch {max(1, len(data) // 2)}, or more images",
            )
        self.data, self.total, self.settings = data, total, settings
        self.device = pick(settings.device)
        self.batch = recipe.batch
        self.shards = count_shards(self.batch, settings.microbatch, parallel.world(), shards)
        self.shards = fsdp.even(self.batch, self.shards) if settings.fsdp else self.shards
        self.mine = split(self.batch, self.shards)[parallel.rank() :: parallel.world()]
        self.share_kept = recipe.average
        self.method = recipe.method.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.caveats = caveats(self.method, self.batch, self.shards, begun=bool(shards))
        self.phases = list(self.method.phases())
        self.average = copy.deepcopy(self.method.model).eval().requires_grad_(False)
        self.outline: Model | None = None
        if settings.fsdp:
            self.lie_in_shares()
        self.averages = Averages(self.method.model) if settings.averages else None
        self.images = self.steps = 0
        self.reactions = 0  # how often an alarm took it back: each halves the learning rate
        self.turn: Phase | None = None
        self.logs = Logs(self.device)
        self.first_bad = torch.full((len(self.phases),), math.inf, device=self.device)

    def lie_in_shares(self) -> None:
        """Divides weights, averages, and with them gradients and optimizers' slots among the processes."""
        fsdp.check(len(self.phases))
        self.outline = fsdp.outline(self.average)
        fsdp.in_shares(self.method, self.optimizers(), self.device)
        fsdp.share_out(self.average, self.device)

    def whole(self) -> Model:
        """The averaged model with all of its weights, to be looked at. Of several processes all call it."""
        return self.average if self.outline is None else fsdp.filled(self.outline, self.average)

    @property
    def clock(self) -> Clock:
        """Where training stands."""
        return Clock(self.images, self.total, self.steps, self.batch)

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self.images >= self.total

    def step(self) -> None:
        """Each due phase's turn on the next batch, a pure function of (seed, images seen) and the weights."""
        clock = self.clock
        shards = self.my_shards(self.images)
        for index, phase in enumerate(self.phases):
            if self.steps % phase.every == 0:
                self.take_turn(index, phase, shards, clock)
        self.images += self.batch
        self.steps += 1
        self.move_average()

    def my_shards(self, images: int) -> list[tuple[int, Batch]]:
        """This process's part of the batch after so many images: each shard, after its first row's number."""
        return [
            (rows.start, self.data.batch(self.settings.seed, images + rows.start, length(rows), self.device))
            for rows in self.mine
        ]

    def compile(self) -> None:
        """Compiles the networks in place where the settings ask for it: state-dict keys stay as they are."""
        if self.settings.compile:
            for network in self.method.compilable():
                network.compile()

    def take_turn(self, index: int, phase: Phase, shards: Sequence[tuple[int, Batch]], clock: Clock) -> None:
        """Gradient over the shards of all processes, clipping, one optimizer step."""
        parameters = phase.parameters
        if self.turn is not phase:
            self.method.requires_grad_(False)
            for parameter in parameters:
                parameter.requires_grad_(True)
            self.turn = phase
        phase.optimizer.zero_grad(set_to_none=True)
        together = Together(self.method, self.shards)
        for first, batch in shards:
            reseed(self.settings.seed, clock.images, index, first)
            share = batch.image.shape[0] / self.batch
            with noting(self.method, self.batch), together.shard(share):
                with mixed(self.device, self.settings.precision, cached=self.outline is None):
                    loss, logs = phase.loss(batch, clock)
                # nobody reads the slope of images; in shares, parameters are no part of the graph
                torch.autograd.backward(loss * share, inputs=None if self.outline else parameters)
            together.add({**logs, phase.name: loss}, share)
        gradients = [p.grad for p in parameters if p.grad is not None]
        together.finish([g for g in gradients if not fsdp.is_share(g)])  # the others are sums already
        norm = fsdp.total_norm(gradients)
        if math.isfinite(phase.clip):
            fsdp.clip(gradients, phase.clip, norm)
        for group in phase.optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * phase.lr_scale(clock)
            group["lr"] *= 0.5**self.reactions
        fsdp.step(phase.optimizer)
        self.logs.add({**together.logs, f"{phase.name}_gradient": norm})
        bad = torch.where(torch.isfinite(together.logs[phase.name] + norm), math.inf, float(self.steps))
        self.first_bad[index] = torch.minimum(self.first_bad[index], bad)

    def move_average(self) -> None:
        """The averaged weights forget some of their past, as the recipe wants it.

        Those that were taken over are worth keeping from the start: they are forgotten as at the end.
        """
        seen = max(self.images, self.total) if self.settings.init else self.images
        keep = self.share_kept(seen, self.batch)
        with torch.no_grad():
            kept_ones, new_ones = self.average.parameters(), self.method.model.parameters()
            torch._foreach_lerp_(fsdp.local(kept_ones), fsdp.local(new_ones), 1 - keep)
            for kept, new in zip(self.average.buffers(), self.method.model.buffers(), strict=True):
                kept.copy_(new)
        if self.averages is not None:
            self.averages.move(self.method.model, self.images, self.batch)

    def settle(self) -> None:
        """Makes the averaged weights ready to be looked at; the next step takes buffers over again."""
        self.method.settle(self.average, self.clock)

    def check_finite(self) -> None:
        """Raises Diverged, naming the phase that was first to meet a number that is not finite.

        Waits for the device.
        """
        first = self.first_bad.tolist()
        if min(first) < math.inf:
            index = min(range(len(first)), key=lambda i: (first[i], i))
            raise Diverged(
                f"phase {self.phases[index].name!r} was no longer finite in step {int(first[index])}",
                self.method.remedy,
            )

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on. Where that lies in shares, all call it and the first has it."""
        return {
            "method": fsdp.gathered(self.method.state_dict()),
            "average": fsdp.gathered(self.average.state_dict()),
            "averages": {} if self.averages is None else fsdp.gathered(self.averages.state_dict()),
            "optimizers": [fsdp.gathered(optimizer.state_dict()) for optimizer in self.optimizers()],
            "logs": self.logs.state_dict(),
            "images": self.images,
            "steps": self.steps,
            "reactions": self.reactions,
            "threads": torch.get_num_threads(),  # sums depend on it, to the last bit
            "processes": parallel.world(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`, bit for bit on the CPU."""
        self._load_networks(state)
        self.logs.load_state_dict(state["logs"])
        self.images, self.steps = state["images"], state["steps"]
        self._react(state["reactions"])
        if self.device.type == "cpu" and state["processes"] == parallel.world():
            torch.set_num_threads(state["threads"])

    def take_back(self, state: Mapping[str, Any]) -> None:
        """Networks, averages and optimizers of an earlier state, while the clock goes on; from here on with
        half of the learning rate and, where `on_alarm` is "firmer", twice the penalties."""
        self._load_networks(state)
        if self.averages is not None:  # to them it is as if the weights had stood still since then
            self.averages.move(self.method.model, self.images, self.images - state["images"])
        self._react(self.reactions + 1)
        self.logs.clear()
        self.first_bad.fill_(math.inf)

    def _react(self, times: int) -> None:
        if self.settings.on_alarm == "firmer" and times != self.reactions:
            self.method.firmer(2.0 ** (times - self.reactions))
        self.reactions = times

    def _load_networks(self, state: Mapping[str, Any]) -> None:
        for module, name in ((self.method, "method"), (self.average, "average")):
            module.load_state_dict(fsdp.as_in_all(state[name], module.state_dict()))
        if self.averages is not None:
            ours = self.averages.state_dict()
            theirs = {key: fsdp.as_in_all(part, ours[key]) for key, part in state["averages"].items()}
            self.averages.load_state_dict(theirs)
        for optimizer, saved in zip(self.optimizers(), state["optimizers"], strict=True):
            # the recipe's own, which --force may have changed; each turn computes "lr" anew
            own = [{"peak_lr": group["lr"], **group} for group in optimizer.param_groups]
            optimizer.load_state_dict(fsdp.slots_as_in(saved, optimizer))
            for group, given in zip(optimizer.param_groups, own, strict=True):
                group |= {name: value for name, value in given.items() if name not in ("params", "lr")}
            for parameter, slots in optimizer.state.items():
                for name, slot in slots.items():
                    # fused optimizers walk memory: strides must be the parameter's. And nothing may keep the
                    # file mapped: it would keep its space on the disk, and Windows could not remove it
                    like = parameter if slot.shape == parameter.shape else slot
                    slots[name] = torch.empty_like(like, dtype=slot.dtype).copy_(slot)

    def optimizers(self) -> Iterable[torch.optim.Optimizer]:
        """Each optimizer once, though phases may share one."""
        return {id(phase.optimizer): phase.optimizer for phase in self.phases}.values()


def length(rows: slice) -> int:
    """How many there are."""
    return int(rows.stop - rows.start)


class Logs:
    """Means of what phases log, kept on the device; reading them is the only synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Takes scalars into the running means."""
        for name, value in values.items():
            if name in self.sums:
                self.sums[name] += value.detach()
            else:
                self.sums[name] = value.detach().clone()
            self.weights[name] = self.weights.get(name, 0.0) + 1

    def means(self) -> dict[str, float]:
        """Since the last `clear`. Waits for the device once."""
        if not self.sums:
            return {}
        values = torch.stack([value.float().reshape(()) for value in self.sums.values()]).tolist()
        return {name: value / self.weights[name] for name, value in zip(self.sums, values, strict=True)}

    def clear(self) -> None:
        """Forgets all."""
        self.sums, self.weights = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Sums and weights."""
        return {"sums": dict(self.sums), "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.sums = {name: value.to(self.device, copy=True) for name, value in state["sums"].items()}
        self.weights = dict(state["weights"])
