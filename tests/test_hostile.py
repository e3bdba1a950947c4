"""Damaged and hostile files: only our own errors come out, little memory is taken, nothing runs.

A short share of benchmarks/fuzz.py, and what each refusal rests on.
"""

from __future__ import annotations

import importlib
import io
import json
import pkgutil
import sys
import threading
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

import bombs
import diptych
import doors
import mutations
from diptych import saveable as saving
from diptych.allowance import BYTES, PER_VALUE, TooMuch, allowance
from diptych.checking import Unbounded, bounded, made, misfit, need, shown
from diptych.convert.official import convert
from diptych.data import open_data
from diptych.errors import DataError, DiptychError, RunError
from diptych.runs import load_model, open_run
from diptych.saveable import PARTS, from_tree, saveable, to_tree
from diptych.system.files import read_json, unpacked_at_most, write_json
from diptych.unpickler import ConvertError, Name, read_pickle

# ------------------------------------------------------------------------------------------------- the fuzzer

ALL = {**doors.PICTURES, **doors.OTHERS}
SHARE = 18  # inputs a door


@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_end_in_our_own_errors(name: str, tmp_path: Path) -> None:
    door, folder = ALL[name], tmp_path / "files"
    folder.mkdir()
    files = door.lay(folder)
    door.open(folder)  # what is not damaged opens
    sound = {file: file.read_bytes() for file in files}
    laid = {*folder.rglob("*")}
    refused = longest = 0
    for i in range(SHARE):
        draw = Random(f"{name} {i}")
        file = draw.choice(files)
        file.write_bytes(door.damage(sound[file], draw))
        try:
            door.open(folder)
        except DiptychError as error:
            refused += 1
            longest = max(longest, len(str(error)))
        file.write_bytes(sound[file])
    assert {*folder.rglob("*")} == laid
    assert longest < 3000
    assert refused or name == "cache"  # where what is damaged counts as absent


def test_the_same_seed_does_the_same_damage() -> None:
    data = doors.picture("PNG", 0)
    for mutator in (*mutations.PLAIN, mutations.png):
        assert mutator(data, Random(5)) == mutator(data, Random(5))
    changed = [mutations.any_of(data, Random(i), mutations.png) != data for i in range(100)]
    assert sum(changed) > 90


QUICK = [
    name for name in bombs.BOMBS if "zeros" not in name and "MB" not in name and "without end" not in name
]
LARGE = {
    *("80 million pixels", "many multipliers", "a million objects"),
    *("npz beyond the ratio", "npz of tiny images"),
}


@pytest.mark.parametrize("name", [name for name in QUICK if name not in LARGE])
def test_bombs_are_refused(name: str, tmp_path: Path) -> None:
    lay, opened = bombs.BOMBS[name]
    lay(tmp_path)
    with pytest.raises(DiptychError):
        opened(tmp_path)


# ------------------------------------------------------------------------------------- arguments out of files


@dataclass(frozen=True)
class Kinds:
    """One of each."""

    whole: int = 1
    number: float = 1.0
    text: str = ""
    yes: bool = False
    shape: tuple[int, int, int] = (1, 2, 3)
    many: tuple[float, ...] = ()
    maybe: int | None = None
    word: Literal["a", "b"] = "a"
    any_number: Unbounded = 0.0
    nested: dict[str, list[int]] = field(default_factory=dict)


