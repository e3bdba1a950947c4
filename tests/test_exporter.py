"""Exported graphs in onnxruntime beside the models they came from."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import diptych
from diptych import exporter
from diptych.adversarial.latent import LatentModel, LatentOptions
from diptych.diffusion.classifier import NoisyClassifier
from diptych.diffusion.denoiser import EDMDenoiser, ScheduleDenoiser
from diptych.diffusion.guidance import ClassifierGuide
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.samplers import SAMPLERS
from diptych.diffusion.schedules import Discrete, Flow, Schedule
from diptych.errors import RunError, WrongUse
from diptych.exporter import Exported, Graph, export
from diptych.exporter.unrolled import parts_of, recorded
from diptych.model import Condition, Model, Noise, to_uint8
from diptych.networks.ncsnpp import DDPMPP, NCSNPP, NCSNpp
from diptych.networks.noisy_classifier import ADMClassifier
from diptych.networks.r3gan import R3Generator
from diptych.networks.unet import UNet
from diptych.runs import load_model, save_model
from diptych.saveable import rebuilt

SHAPE = (3, 10, 12)  # not square, and not a multiple of what the networks pad to


def loud(network: nn.Module) -> nn.Module:
    """Normal weights everywhere: a fresh network begins as the identity, and would hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    for p in network.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.3)
    return network


def diffusion(
    *, classes: int = 3, multipliers: tuple[int, ...] = (1, 2), **options: object
) -> DiffusionModel:
    network = loud(UNet(SHAPE, classes=classes, width=8, multipliers=multipliers, blocks=1))
    return DiffusionModel(EDMDenoiser(network), DiffusionOptions(**options)).eval()  # type: ignore[arg-type]


def gan(classes: int = 3, **options: float) -> LatentModel:
    network = loud(R3Generator(SHAPE, classes=classes, latent=16, width=8, largest=16, blocks=1))
    return LatentModel(network, LatentOptions(**options)).eval()


def song(form: dict[str, object]) -> DiffusionModel:
    network = loud(NCSNpp(SHAPE, classes=3, width=8, multipliers=(1, 2), blocks=1, **form))  # type: ignore
    return DiffusionModel(EDMDenoiser(network), DiffusionOptions(steps=2)).eval()


def consistency(steps: int) -> DiffusionModel:
    options = DiffusionOptions(steps=steps, sampler="consistency", grid="geometric", sigma_min=0.0084)
    return DiffusionModel(rebuilt(diffusion().denoiser, jumps=True), options).eval()


MODELS = {
    "gan": lambda: gan(),
    "gan without classes, truncated": lambda: gan(classes=0, truncation=0.7),
    "edm of 18 steps": lambda: diffusion(steps=18, multipliers=(1,)),
    "edm of 3 steps, guided": lambda: diffusion(steps=3, guidance=2.5),
    "euler of 3 steps without classes": lambda: diffusion(classes=0, steps=3, sampler="euler"),
    "edm of 2 steps, ncsn++": lambda: song(NCSNPP),
    "edm of 2 steps, ddpm++": lambda: song(DDPMPP),
    "consistency of 1 step": lambda: consistency(1),
    "consistency of 2 steps": lambda: consistency(2),
}


