"""Secrets, home directories, user and host: what is planted does not come out in anything that is written."""

from __future__ import annotations

import getpass
import json
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import made_up
from conftest import train_unprobed as train
from diptych import catalog, contenders, contest
from diptych.contenders import Entry, Rules
from diptych.contest import duel
from diptych.data import open_data
from diptych.data.images import DataSet
from diptych.runs import open_run, save_model
from diptych.scores import Estimate
from diptych.system import privacy
from diptych.system.files import write_json
from diptych.system.privacy import HIDDEN, at_home, clean, cleaned, command_line
from diptych.training.state import Settings
from diptych.training.track import Tracker

SECRETS = (  # made up, of the published shapes
    "hf_" + "aB3" * 11,
    "ghp_" + "aB3d" * 9,
    "github_pat_" + "aB3_" * 10,
    "glpat-" + "aB3d" * 5,
    "sk-" + "proj-" + "aB3d" * 8,
    "AKIA" + "ABCD1234" * 2,
    "xoxb-" + "1234567890-abc",
    "AIza" + "aB3d" * 9,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
    "dckr_pat_" + "aB3-" * 6,
    "ya29." + "a0Af_" * 6,
)


@pytest.fixture
def someone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Another user, at another machine, with a home directory."""
    home = tmp_path / "home" / "annemarie"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(getpass, "getuser", lambda: "annemarie")
    monkeypatch.setattr(socket, "gethostname", lambda: "workhorse.example.org")
    for known in (privacy._own_homes, privacy._own_names):
        known.cache_clear()
    yield home
    for known in (privacy._own_homes, privacy._own_names):
        known.cache_clear()


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "around", ["{}", "--token {} --n 5", "https://host/x?key={}", "'{}'", "a\n{}\nb", "={},"]
)
def test_tokens_are_known_by_their_shape(secret: str, around: str) -> None:
    told = clean(around.format(secret))
    assert secret not in told
    assert HIDDEN in told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HF_TOKEN=abc", "HF_TOKEN=***"),
        ("export DB_PASSWORD='a b' now", "export DB_PASSWORD=*** now"),
        ("AWS_SECRET_ACCESS_KEY=a/b+c next", "AWS_SECRET_ACCESS_KEY=*** next"),
        ("ENCRYPTION_KEY=12", "ENCRYPTION_KEY=***"),
        ('{"api_key": "zzz", "n": 5}', '{"api_key": ***, "n": 5}'),
        ("--hub-token abc --n 5", "--hub-token *** --n 5"),
        ("Authorization: Bearer abcdefgh1234", "Authorization: Bearer ***"),
        ("https://anna:pa:ss@host.org/set.zip", "https://***@host.org/set.zip"),
        ("s3://user:secret@bucket/x", "s3://***@bucket/x"),
        ("https://me:p@ss@host/x", "https://***@host/x"),
        ("https://me:p/ss@host/x", "https://***@host/x"),
        ("'https://me:p/s@s@host:80/x' next", "'https://***@host:80/x' next"),
        (
            "https://h/x?X-Amz-Date=1&X-Amz-Signature=a%2f9&n=5",
            "https://h/x?X-Amz-Date=1&X-Amz-Signature=***&n=5",
        ),
        ("https://h/x?se=1&sig=aB%3d", "https://h/x?se=1&sig=***"),
        ("https://h/x?auth=aB#top", "https://h/x?auth=***#top"),
        ("--wandb-key abc --n 5", "--wandb-key *** --n 5"),
        ("WANDB_KEY: abc", "WANDB_KEY: ***"),
        ("--auth me:abc --n 5", "--auth *** --n 5"),
        ("--basic-auth=abc", "--basic-auth=***"),
        ("/Users/joe Smith/data", "/Users/***/data"),
        ("train /Users/joe Smith/data --n 5", "train /Users/***/data --n 5"),
        ("train '/Users/joe smith/data'", "train '/Users/***/data'"),
        ("'/Users/joe smith'", "'/Users/***'"),
        ("C:\\Users\\Joe von Smith\\x", "C:\\Users\\***\\x"),
        ("/home/anna failed", "/home/*** failed"),
        ("cp /home/anna sets/x", "cp /home/*** sets/x"),
        ("train /home/anna --out runs/x", "train /home/*** --out runs/x"),
        ("~joe/x --data=~ann.b/y", "~***/x --data=~***/y"),
        ("C:\\Users\\Anna\\sets", "C:\\Users\\***\\sets"),
        ("/home/anna/sets/a b", "/home/***/sets/a b"),
        ("file:///Users/anna/x", "file:///Users/***/x"),
        ("/mnt/c/Users/jane/x", "/mnt/c/Users/***/x"),
        ("/export/home/jane/x", "/export/home/***/x"),
        ("/homes/jane", "/homes/***"),
        ("/Volumes/My Disk/Users/jane/x", "/Volumes/My Disk/Users/***/x"),
        ("--data=//home2/jane/x", "--data=//home2/***/x"),
        ("host:/export/home/jane/x", "host:/export/home/***/x"),
        ("file://server/home/jane/x", "file://server/home/***/x"),
        ("\\\\srv\\home\\jane\\x", "\\\\srv\\home\\***\\x"),
        ("\\\\wsl$\\Ubuntu\\home\\jane\\x", "\\\\wsl$\\Ubuntu\\home\\***\\x"),
        ("d:/users/jane/x", "d:/users/***/x"),
        ("'C:\\\\Users\\\\jane\\\\x'", "'C:\\\\Users\\\\***\\\\x'"),  # as repr writes it
        ("C:\\Documents and Settings\\jane\\x", "C:\\Documents and Settings\\***\\x"),
    ],
)
def test_what_is_hidden(text: str, expected: str) -> None:
    assert clean(text) == expected
    assert clean(clean(text)) == expected  # what is read back and written again stays


@pytest.mark.parametrize(
    "text",
    [
        "runs/flowers-r3gan/home/x",
        "diptych train edm sets/flowers --key width --seed 3",
        "/data/flowers",
        "the token is bad",
        "keyed=1, monkey=2",
        "https://host.org/set.zip",
        "https://host/users/jane",
        "http://localhost:8080/users/jane?x=1",
        "https://host/a/home/jane",
        "s3://bucket/home/jane",
        "//",
        "data/users/x",
        "./users/x ../home/x ~/home/x",
        "${DATA}/users/x %DATA%\\users\\x",
        "sets\\users\\x",
        "/data/sets/places/rooms/home/1.png",
        "/x/users/alice/ffhq",
        "/export/users/jane/x",
        "/nfs/a/home/jane/x",
        "/data/home/1.png",
        "/users/faces",
        "\\data\\home\\1.png",
        "d:/data/users/jane/x",
        "/data/homely/x /data/superusers/x",
        "at home / users / both",
        "/data/users",
        "git@host.org:a/b",
        "write to anna@host.org, a@b or x@y",
        "https://host:8080/@me/x https://host/@me https://[::1]:80/a@b",
        "see https://host/x: it is by me@host/x",
        "file://C:/sets/a@2x.png",
        "edm:x-key=3 --x-key 3 --key width {'key': 'a'}",
        "--no-auth digits --metric authpct",
        "https://host/x?key=width&signed=1&design=2",
        "the signature = of f; auth: none",
        "x ~half of a/b, ~5/6, HEAD~1/x, ~/sets https://host/~joe/x",
        "/data/Joe Smith/x",
        "did you mean r3gan?",
        "0.125 -3.5e-07 17",
        "0" * 64,
    ],
)
def test_what_stays(text: str) -> None:
    assert clean(text) == text


def test_ones_own_home_user_and_host(someone: Path) -> None:
    assert clean(f"--out {someone}/runs/a --data {someone}-2/x").startswith("--out ~/runs/a --data ")
    assert clean("killed on workhorse by annemarie") == "killed on host by user"
    assert clean("annemarie@workhorse.example.org:/data") == "user@host:/data"
    assert clean("sets/annemarie/x") == "sets/annemarie/x"  # a relative path leads where it did
    assert at_home(f"{someone}/runs") == "~/runs"
    assert Path(at_home(f"{someone}/runs")).expanduser() == someone / "runs"
    assert command_line(["diptych", f"{someone}/my set"]) == "diptych ~/'my set'"


def test_data_beside_homes_are_found_again(someone: Path, tmp_path: Path) -> None:
    """In a folder of users that is no system's home layout: what is recorded leads there."""
    place = tmp_path / "users" / "alice" / "faces.npz"
    place.parent.mkdir(parents=True)
    np.savez(place, images=np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8))
    write_json(tmp_path / "recipe.json", {"source": open_data(str(place)).card.source})
    recorded = json.loads((tmp_path / "recipe.json").read_text())["source"]
    assert len(open_data(recorded).train) == 6