WRONG = [
    *(("whole", True), ("whole", 1.0), ("whole", "1"), ("whole", None), ("whole", 2**63), ("whole", [1])),
    *(
        ("number", float("nan")),
        ("number", float("inf")),
        ("number", "1"),
        ("number", False),
        ("number", 10**400),
    ),
    *(("text", 5), ("text", None), ("yes", 1), ("yes", "true"), ("shape", [1, 2]), ("shape", [1, 2, 3, 4])),
    *(("shape", [1, 2, 3.0]), ("shape", 5), ("shape", {}), ("many", [1, "2"]), ("many", [float("nan")])),
    *(("maybe", "x"), ("word", "c"), ("word", 1), ("any_number", "x"), ("nested", {"a": 5}), ("nested", [])),
]
RIGHT = [
    *(("whole", -5), ("number", 5), ("number", 1e308), ("text", "x"), ("yes", True), ("shape", [1, 2, 3])),
    *(("many", []), ("many", [1, 2.5]), ("maybe", None), ("maybe", 3), ("word", "b"), ("nested", {"a": [1]})),
    *(("any_number", float("nan")), ("any_number", -float("inf"))),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_values_of_another_kind_are_refused_by_name(name: str, value: object) -> None:
    said = misfit(value, saving.kinds_of(Kinds)[name], name)
    assert said.startswith(name)
    assert len(said) < 200
    if not set(repr(value)) & {"n", "f"} or name not in (
        "number",
        "many",
    ):  # what is measured may be infinite
        with pytest.raises(RunError, match=f"a test cannot be read: {name}"):
            made(Kinds, {name: value}, "a test")


@pytest.mark.parametrize(("name", "value"), RIGHT)
def test_values_of_their_kind_pass(name: str, value: object) -> None:
    assert misfit(value, saving.kinds_of(Kinds)[name], name) == ""
    got = getattr(made(Kinds, {name: value, "unknown": 5}, "a test"), name)
    assert got == (tuple(value) if isinstance(value, list) else value) or got != got


def test_what_is_needed() -> None:
    assert need({"a": 1, "b": 2}, {"a": int}, "it") == {"a": 1, "b": 2}
    for tree, said in (
        ([], "a list of 0"),
        (5, "5"),
        ({}, "no a"),
        ({"a": "x"}, "a is 'x', not a whole number"),
    ):
        with pytest.raises(RunError, match=said):
            need(tree, {"a": int}, "it")
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(RunError, match="deeper than 64"):
        bounded(deep, "it")
    with pytest.raises(RunError, match="more than 10 values"):
        bounded([[1] * 6, [2] * 6], "it", 10)
    assert shown("\x1b[2J" + "a" * 999) == "'\\x1b[2J" + "a" * 51 + "..."


MODEL = "diptych.adversarial.latent:LatentModel"
NETWORK = "diptych.networks.r3gan:R3Generator"
GAN = {"class": MODEL, "network": {"class": NETWORK, "image_shape": [1, 8, 8], "width": 8, "blocks": 1}}


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("width", True, "width is True"),
        ("width", 8.0, "width is 8.0"),
        ("width", float("nan"), "width is nan"),
        ("width", 10**9, "beyond 1,048,576"),
        ("width", [8, 10**9], "beyond 1,048,576"),
        ("latent", "x" * 70_000, "latent is '"),
        ("image_shape", [3, 2**19, 2**19], "no image has the shape"),
        ("image_shape", [0, 8, 8], "no image has the shape"),
        ("image_shape", [1, 8], "a list of 2, not of 3"),
        ("image_shape", {"class": NETWORK, "image_shape": [1, 8, 8]}, "not a list"),
        ("classes", 2**20, "not built: it asks for"),
        ("blocks", 2**20, "not built: it asks for"),
    ],
)
def test_absurd_arguments_are_refused(place: str, value: object, said: str) -> None:
    tree = {**GAN, "network": {**GAN["network"], place: value}}  # type: ignore[dict-item]
    with pytest.raises(RunError, match=said):
        from_tree(json.loads(json.dumps(tree)))


def test_a_part_must_be_of_its_class() -> None:
    with pytest.raises(RunError, match="options is"):
        from_tree({**GAN, "options": {"class": "diptych.adversarial.style:StyleOptions"}})
    with pytest.raises(RunError, match="network is 5"):
        from_tree({**GAN, "network": 5})


def test_what_would_not_be_read_back_is_not_written() -> None:
    @saveable
    class Own(nn.Module):
        def __init__(self, seed: int, scale: float = 1.0) -> None:
            super().__init__()

    assert to_tree(Own(5))["seed"] == 5
    for module in (Own(2**40), Own("x"), Own(1, float("nan"))):  # type: ignore[arg-type]
        with pytest.raises(RunError, match="cannot be built"):
            to_tree(module)


# --------------------------------------------------------------------------------------------- the allowance