def by_hand(model: Model, path: Path, seeds: list[int]) -> tuple[np.ndarray, Tensor]:
    """Images of these seeds by the file and by the model, the file's noise drawn as `Noise` draws it."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    noise, feed = Noise(seeds), {}
    for given in session.get_inputs():
        if given.name.startswith("noise"):
            feed[given.name] = noise.normal(*given.shape[1:]).numpy()
        else:
            feed[given.name] = np.array([seed % model.classes for seed in seeds])
    label = model.labels_for(seeds)
    with torch.no_grad():
        return session.run(["image"], feed)[0], model(Noise(seeds), Condition(label=label))


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_model_at_any_batch_size(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path / "model.onnx"
    result = export(model, path, batches=(1, 3, 8))
    assert result.difference is not None
    assert result.difference < 1e-4
    assert result.bytes == path.stat().st_size
    assert result.outputs == {"image": "float32 (batch, 3, 10, 12)"}
    onnx.checker.check_model(path)
    image, expected = by_hand(model, path, [5, 11, 2, 7, 30])
    assert expected.std() > 0.05  # there is something to agree about
    assert np.abs(image - expected.numpy()).max() < 1e-4 * max(1, float(expected.abs().max()))
    assert not torch.equal(expected[0], expected[1])
    assert [module.forward for module in model.modules() if "forward" in vars(module)] == []
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[DiffusionModel, Exported]:
    """A saved and loaded guided model of two steps, exported."""
    folder = tmp_path_factory.mktemp("exported")
    save_model(diffusion(steps=2, guidance=1.5), folder)
    model = load_model(folder, "cpu")
    assert isinstance(model, DiffusionModel)
    return model, export(model, folder / "out" / "little.onnx", batches=(2,))


def test_says_what_it_is(exported: tuple[DiffusionModel, Exported]) -> None:
    _, result = exported
    assert result.inputs == {"noise": "float32 (batch, 3, 10, 12)", "label": "int64 (batch)"}
    file = onnx.load(result.path)
    about = {entry.key: entry.value for entry in file.metadata_props}
    assert (about["name"], about["model"], about["classes"]) == ("little", "DiffusionModel", "3")
    assert json.loads(about["image_shape"]) == [3, 10, 12]
    assert json.loads(about["class_names"]) == []  # nothing that was handed over says what they are called
    assert json.loads(about["options"])["guidance"] == 1.5
    assert (about["value_range"], about["diptych"]) == ("[-1, 1]", diptych.__version__)
    assert (file.producer_name, file.producer_version) == ("diptych", diptych.__version__)
    assert "little.onnx" in str(result)


def test_labels_and_noise_matter_and_a_wrong_label_is_an_error(
    exported: tuple[DiffusionModel, Exported],
) -> None:
    _, result = exported
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    noise = Noise([4, 4, 5]).normal(*SHAPE).numpy()
    same, other_label, other_noise = session.run(["image"], {"noise": noise, "label": np.array([0, 1, 0])})[0]
    assert np.abs(same - other_label).max() > 0.01
    assert np.abs(same - other_noise).max() > 0.01
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        session.run(["image"], {"noise": noise[:1], "label": np.array([99])})


def test_nothing_of_this_machine_is_in_the_file(exported: tuple[DiffusionModel, Exported]) -> None:
    _, result = exported
    content = result.path.read_bytes()
    for telling in (
        "site-packages",
        ".py",
        "stack_trace",
        str(Path(diptych.__file__).parent),
        str(Path.home()),
    ):
        assert telling.encode() not in content
    file = onnx.load(result.path)
    assert not file.functions
    assert not [node for node in file.graph.node if len(node.metadata_props) or node.doc_string]
    assert {entry.domain for entry in file.opset_import} == {""}


def test_weights_are_there_once(exported: tuple[DiffusionModel, Exported]) -> None:
    model, result = exported
    file = onnx.load(result.path)
    weights = sum(p.numel() for p in model.parameters())
    held = sum(int(np.prod(tensor.dims)) for tensor in file.graph.initializer)
    assert weights * 0.98 < held < weights + 2000  # constants besides; three evaluations share one copy


def test_uint8(tmp_path: Path) -> None:
    model = gan()
    result = export(model, tmp_path / "model.onnx", uint8=True)
    assert result.outputs == {"image": "uint8 (batch, 3, 10, 12)"}
    image, expected = by_hand(model, result.path, [1, 2, 3])
    assert image.dtype == np.uint8
    off = np.abs(image.astype(int) - to_uint8(expected).numpy().astype(int))
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01


def test_a_failing_check_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an older export")
    monkeypatch.setattr(exporter, "TOLERANCE", 0.0)
    with pytest.raises(RunError, match="differs from the model by"):
        export(gan(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"an older export"


def test_a_number_that_is_not_finite_fails_the_check(tmp_path: Path) -> None:
    model = gan()
    next(model.parameters()).data.fill_(torch.nan)
    with pytest.raises(RunError, match="nan"):
        export(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WrongUse, match="onnx, which is not installed") as caught:
        export(gan(), tmp_path / "model.onnx")
    assert "pip install 'diptych[export]'" in caught.value.hint


def test_conditions_that_are_no_labels(tmp_path: Path) -> None:
    class Editor(LatentModel):
        @property
        def wants(self) -> frozenset[str]:
            return frozenset({"image", "label"})

    model = gan()
    with pytest.raises(WrongUse, match="wants image cannot be exported"):
        export(Editor(model.network), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        ({"sampler": "heun", "steps": 2, "guidance": 3.0}, 0),
        (
            {
                "sampler": "dpm++2m",
                "steps": 3,
                "guidance": 9.0,
                "guidance_high": 30.0,
                "guidance_rescale": 0.7,
            },
            3,
        ),
    ],
)
def test_guidance_by_a_classifier(tmp_path: Path, options: dict[str, object], classes: int) -> None:
    """Its gradient is written out as operations: convolutions, pooling, norms and attention, backwards."""
    network = ADMClassifier(SHAPE, classes=3, width=8, multipliers=(1, 2), blocks=1, attention=(5,), head=8)
    guide = ClassifierGuide(NoisyClassifier(loud(network), Discrete("cosine")))
    bare = diffusion(classes=classes)
    led = DiffusionModel(bare.denoiser, DiffusionOptions(**options), guide).eval()  # type: ignore[arg-type]
    found = export(led, tmp_path / "model.onnx")
    assert found.inputs["label"] == "int64 (batch)"
    image, expected = by_hand(led, tmp_path / "model.onnx", [5, 11])
    assert np.abs(image - expected.numpy()).max() < 1e-4 * max(1, float(expected.abs().max()))
    with torch.no_grad():
        unled = led.using(guidance=0.0)(Noise([5, 11]), Condition(label=led.labels_for([5, 11])))
    assert (expected - unled).abs().max() > 0.02  # the classifier is heard


def test_guidance_within_an_interval_is_traced_as_often_as_everywhere(tmp_path: Path) -> None:
    """Guided steps ask for twice as many images: recorded apart, nothing was traced once."""
    options = DiffusionOptions(sampler="euler", steps=4, guidance=2.0, guidance_low=1.0, guidance_high=20.0)
    model = DiffusionModel(diffusion(classes=3).denoiser, options).eval()
    graph = Graph(model, uint8=False)
    with recorded(graph) as small:
        graph.example(2)
    with recorded(graph) as large:
        graph.example(3)
    network = next(name for name, module in graph.named_modules() if module is model.networks()[0])
    assert [part.module for part in parts_of(graph, small, large)] == [model.networks()[0]]
    assert len(small[network]) == 4
    export(model, tmp_path / "model.onnx")  # is checked against the model


def test_a_guide_that_leads_no_step_is_exported(tmp_path: Path) -> None:
    network = ADMClassifier(SHAPE, classes=3, width=8, multipliers=(1, 2), blocks=1, attention=(5,), head=8)
    guide = ClassifierGuide(NoisyClassifier(loud(network), Discrete("cosine")))
    nowhere = {"guidance": 3.0, "guidance_low": 200.0, "guidance_high": 300.0}
    options = DiffusionOptions(sampler="euler", steps=2, **nowhere)  # type: ignore[arg-type]
    led = DiffusionModel(diffusion(classes=0).denoiser, options, guide).eval()
    assert export(led, tmp_path / "model.onnx").difference is not None


def test_what_the_exporter_cannot_do_is_said(tmp_path: Path) -> None:
    class Branching(nn.Module):
        image_shape, classes, latent = (1, 4, 4), 0, 16

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
            return (z * self.scale if float(z.sum()) > 0 else z).view(-1, 1, 4, 4)

    with pytest.raises(RunError, match="cannot be exported"):
        export(LatentModel(Branching()), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


class Small(nn.Module):
    """One convolution that hears the level and the label: samplers are to be exported, not it."""

    image_shape, classes, attributes = (1, 4, 6), 3, 0

    def __init__(self, out_channels: int = 1) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, out_channels, 3, padding=1)
        self.level, self.label = nn.Linear(1, 4), nn.Embedding(4, 4)

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        heard = self.level(level[:, None] / 10) + (0 if label is None else self.label(label))
        return self.last(torch.tanh(self.first(x) + heard[:, :, None, None]))  # type: ignore[no-any-return]


SMALL = loud(Small())


def schedule_denoiser(schedule: Schedule, target: str, told: str = "time") -> ScheduleDenoiser:
    return ScheduleDenoiser(SMALL, schedule, target, told)


DETERMINISTIC = [sampler.name for sampler in SAMPLERS.values() if sampler.deterministic]
SAMPLED = {
    **{
        name: lambda name=name: DiffusionModel(EDMDenoiser(SMALL), DiffusionOptions(steps=3, sampler=name))
        for name in DETERMINISTIC
    },
    "a discrete schedule": lambda: DiffusionModel(
        schedule_denoiser(Discrete("cosine"), "v"),
        DiffusionOptions(steps=3, sampler="euler", grid="trailing"),
    ),
    "a flow, thresholded": lambda: DiffusionModel(
        schedule_denoiser(Flow(), "flow", "level"),
        DiffusionOptions(steps=3, sampler="heun", grid="trailing", threshold=0.995),
    ),
    "eps, cut and guided": lambda: DiffusionModel(
        schedule_denoiser(Discrete("linear"), "eps"),
        DiffusionOptions(steps=3, sampler="euler", threshold=1.0, guidance=2.0, guidance_rescale=0.5),
    ),
    "guided within an interval, away from a class": lambda: DiffusionModel(
        EDMDenoiser(SMALL),
        DiffusionOptions(steps=3, guidance=1.7, guidance_low=0.1, guidance_high=2.0, negative=1),
    ),
    "two classes at once": lambda: DiffusionModel(
        EDMDenoiser(SMALL), DiffusionOptions(steps=3, compose="1:1.5,0:-0.5")
    ),
    "learned variances": lambda: DiffusionModel(
        ScheduleDenoiser(loud(Small(2)), Discrete("cosine"), "eps", learned_variance=True),
        DiffusionOptions(steps=3, sampler="ddpm", grid="trailing", variance="learned"),
    ),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_every_sampler_is_one_graph_of_any_batch_size(name: str) -> None:
    """As torch exports it; what onnxruntime makes of some is below."""
    graph = exporter.Graph(SAMPLED[name]().eval(), uint8=False).eval()
    example = graph.example(2)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), exporter.unrolled.quiet():
        program = torch.export.export(graph, example, dynamic_shapes=(tuple({0: batch} for _ in example),))
        for n in (1, 5):
            inputs = graph.example(n)
            expected = graph(*inputs)
            assert expected.std() > 0.05
            torch.testing.assert_close(program.module()(*inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["unipc3", "a flow, thresholded", "learned variances"])
def test_samplers_in_onnxruntime(name: str, tmp_path: Path) -> None:
    """Some of them, of the most different operations: each takes seconds. (All were checked once.)"""
    model = SAMPLED[name]().eval()
    result = export(model, tmp_path / "model.onnx", batches=(1,))
    image, expected = by_hand(model, result.path, [5, 11, 2, 7, 30])
    assert np.abs(image - expected.numpy()).max() < 1e-4 * max(1, float(expected.abs().max()))


def test_the_file_names_nobody_and_no_place(exported: tuple[DiffusionModel, Exported]) -> None:
    content = exported[1].path.read_bytes()
    for word in (str(Path.home()), str(Path.cwd()), str(exported[1].path.parent), socket.gethostname()):
        assert len(word) < 3 or word.encode() not in content
