"""Where numbers come from: the command, versions, commit and hashes; and operations that are the same each
time."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

import pytest
import torch

import diptych
from conftest import made_up
from conftest import train_unprobed as train
from diptych import catalog
from diptych.adversarial.augment.warp import Scatter, spread
from diptych.errors import WrongUse
from diptych.report.facts import flat
from diptych.runs import save_model
from diptych.system import provenance
from diptych.system.device import WORKSPACE, deterministic
from diptych.system.provenance import command, commit, tensors_sha256, versions, weights_sha256
from diptych.training.claims import weights_read
from diptych.training.state import Settings

GAN = catalog.recipe("r3gan")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (
            ["/opt/bin/diptych", "train", "edm", "my set", "--seed", "1"],
            "diptych train edm 'my set' --seed 1",
        ),
        ([str(Path(diptych.__file__).parent / "__main__.py"), "sample", "a"], "diptych sample a"),
        (["tune.py", "--token", "hf_abcdefghijklmnop"], "python tune.py --token ***"),
        (["-c"], ""),
        ([""], ""),
    ],
)
def test_the_command_as_it_was_typed(argv: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert command() == told


def test_the_command_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(Path(diptych.__file__).parent / "__main__.py"), "train", "edm"])
    monkeypatch.setattr("diptych.system.parallel.world", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert command() == "torchrun --nproc-per-node 4 --nnodes 2 -m diptych train edm"


def test_commits_are_read_from_checkouts_alone(tmp_path: Path) -> None:
    package = tmp_path / "src" / "diptych"
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    package.mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert commit(package) == ""  # no commit yet
    (git / "packed-refs").write_text("# pack-refs\n" + "a" * 40 + " refs/heads/main\n")
    assert commit(package) == "a" * 40
    (git / "refs/heads/main").write_text("b" * 40 + "\n")
    assert commit(package) == "b" * 40  # what is loose is newer than what is packed
    (git / "HEAD").write_text("c" * 40 + "\n")
    assert commit(package) == "c" * 40
    assert commit(tmp_path / "lib" / "diptych") == ""  # installed, in a repository of somebody else's
    tree = tmp_path / "tree"
    (git / "worktrees/tree").mkdir(parents=True)
    (git / "worktrees/tree/HEAD").write_text("ref: refs/heads/main\n")
    (git / "worktrees/tree/commondir").write_text("../..\n")
    (tree / "src" / "diptych").mkdir(parents=True)
    (tree / ".git").write_text(f"gitdir: {git / 'worktrees/tree'}\n")
    assert commit(tree / "src" / "diptych") == "b" * 40


def test_what_is_hashed_is_the_whole_package() -> None:
    """And its commit is known where it lies in a checkout, wherever in it the module is."""
    assert (provenance.PACKAGE / "training/loop.py").is_file()
    whole = Path(diptych.__file__).parent
    assert whole == provenance.PACKAGE
    assert commit() == commit(whole)
    if (whole.parent.parent / ".git").exists():
        assert re.fullmatch("[0-9a-f]{40}", commit())


def test_the_hash_of_tensors_is_of_names_kinds_shapes_and_values() -> None:
    a = torch.arange(6.0).view(2, 3)
    whole = hashlib.sha256(b"w\0torch.float32\0(2, 3)\0" + a.numpy().tobytes()).hexdigest()
    assert tensors_sha256({"w": a}) == whole
    assert tensors_sha256({"w": a.t().contiguous().t()}) == whole  # as it lies does not matter
    both = {"w": a, "v": torch.zeros((), dtype=torch.bfloat16)}
    assert tensors_sha256(both) == tensors_sha256(dict(reversed(both.items())))
    others = [{"v": a}, {"w": a.view(3, 2)}, {"w": a.double()}, {"w": a + 1e-7}, both]
    assert len({whole, *map(tensors_sha256, others)}) == 6


def test_what_a_run_records(tmp_path: Path) -> None:
    model = GAN(made_up().train, **GAN.small).method.model
    save_model(model, tmp_path / "first")
    settings = Settings(budget="16-images", ticks=1, device="cpu", init=str(tmp_path / "first"))
    run = train(GAN, made_up(), tmp_path / "run", arguments=GAN.small, settings=settings)
    known = run.recipe
    assert known["versions"] == versions()
    assert known["versions"].keys() >= {"diptych", "torch", "numpy", "python", "source_sha256"}
    assert known["machine"]["threads"] == torch.get_num_threads()
    assert known["processes"] == 1
    weights = hashlib.sha256((tmp_path / "first/model.safetensors").read_bytes()).hexdigest()
    assert known["weights_sha256"] == {"init": weights}
    assert run.log()[-1]["weights_sha256"] == tensors_sha256(run.model().state_dict())
    assert ("weights sha256", f"{weights[:16]}…") in flat({"weights_sha256": weights})


def test_only_runs_are_hashed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert weights_sha256({"a": str(tmp_path / "other"), "b": "", "e": "no/where"}) == {}


def test_arguments_that_happen_to_be_called_as_a_run_are_no_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder for each method is natural, and adm has --sampler ddpm."""
    monkeypatch.chdir(tmp_path)
    for name in ("ddpm", "cpu", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    settings = Settings(device="cpu", init="teacher")
    adm, consistency = catalog.recipe("adm"), catalog.recipe("consistency")
    assert adm.defaults["sampler"] == "ddpm"
    expected = hashlib.sha256(b"teacher").hexdigest()
    assert weights_read(adm, adm.defaults, settings) == {"init": expected}
    asked = {**consistency.defaults, "teacher": "teacher"}
    assert weights_read(consistency, asked, Settings()) == {"teacher": expected}
    named = {name: spec.runs for name, spec in catalog.recipes().items() if spec.runs}
    assert named == {"consistency": ["teacher"], "flow": ["reflow"], "noisy-classifier": ["denoiser"]}


def test_a_model_at_home_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """recipe.json writes ~ for the home directory; a name that nobody has is no model."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model.safetensors").write_bytes(b"weights")
    found = weights_sha256({"teacher": "~/run", "other": "~nobody-of-this-name/run"})
    assert found == {"teacher": hashlib.sha256(b"weights").hexdigest()}


class TestDeterministic:
    def test_is_set_and_set_back(self) -> None:
        cudnn = torch.backends.cudnn
        before = cudnn.benchmark, cudnn.deterministic
        with deterministic(False):
            assert not torch.are_deterministic_algorithms_enabled()
        with deterministic():
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
            assert os.environ[WORKSPACE]
        assert not torch.are_deterministic_algorithms_enabled()
        assert (cudnn.benchmark, cudnn.deterministic) == before

    @pytest.mark.parametrize(
        ("message", "told"),
        [
            (
                "grid_sampler_2d_backward_cuda does not have a deterministic implementation, but",
                "grid_sampler",
            ),
            (f"... set the environment variable {WORKSPACE}=:16:8", "matrix products"),
        ],
    )
    def test_an_operation_without_such_a_form_is_named(self, message: str, told: str) -> None:
        with pytest.raises(WrongUse, match=told), deterministic():
            raise RuntimeError(message)
        assert not torch.are_deterministic_algorithms_enabled()

    def test_other_errors_are_let_through(self) -> None:
        with pytest.raises(RuntimeError, match="out of memory"), deterministic():
            raise RuntimeError("out of memory")

    def test_a_training_is_in_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[bool] = []
        settings = Settings(budget="16-images", ticks=1, device="cpu", deterministic=True)
        run = train(
            GAN,
            made_up(),
            tmp_path / "run",
            arguments=GAN.small,
            settings=settings,
            watch=lambda clock, logs: seen.append(torch.are_deterministic_algorithms_enabled()),
        )
        assert seen
        assert all(seen)
        assert run.recipe["settings"]["deterministic"]
        assert not torch.are_deterministic_algorithms_enabled()


def test_warping_has_a_form_whose_sums_are_in_order() -> None:
    """The same as torch's own gradient of grid_sample, beyond the edges too."""
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(3, 2, 7, 9, dtype=torch.float64, generator=draw)
    grid = torch.rand(3, 7, 9, 2, dtype=torch.float64, generator=draw) * 3 - 1.5
    size = torch.Size((3, 2, 5, 6))
    torch.testing.assert_close(spread(values, grid, size), Scatter.apply(values, grid, size))
