"""A recipe is a file: shown, read back, changed by key; what is not known is refused by name."""

import tomllib

import numpy as np
import pytest
from click.testing import CliRunner

from geouq.cli.train import command
from geouq.errors import InputError, ModelError
from geouq.learning.training.fit import FitOptions, train_model
from geouq.learning.training.freeze import freeze
from geouq.learning.training.recipe import find_recipe, read_recipe, recipe_names, write_recipe
from geouq.networks.architectures import sketch_network
from geouq.networks.model import Model, shipped_models
from tests.helpers import pairs

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
NARROW = ["arguments.widths=[4, 6]", "arguments.stem=1", "size=16", "batch=2", "training.every=2", "training.steps=3"]
NARROW += ["simulated=1", "bands=['VV','VH']"]


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_shown_reads_back_to_the_same(name):
    recipe = find_recipe(name)
    assert recipe.name == name and recipe.notes and recipe.description
    assert read_recipe(tomllib.loads(write_recipe(recipe))) == recipe
    shown = CliRunner().invoke(command, ["--recipe", name, "--show"])
    assert shown.exit_code == 0 and shown.output == write_recipe(recipe)


def test_every_shipped_model_has_a_recipe_of_its_network():
    for name in shipped_models():
        spec, recipe = Model.load(name).spec, find_recipe(name)
        assert (spec.bands, spec.units, spec.mean, spec.std) == (recipe.bands, recipe.units, recipe.mean, recipe.std)
        for key in ("widths", "stem"):
            assert spec.arguments[key] == recipe.arguments[key]
        assert spec.arguments["dropout"] == (dict(recipe.sampled) or recipe.arguments["dropout"])


def test_texts_of_any_kind_read_back(tmp_path):
    recipe = find_recipe("unet-16", ['notes="""a \\"quoted\\" \\\\n line\n\n\tand ü \\u007f"""', "clip=[-inf, 1e-7]"])
    assert "\n" in recipe.notes and read_recipe(tomllib.loads(write_recipe(recipe))) == recipe


