"""The recipes: each loads, describes its published model, and has the published figure that the page lists."""

import re

import pytest

from snn_perception.evaluation.protocol import named_protocol
from snn_perception.training.model import make_spec
from snn_perception.training.recipes import recipe_folder, recipes, summary_of
from snn_perception.training.run_file import load_run
from tests.paths import ROOT

FOLDER = ROOT / "recipes"
PUBLISHED = {
    name: path
    for name, path in recipes().items()
    if re.fullmatch(r"(st_vgg|rescat)_(ssd|classifier)_\d+_(gen1|ncars)", name)
}
MODELS = {
    f"{family}_{kind}_{n}" for family in ("st_vgg", "rescat") for kind in ("ssd", "classifier") for n in (16, 32, 64)
}


def page_figures() -> dict[str, list[str]]:
    """Return the cells of each row of the page's tables by the name of the row's first recipe."""
    rows = [line.split("|")[1:-1] for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| `")]
    return {re.match(r" `(\w+)`", row[0])[1]: [cell.strip() for cell in row] for row in rows}


def test_there_is_one_for_each_published_model():
    assert recipe_folder() == FOLDER
    assert {name.rpartition("_")[0] for name in PUBLISHED} == MODELS
    for model in MODELS:
        expected = {"gen1"} if "_ssd_" in model else {"gen1", "ncars"}
        assert {name.rpartition("_")[2] for name in PUBLISHED if name.startswith(f"{model}_")} == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_settings_are_the_published_ones(name, registry):
    run = load_run(PUBLISHED[name])
    train = run.train
    assert (train.lanes, train.epochs, train.lr, train.weight_decay, train.clip_norm) == (32, 50, 5e-3, 1e-2, 1.0)
    assert (train.betas, train.eps, train.schedule, train.schedule_by) == ((0.9, 0.999), 1e-8, "cosine", "epoch")
    assert (train.min_lr, train.warmup_epochs, train.ema, train.amp, train.freeze) == (0, 0, 0, "off", ())
    assert train.augment.is_off and run.data.filter == "none" and not run.data.train
    spec = make_spec(run.model, registry)
    assert name.startswith(run.model.preset)
    if "_ssd_" in name:
        assert (train.mode, train.update, train.grad_windows) == ("lanes", "window", 10)
        assert named_protocol(run.eval.protocol).name == "stvgg" and spec.window_us == 50_000
        assert spec.classes == ("car", "pedestrian") and spec.state_policy == "carry"
    else:
        assert train.mode == "classification" and spec.head.name == "classifier" and spec.window_us == 20_000
        classes = ("background", "car") if name.endswith("ncars") else ("car", "pedestrian")
        assert spec.classes == classes and run.data.val_split == ("test" if name.endswith("ncars") else "val")


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_target_is_the_figure_on_the_page_and_in_its_first_line(name):
    target = load_run(PUBLISHED[name]).target
    cells = page_figures()[name.replace("_gen1", "_ncars") if "classifier" in name else name]
    figures = cells[4:6] if "_ssd_" in name or name.endswith("ncars") else cells[6:8]
    figure = target["AP"] if "_ssd_" in name else target["accuracy"]
    assert figures == [f"{figure:.3f}", f"{target['sparsity_percent']:.2f} %"]
    assert cells[2:4] == [target["parameters"], target["dense_operations"]]
    assert summary_of(PUBLISHED[name]).endswith(f" {figure:.3f})") and "Cordone" in target["source"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_command_names_itself_and_its_data_set(name, registry):
    command = PUBLISHED[name].read_text().splitlines()[1]
    data_set = re.search(r"--data (\w+):PATH", command)[1]
    assert f"recipes/{name}.yaml " in command and command.endswith(f"-o runs/{name}")
    assert data_set in registry.names("dataset")
    crops = "ncars" if name.endswith("ncars") else "gen1_classification"
    assert data_set == ("gen1" if "_ssd_" in name else crops)


@pytest.mark.parametrize("name", sorted(set(recipes()) - set(PUBLISHED)))
def test_our_own_recipes_describe_a_model_that_fits_their_mode(name, registry):
    run = load_run(recipes()[name])
    assert not run.data.train and named_protocol(run.eval.protocol)
    carries = make_spec(run.model, registry).state_policy == "carry"
    assert run.train.mode == ("lanes" if carries else "windows")