LARGE_ONE = 2**22  # 16 MiB as float32, squared 64 TiB
FACTORIES: dict[str, Any] = {
    "empty": lambda: torch.empty(LARGE_ONE, LARGE_ONE),
    "zeros": lambda: torch.zeros(LARGE_ONE * 1024),
    "full": lambda: torch.full((2**40,), 1.0),
    "randn": lambda: torch.randn(2**40),
    "arange": lambda: torch.arange(2**40),
    "linspace": lambda: torch.linspace(0, 1, 2**40),
    "eye": lambda: torch.eye(2**21),
    "outer": lambda: torch.ones(2**20)[:, None] * torch.ones(2**20),
    "product": lambda: torch.ones(2**20, 1) @ torch.ones(1, 2**20),
    "repeat": lambda: torch.ones(2**10).repeat(2**20, 2**10),
    "expanded": lambda: torch.ones(1).expand(2**40).clone(),
    "padded": lambda: nn.functional.pad(torch.ones(1, 1, 1, 1), (2**20, 2**20, 2**20, 2**20)),
    "resized": lambda: nn.functional.interpolate(torch.ones(1, 1, 2, 2), (2**20, 2**20)),
    "joined": lambda: torch.cat([torch.ones(1).expand(2**38)] * 4),
    "a layer": lambda: nn.Linear(2**20, 2**20),
    "an embedding": lambda: nn.Embedding(2**31, 2**9),
    "a sum of many": lambda: [torch.empty(2**20) for _ in range(10**6)],
}


@pytest.mark.parametrize("name", FACTORIES)
def test_memory_is_refused_before_it_is_taken(name: str) -> None:
    with allowance() as counted, pytest.raises(TooMuch, match="MiB or more"):
        FACTORIES[name]()
    assert counted.bytes > BYTES


