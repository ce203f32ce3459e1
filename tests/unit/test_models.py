from __future__ import annotations

import functools
import hashlib
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import influence_core as ic
from influence_core.errors import InvalidInput
from influence_core.models import build, load_tensors, load_weights, save_tensors
from tests.helpers import net

ROOT = Path(__file__).parents[2]


class Bomb:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin", "model.safetensors"])
@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_code_in_a_pickle_is_not_run(tmp_path, name, way):
    proof, path = tmp_path / "proof", tmp_path / name
    holding = {"weight": torch.zeros(2), "bomb": Bomb(proof)}
    torch.save(holding, path) if way == "torch" else path.write_bytes(pickle.dumps(holding))
    with pytest.raises(InvalidInput, match=re.escape(str(path))):
        load_tensors(path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Bomb(proof)))
    assert proof.exists(), "the bomb would have gone off"


def test_a_whole_model_in_a_pickle_is_refused_with_the_way_out(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(InvalidInput, match=r"more than tensors.*not loaded.*save_file"):
        load_tensors(tmp_path / "model.pt")


def test_missing_file():
    with pytest.raises(InvalidInput, match=r"there is no file nowhere/model\.safetensors"):
        load_tensors("nowhere/model.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_a_truncated_safetensors_file_is_named(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    save_tensors(path, net().state_dict())
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(InvalidInput, match=r"model\.safetensors is no complete safetensors file.*copy it again"):
        load_tensors(path)


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.99])
def test_a_truncated_pt_file_is_named(tmp_path, kept):
    path = tmp_path / "model.pt"
    torch.save(net().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(InvalidInput, match=r"model\.pt"):
        load_tensors(path)


def test_random_bytes_never_get_past(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for i in range(50):
        path = tmp_path / f"{i}.pt"
        noise = torch.randint(0, 256, (200,), generator=generator, dtype=torch.uint8).numpy().tobytes()
        path.write_bytes(b"\x80\x02" + noise if i % 2 else noise)
        with pytest.raises(InvalidInput):
            load_tensors(path)


def test_tensors_come_back_bit_for_bit(tmp_path):
    tensors = {
        "a": torch.randn(3, 4, dtype=torch.float64),
        "b": torch.arange(5),
        "c": torch.tensor(1.5, dtype=torch.bfloat16),
        "d": torch.randn(4, 6).T,
    }
    save_tensors(tmp_path / "t.safetensors", tensors, {"k": "[1]"})
    torch.save(tensors, tmp_path / "t.pt")
    for name in ("t.safetensors", "t.pt"):
        loaded = load_tensors(tmp_path / name)
        assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in tensors.items())
    assert ic.models.read_facts(tmp_path / "t.safetensors", "k") == [1]
    assert ic.models.read_facts(tmp_path / "t.safetensors", "other") is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.pt", "t.safetensors"]


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_wrapped_state_dicts(tmp_path, key):
    state = net().state_dict()
    torch.save({key: state, "epoch": 3}, tmp_path / "m.pt")
    assert load_tensors(tmp_path / "m.pt").keys() == state.keys()


@pytest.mark.parametrize(
    ("held", "message"), [([1, 2], "holds a list"), ({"epoch": 3, "x": 1}, "a dict with epoch, x")]
)
def test_what_is_no_state_dict(tmp_path, held, message):
    torch.save(held, tmp_path / "m.pt")
    with pytest.raises(InvalidInput, match=message):
        load_tensors(tmp_path / "m.pt")


def states_equal(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "bin", "safetensors"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "model._orig_mod.module."]
)
def test_prefixes_are_dropped_from_files_of_every_kind(prefix, suffix, tmp_path):
    trained, fresh = net(seed=1), net(seed=2)
    state = {f"{prefix}{name}": tensor for name, tensor in trained.state_dict().items()}
    path = tmp_path / f"model.{suffix}"
    safetensors.torch.save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    assert load_weights(fresh, path) is fresh
    assert states_equal(trained, fresh)