def test_plain_data_is_cleaned_everywhere_in_it() -> None:
    tree = {"a": [("--token", f"x {SECRETS[0]}"), {"password": "p", "n": 5}], SECRETS[1]: None}
    told = cleaned(tree)
    assert told == {"a": [("--token", "x ***"), {"password": "***", "n": 5}], "***": None}


def test_command_lines_hide_what_follows_a_secrets_name() -> None:
    words = ["diptych", "train", "--hf-token", "a b", "--api-key=c d", "--n", "5", "x y", "--password"]
    assert command_line(words) == "diptych train --hf-token *** '--api-key=***' --n 5 'x y' --password"
    words = ["--auth", "a b", "--wandb-key=c", "--no-auth", "auth", "/Users/joe Smith/x"]
    assert command_line(words) == "--auth *** '--wandb-key=***' --no-auth auth '/Users/***/x'"


def test_nothing_planted_comes_out_of_a_duel(someone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole small duel in somebody's home directory, from a command and data with secrets in them."""
    monkeypatch.chdir(someone)
    out = someone / "duel"
    source = f"{someone}/set.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (160, 8, 8), dtype=np.uint8)
    np.savez(source, images=pixels, labels=np.arange(160) % 4)
    data: DataSet = open_data(source, held_out=40)
    entries = [Entry("gan", catalog.recipe("r3gan"), {"width": 8, "largest": 16, "blocks": 1, "batch": 16})]
    command = f"diptych duel {source} --hf-token {SECRETS[0]} --out {out} # annemarie at workhorse"
    rules = Rules(settings=Settings(budget="32-images", ticks=1, device="cpu"), n=40, exam=0)
    for module in (contest, contenders):
        monkeypatch.setattr(module, "PANEL", ("fid",))
    monkeypatch.setattr(
        contenders, "measure_speed", lambda model, dial: [{"latency_ms": Estimate.exact(1.0)}] * len(dial)
    )
    duel(data, entries, out, rules=rules, command=command)
    save_model(open_run(out / "gan").model(), out / "saved")
    planted = [os.fsencode(word) for word in (SECRETS[0], str(someone), "annemarie", "workhorse")]
    looked = 0
    for file in sorted(out.rglob("*")):
        if file.suffix in (".json", ".jsonl", ".html", ".md", ".safetensors"):
            content, looked = file.read_bytes(), looked + 1
            for word in planted:
                assert word not in content, f"{word!r} in {file.relative_to(out)}"
    assert looked >= 8
    recorded = json.loads((out / "gan" / "recipe.json").read_text())
    assert recorded["data"]["source"] == "~/set.npz"
    assert (
        open_data(recorded["data"]["source"], held_out=40).card.held_out_sha256 == data.card.held_out_sha256
    )
    duel(data, entries, out, rules=rules, command=command)  # what was cleaned is still the same run


def test_a_finished_run_does_not_name_the_host(someone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in its files nor in their names, TensorBoard's and the lock's among them; begun twice."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(platform, "node", lambda: "workhorse")
    run, gan, told = someone / "run", catalog.recipe("r3gan"), list[str]()

    def watch(clock: object, logs: object) -> None:
        told.append((run / ".lock").read_text())

    for budget in ("32-images", "48-images"):
        settings = Settings(budget=budget, ticks=2, device="cpu")
        train(gan, made_up(), run, arguments=gan.small, settings=settings, watch=watch, force=True)
    assert "workhorse" in told[-1]  # who holds it is named, as long as it is held
    assert (run / ".lock").read_bytes() == b""
    for file in run.rglob("*"):
        assert "workhorse" not in file.name
        assert not file.is_file() or b"workhorse" not in file.read_bytes(), file.name
    assert len(list((run / "tensorboard").iterdir())) == 2
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    shown = [event.step for event in events.Scalars(events.Tags()["scalars"][0])]
    assert shown == [line["images"] for line in open_run(run).log()]


def test_what_a_later_life_writes_hides_what_it_repeats(tmp_path: Path) -> None:
    """Lives within one second, the second of them begun after 16 images."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for life, images in enumerate([(8, 16, 24, 32), (16, 24), (32,)]):
        tracker = Tracker(tmp_path)
        for step in images:
            tracker.write({"images": step, "losses": {"gap": float(life)}, "exam": {}})
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("losses/gap")]
    assert shown == [(8, 0.0), (16, 1.0), (24, 1.0), (32, 2.0)]


def test_what_is_written_verbatim(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": SECRETS[0]})
    write_json(tmp_path / "b.json", {"x": SECRETS[0]}, verbatim=True)
    assert SECRETS[0] not in (tmp_path / "a.json").read_text()
    assert SECRETS[0] in (tmp_path / "b.json").read_text()