def test_changes_by_key():
    recipe = find_recipe(
        "s1-water",
        ["training.rate=1e-4", "view = window", "sampled={head = 0.2, 'decoder.0' = 0.1}", "bands=['vv', 'vh']"],
    )
    assert (
        recipe.training.rate == 1e-4 and recipe.view == "window" and recipe.sampled == {"head": 0.2, "decoder.0": 0.1}
    )
    assert read_recipe(tomllib.loads(write_recipe(recipe))) == recipe
    assert recipe.training.steps == 1000 and recipe.bands == ("vv", "vh")
    assert find_recipe("s1-water", ["augmentation.paint=1"]).augmentation.paint == 1.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("colour=red", "no key colour: keys are name, architecture"),
        ("training.rat=1", "no key training.rat: the nearest is training.rate"),
        ("rate=1e-3", "no key rate: the nearest is training.rate"),
        ("trainig.rate=1e-3", "no key trainig: the nearest is training"),
        ("training.epoch=3", "no key training.epoch: the nearest is epochs"),
        ("optimizer=adam", "no key optimizer: the nearest is training.optimiser"),
        ("augmentation.blur=1", "no key augmentation.blur: keys are augmentation."),
        ("augment=brightness", "augment 'brightness' is none of none, turn"),
        ("architecture=resnet", "architecture 'resnet' is none of unet"),
        ("view=zoom", "view 'zoom'"),
        ("batch=many", "batch is 'many': it must be a whole number"),
        ("batch=true", "batch is True"),
        ("batch=0", "batch is 0"),
        ("training.rate=fast", "training.rate is 'fast': it must be a number"),
        ("training.loss=best", "'best' is none of bce"),
        ("training=3", "training is 3: it must be a table"),
        ("bands=VV", "bands is 'VV': it must be a list"),
        ("bands=['nir', 'NIR']", "it must be names that differ"),
        ("bands=[1]", "bands is 1: it must be text"),
        ("std=[0.0]", "std is"),
        ("augmentation.speckle=0.9", 'augmentation is set, and does nothing here: it is for augment = "water"'),
        ("arguments.classes=9", "arguments.classes is set, and the data decide it"),
        ("simulated=10", "simulated is set, and does nothing here"),
        ("balance=places", 'it is for view = "crop"'),
        ("training.steps=500", "training.steps is set, and does nothing here: it is for epochs = 0"),
        ("training.plateau=5", "it is for schedule = plateau"),
        ("training.draws=5", "it is for loss ssn"),
        ("rounds.confidence=0.5", "rounds is set, and does nothing here: it is for rounds.count"),
        ("teacher.weight=0.1", "it is for teacher.model"),
        ("units=dB", "units is dB: it must be left to the data, or mean, std and clip be given"),
        ("name.x=1", "name is a value"),
        ("name=a/b", "name is a/b: it must be a name that a file can have"),
        ("name=../a", "name is ../a"),
        ("name=''", "name is : it must be"),
        ("rate", "KEY=VALUE"),
        ("raters=['me']", "otsu, mndwi are known"),
        ("raters=['otsu']", 'raters are for augment "water"'),
        ("augment=water", "is for the bands VV, VH in dB"),
        ("size=2147483648", "size is 2147483648: it must be 8 to 8192"),
        ("batch=100000", "batch is 100000: it must be 1 or more, of"),
        ("simulated=1000000000", "simulated is"),
        ("training.rate=-1e308", "rate is -1e+308: it must be 0 or more"),
        ("training.rate=nan", "rate is nan"),
        ("training.decay=-1.0", "unet-16: training.decay is"),
        ("rounds.count=-1", "unet-16: rounds.count is -1: it must be 0 to 20"),
        ("training.factor=inf", "factor is"),
        ("training.average=1.0", "average is"),
        ("augmentation.paint=2.0", "paint is 2.0: it is a probability"),
        ("augmentation.gain_db=inf", "gain_db is"),
        ("augmentation.looks=[0.0, 1.0]", "looks is"),
        ("augmentation.zoom_range=[3.0, 0.75]", "the lower first"),
    ],
)
def test_what_is_not_known_is_named(change, says):
    with pytest.raises(InputError) as caught:
        find_recipe("unet-16", [change])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_argument_that_a_network_has_not_is_named():
    with pytest.raises(ModelError, match="arguments of its unet do not fit .it takes no 'width'"):
        recipe = find_recipe("unet-16", ["arguments.width=[4, 6]"])
        sketch_network("it", recipe.architecture, recipe.arguments)