class Holder(nn.Module):
    """A model whose own names begin with ``model.``."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def test_a_prefix_that_the_model_has_itself_stays():
    trained, fresh = Holder(model=nn.Linear(2, 2)), Holder(model=nn.Linear(2, 2))
    load_weights(fresh, trained.state_dict())
    assert states_equal(trained, fresh)
    load_weights(fresh, {f"model.{name}": tensor + 1 for name, tensor in trained.state_dict().items()})
    assert torch.equal(fresh.model.weight, trained.model.weight + 1)
    with pytest.raises(InvalidInput, match=r"missing model\.bias; not expected model\.other\. Build"):
        load_weights(fresh, {"module.model.weight": torch.ones(2, 2), "module.model.other": torch.ones(2)})


def test_a_prefix_of_some_names_stays():
    state = {f"module.{name}": tensor for name, tensor in net().state_dict().items()}
    state["4.bias"] = state.pop("module.4.bias")
    with pytest.raises(InvalidInput, match=r"not expected module\.0\.bias"):
        load_weights(net(), state)


def lightning(hyper_parameters) -> dict[str, object]:
    """A checkpoint as Lightning writes it: weights of ``self.model`` beside plain facts."""
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in net(seed=1).state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": None}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper_parameters,
    }


def test_a_checkpoint_of_lightning(tmp_path):
    path = tmp_path / "epoch=3-step=40.ckpt"
    torch.save(lightning({"width": 3, "name": "net"}), path)
    assert states_equal(load_weights(net(seed=2), path), net(seed=1))
    torch.save(lightning({"bomb": Bomb(tmp_path / "proof")}), path)
    with pytest.raises(InvalidInput, match=r"step=40\.ckpt is a pickle that holds more than tensors.*save_file"):
        load_weights(net(), path)
    assert not (tmp_path / "proof").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
def test_recorded_programs_are_refused_with_the_way_out(tmp_path):
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(2, 1, 4, 4)
    scripted, exported = torch.jit.trace(model, inputs), torch.export.export(model, (inputs,))
    scripted.save(tmp_path / "s.pt")
    torch.export.save(exported, tmp_path / "e.pt2")
    for name, kind, way in (("s.pt", "a TorchScript", r"jit\.load"), ("e.pt2", "an exported", r"export\.load")):
        with pytest.raises(InvalidInput, match=rf"{re.escape(name)} holds {kind} program, .*torch\.save\(torch\.{way}"):
            load_tensors(tmp_path / name)
    torch.save(torch.jit.load(tmp_path / "s.pt").state_dict(), tmp_path / "way.pt")
    assert states_equal(load_weights(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), tmp_path / "way.pt"), model)
    torch.save(torch.export.load(tmp_path / "e.pt2").state_dict, tmp_path / "way.pt")
    assert states_equal(load_weights(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), tmp_path / "way.pt"), model)
    data = torch.utils.data.TensorDataset(inputs, torch.tensor([0, 1]))
    for program, way in ((scripted, "traced or scripted"), (exported, "exported")):
        with pytest.raises(InvalidInput, match=rf"the model is a \w+, a recorded program .*Module that was {way}"):
            ic.Study(program, data, data)


def broken(**changes):
    state = {k: v.clone() for k, v in net().state_dict().items()} | changes
    return {k: v for k, v in state.items() if v is not None}


def number_in(shape, value):
    tensor = torch.zeros(shape, dtype=torch.float64)
    tensor[-1] = value
    return tensor


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (broken(**{"4.bias": None}), r"w\.pt do not fit the model Sequential: missing 4\.bias\. Build"),
        (broken(head=torch.zeros(3)), "not expected head"),
        (broken(**{"4.bias": torch.zeros(7)}), r"4\.bias has shape \(7,\), the model needs \(3,\)"),
        (broken(**{"4.bias": number_in(3, float("nan"))}), r"4\.bias in w\.pt has 1 of 3 values that are NaN"),
        (broken(**{"1.running_var": number_in(3, float("inf"))}), r"1\.running_var in w\.pt has 1 of 3"),
        ({}, "missing 0.bias, 0.weight, 1.bias, 1.num_batches_tracked and 5 more"),
    ],
)
def test_weights_that_do_not_fit(state, message):
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InvalidInput, match=message):
        load_weights(model, state, "w.pt")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_173_962), (34, 21_282_122)])
def test_cifar_resnet_has_the_parameters_of_the_known_networks(depth, parameters):
    with torch.device("meta"):
        model = build("cifar_resnet", depth=depth)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_cifar_resnet_halves_the_image_three_times():
    model = build("cifar_resnet", depth=10, width=4, channels=1, classes=3).eval()
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 3)
    assert model[:-3](torch.rand(2, 1, 32, 32)).shape == (2, 32, 4, 4)
    assert ic.models.architecture_of(model).arguments["depth"] == 10


def test_small_cnn_and_mlp():
    model = build("small_cnn", channels=3, classes=4, width=2)
    assert model(torch.zeros(2, 3, 9, 7)).shape == (2, 4)
    assert ic.models.architecture_of(model) == ("small_cnn", {"channels": 3, "classes": 4, "width": 2})
    assert sum(p.numel() for p in build("small_cnn").parameters()) == 14458
    logistic = build("mlp", inputs=12, classes=3, depth=0)
    assert [type(m).__name__ for m in logistic] == ["Flatten", "Linear"]
    assert ic.models.architecture_of(net()) is None


def test_torchvision_models_build_without_its_compiled_operators():
    model = build("torchvision:resnet18", num_classes=5).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert ic.models.architecture_of(model) == ("torchvision:resnet18", {"num_classes": 5})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet", {}, "no architecture 'resnet'. Known: cifar_resnet.*mlp.*small_cnn.*register"),
        ("torchvision:resnet19", {}, "torchvision has no classifier 'resnet19'"),
        ("torchvision:fasterrcnn_resnet50_fpn", {}, "no classifier"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "does not take the arguments"),
        ("mlp", {}, "'mlp' does not take the arguments"),
        ("mlp", {"inputs": 3, "classes": -1}, "does not take the arguments .*-1"),
        ("cifar_resnet", {"depth": 20}, "choose one of 10, 18, 34"),
        ("small_cnn", {"width": "wide"}, "does not take the arguments"),
        ("small_cnn", {"widht": 3}, "widht"),
    ],
)
def test_architecture_errors(name, arguments, message):
    with pytest.raises(InvalidInput, match=message):
        build(name, **arguments)


def test_registering_an_architecture(monkeypatch):
    from influence_core.models import architectures

    monkeypatch.setattr(architectures, "_BUILDERS", dict(architectures._BUILDERS))
    ic.models.register("mine")(functools.partial(nn.Linear, 4))
    assert "mine" in ic.models.names()
    assert build("mine", out_features=2).weight.shape == (2, 4)


def altered(**dtypes):
    return {k: v.to(dtypes.get(k.replace(".", "_"), v.dtype)) for k, v in net().state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex128])
def test_weights_of_another_kind_of_number_are_refused(dtype):
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InvalidInput, match=rf"4\.weight in w\.pt holds numbers of type {dtype}, the model has"):
        load_weights(model, altered(**{"4_weight": dtype}), "w.pt")
    with pytest.raises(InvalidInput, match=r"1\.num_batches_tracked in w\.pt holds numbers of type torch\.float32"):
        load_weights(model, altered(**{"1_num_batches_tracked": torch.float32}), "w.pt")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_may_change_where_nothing_is_lost(dtype):
    small = {k: v.to(dtype) if v.is_floating_point() else v.int() for k, v in net(1).state_dict().items()}
    wide, exact = net(2), net(3).to(dtype)
    load_weights(wide, small)
    load_weights(exact, {k: v.double() if v.is_floating_point() else v for k, v in small.items()})
    assert all(torch.equal(v.to(small[k].dtype), small[k]) for k, v in wide.state_dict().items())
    assert all(torch.equal(v.to(small[k].dtype), small[k]) for k, v in exact.state_dict().items())
    with pytest.raises(
        InvalidInput, match=r"is torch\.float64, and the model's torch\.\w+ would round it.*model\.to\("
    ):
        load_weights(net(4).to(dtype), net(1).state_dict())


def test_a_changed_tensor_file_is_named(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.arange(4.0), "b": torch.tensor([True, False])}, {"k": '{"x": 1}', "l": "[]"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(InvalidInput, match=r"t\.safetensors"):
            load_tensors(path, sealed=True)
    path.write_bytes(whole[:-1] + b"\x02")
    with pytest.raises(InvalidInput, match=r"was changed or damaged after it was written \(its checksum differs\)"):
        load_tensors(path)


def test_a_file_without_a_checksum_is_taken_where_none_is_asked_for(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "old.safetensors", {"k": "[3]"})
    assert load_tensors(tmp_path / "old.safetensors").keys() == {"a"}
    assert ic.models.read_facts(tmp_path / "old.safetensors", "k") == [3]
    with pytest.raises(InvalidInput, match=r"old\.safetensors carries no checksum.*make it anew"):
        load_tensors(tmp_path / "old.safetensors", sealed=True)


def test_the_same_tensors_are_the_same_file(tmp_path):
    for name in ("a", "b"):
        save_tensors(tmp_path / name, {"x": torch.ones(3), "y": torch.zeros(2)}, {"k": "1", "l": "2", "m": "3"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", ["none/t.safetensors", "x\ud800.safetensors", "x" * 300])
def test_a_tensor_file_that_cannot_be_written(tmp_path, name):
    with pytest.raises(InvalidInput, match=r"cannot be written.*Nothing was changed"):
        save_tensors(tmp_path / name, {"a": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_what_the_package_of_the_format_writes(tmp_path):
    from influence_core.models.tensor_stream import _KINDS, stream_tensors

    base = torch.arange(12.0)
    tensors = {f"b ä{n}": torch.ones(n % 3, 2).to(kind) for n, kind in enumerate(_KINDS)}
    tensors |= {"a": base[2:5], "tied": base, "turned": base.view(3, 4).T, "number": torch.tensor(3), "none": base[:0]}
    tensors |= {f'a"\n{n}': torch.ones(2, dtype=kind) for n, kind in enumerate(_KINDS)}
    texts = {"k": 'ü "x"\n'}
    digest = stream_tensors(tmp_path / "a", tensors, texts)
    expected = safetensors.torch.save({n: t.contiguous().clone() for n, t in tensors.items()}, texts)
    assert (tmp_path / "a").read_bytes() == expected
    assert digest == hashlib.sha256(expected).hexdigest()
    for odd in (torch.ones(2, dtype=torch.complex128), torch.ones(2, 2).to_sparse()):
        with pytest.raises(InvalidInput, match=r"'odd' is a .* which safetensors files cannot hold: convert"):
            save_tensors(tmp_path / "b", {"odd": odd})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_writing_takes_no_second_copy_of_the_tensors(tmp_path):
    code = (
        "import resource, sys, torch; from influence_core.models import save_tensors\n"
        "big = {str(n): torch.ones(8 << 20) for n in range(4)}; most = lambda: resource.getrusage(0).ru_maxrss >> 10\n"
        "before = most(); save_tensors(sys.argv[1], big); print(most() - before)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "t")], cwd=ROOT, capture_output=True, text=True)
    assert int(ran.stdout) < 40, f"MiB beside the 128 of the tensors: {ran.stdout}{ran.stderr}"


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("none/t.safetensors", "make the folder first"),
        ("file/t.safetensors", "a part of the path is a file"),
        ("folder", "it is a folder; choose another name"),
        ("x" * 300, "choose a shorter name"),
    ],
)
def test_why_a_file_cannot_be_written(tmp_path, name, way_out):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match=way_out) as caught:
        save_tensors(tmp_path / name, {"a": torch.ones(2)})
    assert "make room" not in str(caught.value)