def test_weights_allow_for_more() -> None:
    size = 2 * BYTES // 4
    with allowance(values=size), allowance():
        torch.empty(size)
    with allowance(values=BYTES // PER_VALUE) as counted:
        torch.empty(BYTES // 4)
        with pytest.raises(TooMuch):
            torch.empty(BYTES // 2)
    assert counted.most_bytes == BYTES + BYTES // PER_VALUE * PER_VALUE


def test_loops_end() -> None:
    def add() -> None:
        x = torch.zeros(())
        while True:
            x.add_(1)

    def register() -> None:
        holder = nn.Module()
        while True:
            holder.add_module("part", nn.Identity())

    with allowance(), pytest.raises(TooMuch, match="operations"):
        add()
    with allowance(), pytest.raises(TooMuch, match="modules"):
        register()
    with allowance() as counted:
        counted.seconds = 0
        with pytest.raises(TooMuch, match="within 0 s"):
            torch.zeros(())


def test_what_others_build_meanwhile_is_not_counted() -> None:
    with allowance() as counted:
        other = threading.Thread(target=lambda: nn.Sequential(*(nn.Linear(64, 64) for _ in range(50))))
        other.start()
        other.join()
    assert counted.operations == counted.modules == counted.bytes == 0
    before = counted.modules
    nn.Sequential(nn.Linear(2, 2))
    assert counted.modules == before  # nor what is built afterwards


def test_loading_takes_about_what_is_built(tmp_path: Path) -> None:
    """The count is that of the tensors: four bytes a value for a network of plain layers."""
    doors.saved(tmp_path)
    tree = read_json(tmp_path / "diffusion" / "model.json")
    with allowance() as counted:
        model = from_tree(tree)
    stored = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert stored <= counted.bytes <= 1.5 * stored + 4096


# ------------------------------------------------------------------------------------------- nothing is run


def test_every_saveable_class_is_where_files_may_name_it() -> None:
    """And nothing else of the package is imported because a file names it."""
    for module in pkgutil.walk_packages(diptych.__path__, "diptych."):
        if module.name.split(".")[1] in PARTS:
            importlib.import_module(module.name)
    own = [name for name in saving._known if name.startswith("diptych.")]
    assert len(own) > 50
    root = Path(diptych.__file__).parent
    sources = {path for path in root.rglob("*.py") if "\n@saveable\n" in path.read_text()}
    assert {path.relative_to(root).parts[0].removesuffix(".py") for path in sources} <= set(PARTS)


@pytest.mark.parametrize(
    "name",
    [
        "diptych.__main__:X",
        "diptych.cli.train:X",
        "diptych.catalog:X",
        "antigravity:X",
        "this:X",
        "diptych:X",
    ],
)
def test_naming_a_module_imports_nothing(name: str) -> None:
    module = name.partition(":")[0]
    held = sys.modules.pop(module, None) if module in ("antigravity", "this", "diptych.__main__") else None
    before = set(sys.modules)
    with pytest.raises(RunError, match="not a @saveable"):
        from_tree({"class": name})
    assert set(sys.modules) == before
    if held is not None:
        sys.modules[module] = held


def test_bytes_are_the_one_thing_that_a_pickle_makes() -> None:
    import pickle

    encode = {Name("_codecs", "encode")}
    assert read_pickle(io.BytesIO(pickle.dumps({"a": b"\xff\0"}, 2)), encode.__contains__) == {"a": b"\xff\0"}
    other = b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0rot13\x86R."
    with pytest.raises(ConvertError, match="not latin1"):
        read_pickle(io.BytesIO(other), encode.__contains__)


@pytest.mark.parametrize(("key", "fits"), [(2**63 - 1, True), (-(2**63), True), (2**63, False)])
def test_keys_have_64_bits(key: int, fits: bool) -> None:
    data = b"\x80\x02}\x8a\x09" + key.to_bytes(9, "little", signed=True) + b"Ns."
    if fits:
        assert read_pickle(io.BytesIO(data), set[Name]().__contains__) == {key: None}
        return
    with pytest.raises(ConvertError, match="a key beyond 64 bits"):
        read_pickle(io.BytesIO(data), set[Name]().__contains__)


def test_numbers_of_one_hash_are_refused(tmp_path: Path) -> None:
    (tmp_path / "network.pkl").write_bytes(bombs.alike(100))
    with pytest.raises(ConvertError, match="a key beyond 64 bits"):
        convert(tmp_path / "network.pkl")


# ------------------------------------------------------------------------------------------ readers' limits


def test_json_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.system.files.MAX_JSON_BYTES", 1000)
    (tmp_path / "a.json").write_text('"' + "x" * 2_000_000 + '"')
    tracemalloc.start()
    with pytest.raises(RunError, match=r"a\.json cannot be read: it is longer than 1,000 bytes"):
        read_json(tmp_path / "a.json")
    assert tracemalloc.get_traced_memory()[1] < 500_000
    tracemalloc.stop()


def test_what_unpacks_to_too_much_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.system.files.UNPACKED_BYTES", 100_000)
    zeros = np.zeros((600, 32, 32), np.uint8)
    np.savez_compressed(tmp_path / "zeros.npz", images=zeros)
    assert unpacked_at_most(tmp_path / "zeros.npz") == 100_000
    with pytest.raises(DataError, match=r"zeros\.npz declares 614,528 bytes of arrays, more than 100,000"):
        open_data(tmp_path / "zeros.npz")
    noise = np.random.default_rng(0).integers(0, 9, (600, 32, 32), np.uint8)
    np.savez_compressed(
        tmp_path / "noise.npz", images=noise
    )  # packs to a half: it is allowed fifty times that
    assert len(open_data(tmp_path / "noise.npz").train)


RECIPE = {"recipe": "r3gan", "arguments": {}, "data": {}, "settings": {"budget": "1m"}}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"recipe": 5}, "recipe is 5, not text"),
        ([RECIPE], "a list of 1, not an object"),
        ({}, "it has no recipe"),
        ({**RECIPE, "data": []}, "data is a list of 0, not an object"),
        ({**RECIPE, "data": {"source": 5}}, "data.source is 5"),
        ({**RECIPE, "settings": {"budget": None}}, "settings.budget is None"),
        ({**RECIPE, "images": 10**30}, "images is 1e[+]30"),
        ({**RECIPE, "probe": {"seconds": "x"}}, "probe.seconds is 'x'"),
    ],
)
def test_recipes_that_are_none(tree: object, said: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(tree))
    with pytest.raises(RunError, match=rf"recipe\.json cannot be read: .*{said}"):
        _ = open_run(tmp_path).recipe


@pytest.mark.parametrize("line", ["5", "[]", '{"images": "x"}', "{}", '{"images": 1, "exam": [1]}'])
def test_log_lines_that_are_none(line: str, tmp_path: Path) -> None:
    write_json(tmp_path / "recipe.json", RECIPE)
    (tmp_path / "log.jsonl").write_text(f'{{"images": 1}}\n{line}\n')
    with pytest.raises(RunError, match=r"line 2 of .*log\.jsonl cannot be read"):
        open_run(tmp_path).log()


def test_a_models_weights_say_how_large_it_may_be(tmp_path: Path) -> None:
    """The same description, refused beside small weights, is built beside large ones."""
    doors.saved(tmp_path)
    file = tmp_path / "gan" / "model.json"
    tree = json.loads(file.read_text())
    tree["network"]["latent"] = 2**20
    file.write_text(json.dumps(tree))
    with pytest.raises(RunError, match=r"asks for .* MiB or more, where its weights allow for 128"):
        load_model(tmp_path / "gan", "cpu")
    assert from_tree(tree, values=2**24, tensors=20).network.latent == 2**20