def test_files_that_are_no_recipes_are_named(tmp_path):
    file = tmp_path / "my.toml"
    for text, says in (("name = ", "is no recipe in TOML"), ("name = 'x'", "a recipe has a key architecture")):
        file.write_text(text)
        with pytest.raises(InputError, match=says):
            find_recipe(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is no recipe"):
        find_recipe(file)
    with pytest.raises(InputError, match="no recipe 'absent'"):
        find_recipe("absent")


def test_a_file_of_ones_own_and_the_settings_beside_the_model_train_the_same(tmp_path):
    data = pairs(tmp_path / "data", ["a_1", "b_1", "c_1"], size=40)
    recipe = find_recipe("s1-water", NARROW)
    file = tmp_path / "my.toml"
    file.write_text(write_recipe(recipe))
    one = train_model(data, str(file), tmp_path / "one")
    again = train_model(data, str(tmp_path / "one" / "recipe.toml"), tmp_path / "two")
    assert one.read_bytes() == again.read_bytes()
    settled = find_recipe(tmp_path / "one" / "recipe.toml")
    assert settled.outlines == "labels" and settled.training.steps == 3  # no etci2021/ there
    assert Model.load(one).active_sites() == {"decoder.0": 0.2}  # all that last2 is of two levels
    assert "places held out: none" in Model.load(one).spec.training


def test_a_model_for_the_closed_form_by_one_key(tmp_path):
    data = pairs(tmp_path / "data", ["a_1", "b_1"], size=40)
    path = train_model(data, find_recipe("s1-water", [*NARROW, "sampled={head = 0.2}"]), tmp_path / "out")
    assert Model.load(path).active_sites() == {"head": 0.2}


@pytest.mark.parametrize("widths", ("[0, 4]", "[4, -1]", "[4, 1.5]", "[65536, 65536]", "['a', 4]"))
def test_widths_that_make_no_network_are_refused(widths, tmp_path):
    data = pairs(tmp_path / "data", ["a_1", "b_1"], size=40)
    with pytest.raises(InputError, match=r"widths are|weights: at most|do not fit"):
        train_model(data, find_recipe("s1-water", [*NARROW, f"arguments.widths={widths}"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_starts_from_the_weights_of_a_model(tmp_path):
    data = pairs(tmp_path / "data", ["a_1", "b_1"], size=40)
    old = train_model(data, find_recipe("s1-water-small", NARROW), tmp_path / "old")
    still = [*NARROW, "training.steps=1", "training.rate=0.0", "training.decay=0.0", "training.average=0.0"]
    fine = train_model(data, find_recipe("s1-water", still), tmp_path / "fine", FitOptions(init=old))
    parameters = [dict(Model.load(path).network.named_parameters()) for path in (old, fine)]
    assert all(np.array_equal(v.detach(), parameters[1][k].detach()) for k, v in parameters[0].items())
    ssn = train_model(data, find_recipe("s1-water-ssn", still), tmp_path / "ssn", FitOptions(init=old))
    head = Model.load(ssn).network.network.head.weight
    assert np.array_equal(head[:1].detach(), parameters[0]["head.weight"].detach()) and len(head) == 12
    for change, says in (("arguments.widths=[4, 8]", "does not fit"), ("mean=[0.0, 0.0]", "its mean are")):
        with pytest.raises(InputError, match=says):
            train_model(data, find_recipe("s1-water", [*still, change]), tmp_path / "x", FitOptions(init=old))
    with pytest.raises(ModelError):
        train_model(data, find_recipe("s1-water", still), tmp_path / "x", FitOptions(init="absent"))
    assert not (tmp_path / "x").exists()


def test_a_frozen_encoder_stays_to_the_bit_and_the_rest_learns(tmp_path):
    data = pairs(tmp_path / "data", ["a_1", "b_1"], size=40)
    old = train_model(data, find_recipe("s1-water", NARROW), tmp_path / "old")
    frozen = find_recipe("s1-water", [*NARROW, "training.freeze=['encoder']", "training.steps=4", "training.every=2"])
    with pytest.raises(InputError, match="--init"):
        train_model(data, frozen, tmp_path / "x")
    fine = train_model(data, frozen, tmp_path / "fine", FitOptions(init=old))
    before, after = (Model.load(path).network.state_dict() for path in (old, fine))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved and not any(name.startswith("down.") for name in moved)
    assert {"head.weight", "up_blocks.0.conv1.weight", "up_blocks.0.bn1.running_mean"} <= moved
    one = find_recipe("s1-water", [*NARROW, "training.freeze=['down.0']", "training.steps=1"])
    path = train_model(data, one, tmp_path / "one", FitOptions(init=old))
    moved = {name for name in before if not np.array_equal(before[name], Model.load(path).network.state_dict()[name])}
    assert any(name.startswith("down.1.") for name in moved) and not any(name.startswith("down.0.") for name in moved)
    with pytest.raises(InputError, match="no such part: it has encoder, stem, down"):
        wrong = find_recipe("s1-water", [*NARROW, "training.freeze=['down.9']"])
        train_model(data, wrong, tmp_path / "y", FitOptions(init=old))


@pytest.mark.parametrize("name", sorted(set(recipe_names()) - {"ssn", "s1-water-ssn"}))
def test_every_network_has_an_encoder(name):
    recipe = find_recipe(name)
    network = sketch_network("it", recipe.architecture, {**recipe.arguments, "bands": 2, "classes": 1})
    freeze(network, ["encoder"])
    still = {name.partition(".")[0] for name, weight in network.named_parameters() if not weight.requires_grad}
    assert still <= set(network.encoder) and not any(part.startswith(("up", "dec", "head")) for part in still)
    assert (
        0.1
        < sum(w.numel() for w in network.parameters() if not w.requires_grad)
        / sum(w.numel() for w in network.parameters())
        < 0.99
    )


def test_the_command_needs_data_and_a_folder_or_show(tmp_path):
    done = CliRunner().invoke(command, ["--recipe", "unet-16"])
    assert done.exit_code == 2 and "DATA and --output" in done.output
    done = CliRunner().invoke(command, ["x", "--recipe", "unet-16", "-o", str(tmp_path), "--seed", "-1"])
    assert done.exit_code == 2 and "--seed" in done.output
