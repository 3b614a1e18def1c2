"""The command line by the compiled plan against the command line by plain passes of the network: the same files."""

import json

import numpy as np
import pytest
import rasterio

from geouq.cli.main import _processor_quota, geouq
from geouq.sampling.dropout import Dropout, plain_logits
from tests.helpers import scene_values, small_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain")
    values = scene_values(150, 170)
    profile = {"driver": "GTiff", "height": 150, "width": 170, "count": 2, "dtype": "float32", "crs": "EPSG:32633"}
    transform = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(path / "scene.tif", "w", **profile, transform=transform, nodata=np.nan) as file:
        file.write(values)
    for name, stem in (("one", 1), ("two", 2)):
        small_model(stem=stem).with_spec(place_effect=0.8, temperature=0.9).save(path / f"{name}.safetensors")
    return path


def segment(folder, name, *options) -> dict[str, np.ndarray]:
    out = folder / f"{name}.tif"
    command = ["segment", str(folder / "scene.tif"), "-o", str(out), "--scale", "db", "--samples", "6", "--tile", "64"]
    geouq.main([*command, "--overwrite", "-q", *options], standalone_mode=False)
    with rasterio.open(out) as file:
        return dict(zip(file.descriptions, file.read().astype(float), strict=True))


@pytest.mark.parametrize("name", ["one", "two"])
def test_plain_passes_give_the_same_map(folder, monkeypatch, name):
    layers = "mask,probability,uncertainty,confidence,aleatoric,epistemic,std"
    model = ["--model", str(folder / f"{name}.safetensors"), "--layers", layers]
    ours = segment(folder, "plan", *model)

    def plain(sampler, window, numbers=None):
        x = window.seen_by(sampler.model, sampler.device)
        for number, logits in enumerate(plain_logits(sampler, x)):
            yield number, logits[:, *window.core.slices]

    monkeypatch.setattr(Dropout, "draw", plain)
    theirs = segment(folder, "plain", *model)
    exact = segment(folder, "exact", *model, "--float32")["probability"]
    for layer in layers.split(",")[1:]:
        difference = np.abs(ours[layer] - theirs[layer])
        assert difference.max() <= 1 and (difference > 0).mean() <= 1e-4, layer
    decided = np.abs(exact - 0.5) >= 1e-5
    assert (ours["mask"] == theirs["mask"])[decided | np.isnan(exact)].all() and decided.mean() > 0.9


def test_infinitely_many_samples_and_a_tolerance_from_the_command_line(folder, capsys):
    small_model(dropout={"head": 0.3}).save(folder / "head.safetensors")
    exact = segment(folder, "inf", "--model", str(folder / "head.safetensors"), "--samples", "inf")
    many = segment(folder, "many", "--model", str(folder / "head.safetensors"), "--samples", "200")
    known = many["mask"] != 255
    assert np.abs(exact["uncertainty"] - many["uncertainty"])[known].mean() < 3
    capsys.readouterr()
    segment(folder, "early", "--model", str(folder / "one.safetensors"), "--tolerance", "0.4", "--json")
    summary = json.loads(capsys.readouterr().out)
    assert summary["samples_saved_percent"] >= 30 and summary["area_m2_p05"] is None
    segment(folder, "bf", "--model", str(folder / "one.safetensors"), "--precision", "bfloat16")
    with rasterio.open(folder / "bf.tif") as file:
        assert file.tags()["GEOUQ_PRECISION"] == "bfloat16"


def test_threads_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    limits = {"200000 100000": 2, "50000 100000": 1, "max 100000": None, "800000 100000": None, "nonsense": None}
    for text, expected in limits.items():
        (tmp_path / "cpu.max").write_text(text)
        assert _processor_quota(str(tmp_path / "cpu.max")) == expected
    assert _processor_quota(str(tmp_path / "absent")) is None
