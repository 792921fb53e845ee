"""Every layout of the field's sets is known by itself and read to the last file; every trap is named or avoided."""

import os
from pathlib import Path

import pytest

from mofme_jax.data.layouts import WEATHER_LABELS, Listing, find_layout, image_files
from mofme_jax.data.sets import LAYOUTS, layout_named
from tests.trees import TREES, WRAPPER, make_tree


def touch(root: Path, *names: str) -> Path:
    """Empty files: a layout opens no image."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root: Path) -> tuple[str, Listing]:
    layout, listing = find_layout(root, LAYOUTS)
    return layout.name, listing


def pairs(listing: Listing, split: str = "train") -> list[tuple[str, str]]:
    return [(listing.name(pair.input), listing.name(pair.target)) for pair in listing.splits[split]]


def names(listing: Listing, paths: list[Path]) -> list[str]:
    return [listing.name(path) for path in paths]


def nothing_amiss(listing: Listing) -> bool:
    return not (listing.lost or listing.absent or listing.unused or listing.doubled or listing.left_out)


def test_there_is_a_tree_of_every_layout():
    assert [name for name in TREES if "/" not in name] == [layout.name for layout in LAYOUTS]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("tree", TREES)
def test_a_layout_is_known_by_itself_and_read_to_the_last_file(tmp_path, tree, wrapped):
    expected = make_tree(tree, tmp_path, wrapped=wrapped)
    layout, listing = found(tmp_path)
    assert layout == expected.layout
    assert listing.root == expected.place
    assert nothing_amiss(listing)
    read = {
        split: [(listing.name(p.input) or None, listing.name(p.target) or None, p.weather) for p in examples]
        for split, examples in listing.splits.items()
    }
    assert read == expected.splits
    assert list(read) == list(expected.splits)
    assert {pair.weather for examples in listing.splits.values() for pair in examples} <= set(WEATHER_LABELS)


@pytest.mark.parametrize("tree", TREES)
def test_no_scene_is_in_two_splits(tmp_path, tree):
    make_tree(tree, tmp_path)
    _, listing = found(tmp_path)
    scenes = [{pair.scene for pair in examples} for examples in listing.splits.values()]
    assert sum(map(len, scenes)) == len(set.union(*scenes))


@pytest.mark.parametrize("tree", ["outdoor_rain", "rain_cityscapes", "foggy_cityscapes", "reside"])
def test_inputs_of_one_target_are_of_one_scene_and_others_are_not(tmp_path, tree):
    make_tree(tree, tmp_path)
    _, listing = found(tmp_path)
    for examples in listing.splits.values():
        together = {(pair.target, pair.scene) for pair in examples}
        assert len(together) == len({target for target, _ in together}) == len({scene for _, scene in together})
        assert len(together) < len(examples)


@pytest.mark.parametrize("tree", [tree for tree in TREES if tree.startswith(("reside", "rain13k"))])
def test_only_the_targets_of_resides_indoor_test_are_cut_to_their_middle(tmp_path, tree):
    make_tree(tree, tmp_path)
    _, listing = found(tmp_path)
    for split, examples in listing.splits.items():
        assert {pair.middle for pair in examples} == {split == "sots_indoor"}


@pytest.mark.parametrize("part", ["OTS", "SOTS"])
def test_the_folder_of_a_part_of_reside_is_known_too(tmp_path, part):
    expected = make_tree("reside", tmp_path)
    layout, listing = found(tmp_path / part)
    assert layout == "reside"
    assert set(listing.splits) == ({"train"} if part == "OTS" else set(expected.splits) - {"train"})


def test_hazy_images_in_parts_find_their_targets(tmp_path):
    touch(tmp_path, "OTS/haze/part1/0001_0.8_0.2.jpg", "OTS/haze/part2/0001_1_0.2.jpg", "OTS/clear/0001.jpg")
    _, listing = found(tmp_path)
    assert {target for _, target in pairs(listing)} == {"clear/0001.jpg"}
    assert len(listing.splits["train"]) == 2


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        ("outdoor/{hazy,clear}", "sots_outdoor"),
        ("indoor/{hazy,clear}", "sots_indoor"),
        ("SOTS/nyuhaze500/{hazy,gt}", "sots_indoor"),
        ("nyuhaze500/{hazy,gt}", "sots_indoor"),
        ("RESIDE-indoor/test/{hazy,GT}", "sots_indoor"),
        ("{hazy,gt}", "train"),
        ("val/{haze,clear}", "val"),
    ],
)
@pytest.mark.parametrize("input_name", ["0012_1", "0012_0.8_0.2"])
def test_reside_is_known_by_its_names(tmp_path, folders, split, input_name):
    start, names = folders[:-1].split("{")
    hazy, clear = names.split(",")
    touch(tmp_path / "reading", f"{start}{hazy}/{input_name}.png", f"{start}{clear}/0012.png")
    layout, listing = found(tmp_path / "reading")
    assert layout == "reside"
    assert [(pair.input.name, pair.target.name) for pair in listing.splits[split]] == [
        (f"{input_name}.png", "0012.png")
    ]
    assert nothing_amiss(listing)


@pytest.mark.parametrize(
    "other",
    [
        ("train/hazy/a.png", "train/gt/a.png"),
        ("train/hazy/1_1.png", "train/gt/1_1.png"),
        ("train/rainy/1_1.png", "train/gt/1_1.png"),  # in a folder of other weather
    ],
)
def test_hazy_pairs_of_other_names_or_beside_other_pairs_are_not_reside(tmp_path, other):
    touch(tmp_path, *other)
    assert found(tmp_path)[0] == "paired_folder"
    touch(tmp_path, "test/hazy/1_1.png", "test/gt/1.png")
    layout, listing = found(tmp_path)
    assert layout == "paired_folder"
    assert names(listing, listing.lost) == ["test/hazy/1_1.png"]


# scenes that are judged on


def test_scenes_of_test1_are_left_out_of_training(tmp_path):
    make_tree("outdoor_rain/divided", tmp_path)
    scenes = ("im_0301", "im_0325", "im_0350")  # the middle one is in no test here, and is Test1's all the same
    for scene in scenes:
        touch(tmp_path, f"train/input/{scene}_s80_a05.png", f"train/gt/{scene}.png")
    _, listing = found(tmp_path)
    assert names(listing, listing.left_out) == [f"train/input/{scene}_s80_a05.png" for scene in scenes]
    assert {pair.scene for pair in listing.splits["train"]} == {"im_0001", "im_0300", "im_0351"}
    assert {pair.scene for pair in listing.splits["test1"]} == {"im_0301", "im_0302", "im_0350"}


def test_a_training_scene_of_another_tests_number_is_left_out_where_that_is_judged_on(tmp_path):
    make_tree("outdoor_rain/divided", tmp_path)
    touch(tmp_path, "test1/input/im_0001_s90_a04.png", "test1/gt/im_0001.png")
    _, listing = found(tmp_path)
    assert names(listing, listing.left_out) == [f"train/input/im_0001_{h}.png" for h in ("s80_a04", "s85_a06")]


def test_heavy_rain_of_all_weather_is_left_out_where_its_scene_is_judged_on(tmp_path):
    make_tree("all_weather", tmp_path)
    leak = "im_0302_s100_a05.png"
    touch(tmp_path, f"train/input/{leak}", f"train/gt/{leak}")
    _, listing = found(tmp_path)
    assert names(listing, listing.left_out) == [f"train/input/{leak}"]
    assert len(listing.splits["train"]) == 12
    assert len(listing.splits["test_rain"]) == 3


def test_a_view_of_cityscapes_in_two_splits_is_left_out_of_training(tmp_path):
    expected = make_tree("foggy_cityscapes", tmp_path)
    view = "aachen/aachen_000000_000019_leftImg8bit"
    touch(tmp_path, f"leftImg8bit_foggy/val/{view}_foggy_beta_0.01.png", f"leftImg8bit/val/{view}.png")
    _, listing = found(tmp_path)
    assert len(listing.left_out) == 3
    assert len(listing.splits["train"]) == len(expected.splits["train"]) - 3


# files that do not fit together


def test_inputs_without_targets_are_lost_and_targets_without_inputs_unused(tmp_path):
    expected = make_tree("raindrop", tmp_path)
    (tmp_path / "train/gt/1_clean.png").unlink()
    touch(tmp_path, "test_a/gt/77_clean.png")
    layout, listing = found(tmp_path)
    assert layout == "raindrop"
    assert names(listing, listing.lost) == ["train/data/1_rain.png"]
    assert names(listing, listing.unused) == ["test_a/gt/77_clean.png"]
    assert len(listing.splits["train"]) == len(expected.splits["train"]) - 1


@pytest.mark.parametrize("tree", [tree for tree in TREES if not tree.startswith("photographs")])
def test_every_layout_names_what_lost_its_target(tmp_path, tree):
    expected = make_tree(tree, tmp_path)
    lost = next(example for example in expected.splits["train"])
    (expected.place / lost.target).unlink()
    layout, listing = found(tmp_path)
    assert layout == expected.layout
    inputs = [e.input for e in expected.splits["train"] if e.target == lost.target]
    assert names(listing, listing.lost) == inputs
    assert [name for name, _ in pairs(listing)] == [e.input for e in expected.splits["train"] if e.input not in inputs]


def test_two_targets_of_one_name_are_doubled(tmp_path):
    touch(tmp_path, "input/a.png", "gt/a.png", "gt/a.bmp")
    _, listing = found(tmp_path)
    assert [set(names(listing, two)) for two in listing.doubled] == [{"gt/a.png", "gt/a.bmp"}]


def test_two_inputs_of_one_name_are_doubled(tmp_path):
    touch(tmp_path, "input/a.png", "input/a.jpg", "input/b.png", "gt/a.png", "gt/b.png")
    _, listing = found(tmp_path)
    assert [names(listing, two) for two in listing.doubled] == [["input/a.jpg", "input/a.png"]]
    assert len(listing.splits["train"]) == 3


def test_two_real_images_of_one_name_share_no_target(tmp_path):
    make_tree("snow100k", tmp_path)
    touch(tmp_path, "realistic/snow_storm_00001.png")
    assert found(tmp_path)[1].doubled == []


@pytest.mark.parametrize("place", ["", "train/", "any/", "any/train/", "a/b/c/"])
@pytest.mark.parametrize("beside", [(), ("x/1.png", "y/1.png")])
def test_inputs_alone_are_never_clean_photographs(tmp_path, place, beside):
    touch(tmp_path, f"{place}input/1.png", f"{place}input/2.png", *beside)
    if beside and place == "a/b/c/":  # too deep for a set of pairs
        with pytest.raises(FileNotFoundError, match="holds no set"):
            found(tmp_path)
        return
    _, listing = found(tmp_path)
    assert listing.lost == [tmp_path / f"{place}input/{i}.png" for i in (1, 2)]
    assert not listing.splits


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("train/ITS_haze", "train/ITS_clear"),
        ("a/b/LQ", "c/d/HQ"),
        ("rain images", "Ground Truth"),
        ("hazy_train", "GT-train"),
        ("a/b/c/Input", "a/b/c/x"),
        ("a/b/c/x", "a/b/c/Target"),
    ],
)
def test_what_is_named_like_pairs_is_no_set_of_photographs_unless_insisted_on(tmp_path, one, other):
    touch(tmp_path, f"{one}/1.png", f"{other}/1.png", "z/1.png")
    with pytest.raises(
        FileNotFoundError, match=r"looks like pairs .*rename .*insist with --layout photographs"
    ) as error:
        found(tmp_path)
    assert any(name in str(error.value) for name in (f"({one}", f"({other}"))
    with pytest.raises(FileNotFoundError, match="looks like pairs"):
        find_layout(tmp_path, [layout_named("photographs")])
    _, listing = find_layout(tmp_path, [layout_named("photographs")], insist=True)
    assert tmp_path / one / "1.png" in [pair.target for pair in listing.splits["train"]]


@pytest.mark.parametrize(
    "name", ["rain", "Snow", "clean", "data", "in", "clear", "hazy", "rain_images", "a/train/data"]
)
def test_one_telling_name_alone_does_not_forbid_photographs(tmp_path, name):
    touch(tmp_path, f"{name}/1.png", "sun/2.png")
    assert found(tmp_path)[0] == "photographs"


def test_photographs_in_splits_are_known_whatever_the_case(tmp_path):
    touch(tmp_path, "Train/1.png", "Validation/2.png")
    assert list(found(tmp_path)[1].splits) == ["train", "validation"]


@pytest.mark.parametrize(
    "two", [("hazy", "GT"), ("Input", "GT"), ("LQ", "HQ"), ("Rain", "NoRain"), ("INPUTS", "Targets")]
)
@pytest.mark.parametrize("place", ["", "Train/", "RESIDE-OUT/train/"])
def test_pairs_are_known_whatever_the_case(tmp_path, two, place):
    touch(tmp_path, *(f"{place}{folder}/a.png" for folder in two))
    layout, listing = found(tmp_path)
    assert layout == "paired_folder"
    assert [(pair.input.parent.name, pair.target.parent.name) for pair in listing.splits["train"]] == [two]


@pytest.mark.parametrize("tree", [tree for tree in TREES if "transweather" not in tree])
def test_every_layout_is_known_in_capitals(tmp_path, tree):
    """All but the lists of files, which say the names."""
    expected = make_tree(tree, tmp_path)
    for folder in sorted((path for path in tmp_path.rglob("*") if path.is_dir()), reverse=True):
        folder.rename(folder.with_name(folder.name.upper()))
    layout, listing = found(tmp_path)
    assert layout == expected.layout
    assert nothing_amiss(listing)
    assert {split.lower(): len(examples) for split, examples in listing.splits.items()} == {
        split: len(examples) for split, examples in expected.splits.items()
    }


def test_the_folder_of_the_very_name_comes_before_another_case(tmp_path):
    touch(tmp_path, "Input/1.png", "input/2.png", "gt/2.png")
    assert pairs(found(tmp_path)[1]) == [("input/2.png", "gt/2.png")]


@pytest.mark.parametrize("name", ["im_0001_s80_a04.png", "z.png"])
def test_all_names_tell_outdoor_rain_and_not_the_first(tmp_path, name):
    for input_ in ("im_0002_s80_a04.png", name):
        touch(tmp_path, f"train/input/{input_}", f"train/gt/{input_}")
    assert found(tmp_path)[0] == ("paired_folder" if name == "z.png" else "outdoor_rain")


@pytest.mark.parametrize("other", ["val", "test_snow"])
def test_a_set_with_other_splits_than_those_of_outdoor_rain_is_another(tmp_path, other):
    for split, name in (("train", "im_0001_s80_a04.png"), ("val", "a.png"), (other, "b.png")):
        touch(tmp_path, f"{split}/input/{name}", f"{split}/gt/{name}")
    layout, listing = found(tmp_path)
    assert layout == "paired_folder"
    assert set(listing.splits) == {"train", "val", other}


def test_targets_alone_are_unused(tmp_path):
    touch(tmp_path, "gt/1.png")
    layout, listing = found(tmp_path)
    assert layout == "paired_folder"
    assert names(listing, listing.unused) == ["gt/1.png"]
    assert not listing.splits


def test_a_set_of_pairs_that_lies_too_deep_is_not_read_as_photographs(tmp_path):
    touch(tmp_path, *(f"{a}/{b}/{c}/1.png" for a in "ab" for b in ("c/d", "e/f") for c in ("hazy", "clear")))
    with pytest.raises(FileNotFoundError, match="holds no set"):
        found(tmp_path)


# lists of files


@pytest.fixture
def listed(tmp_path):
    make_tree("all_weather_transweather", tmp_path)
    return tmp_path / "data/train/allweather.txt"


def test_a_file_that_is_listed_and_not_there_is_absent(tmp_path, listed):
    with listed.open("a") as file:
        file.write("snow/input/gone_0.5.jpg\n\n  \n/fog/input/gone.png\n")
    _, listing = found(tmp_path)
    assert names(listing, listing.absent) == ["train/snow/input/gone_0.5.jpg", "train/fog/input/gone.png"]
    assert len(listing.splits["train"]) == 9


@pytest.mark.parametrize(
    "line", ["../../etc/input/a.png", "snow/input/../../a.png", "snow/a.png", "input", "snow/gt/input", "/"]
)
def test_a_line_that_names_no_input_below_the_list_is_an_error(tmp_path, listed, line):
    listed.write_text(f"snow/input/input_scene_00001.jpg\n{line}\n")
    if line == "/":  # nothing is named
        assert len(found(tmp_path)[1].splits["train"]) == 1
        return
    with pytest.raises(ValueError, match=r"allweather\.txt: the line .* is no path <set>/input/<name> below"):
        found(tmp_path)


def test_a_list_of_another_system_and_with_a_line_twice_is_read(tmp_path, listed):
    lines = listed.read_text().splitlines()
    listed.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, lines[0]]).encode())
    _, listing = found(tmp_path)
    assert len(listing.splits["train"]) == 9
    assert nothing_amiss(listing)


def test_a_listed_file_is_taken_and_not_another_of_its_stem(tmp_path, listed):
    input_ = "train/snow/input/input_scene_00001"
    touch(tmp_path / "data", f"{input_}.bmp", f"{input_}.png")
    _, listing = found(tmp_path)
    assert f"{input_}.jpg" in [name for name, _ in pairs(listing)]
    assert len(listing.splits["train"]) == 9
    assert nothing_amiss(listing)
    (tmp_path / "data" / f"{input_}.jpg").unlink()  # now nothing says which of the two is meant
    _, listing = found(tmp_path)
    assert [names(listing, two) for two in listing.doubled] == [[f"{input_}.bmp", f"{input_}.png"]]
    (tmp_path / "data" / f"{input_}.bmp").unlink()
    _, listing = found(tmp_path)
    assert f"{input_}.png" in [name for name, _ in pairs(listing)]
    assert nothing_amiss(listing)


@pytest.mark.parametrize("deep", ["a/b/c", "a/b/c/d"])
def test_lists_are_searched_for_three_folders_deep(tmp_path, listed, deep):
    (tmp_path / "set" / deep).parent.mkdir(parents=True)
    listed.parent.rename(tmp_path / "set" / deep)
    touch(tmp_path, "set/readme/notes.txt")
    if deep == "a/b/c":
        assert found(tmp_path / "set")[0] == "all_weather_transweather"
        return
    with pytest.raises(FileNotFoundError, match="holds no set"):
        found(tmp_path / "set")


def test_the_folder_of_a_list_may_be_the_root(tmp_path, listed):
    layout, listing = found(listed.parent)
    assert layout == "all_weather_transweather"
    assert len(listing.splits["train"]) == 9


# folders that hold no set


def test_a_folder_without_images_shows_the_layouts(tmp_path):
    touch(tmp_path, "readme.txt", ".hidden/a.png", "._a.png", "docs/notes.txt")
    with pytest.raises(FileNotFoundError) as error:
        found(tmp_path)
    assert str(tmp_path) in str(error.value)
    for layout in LAYOUTS:
        assert f"{layout.name}: {layout.title}\n{layout.tree}" in str(error.value)


def test_one_layout_that_is_asked_for_and_does_not_fit_is_shown(tmp_path):
    make_tree("raindrop", tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        find_layout(tmp_path, [layout_named("snow100k")])
    assert "Snow100K" in str(error.value)
    assert "RainDrop" not in str(error.value)


def test_no_folder_and_a_file_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        found(tmp_path / "nowhere")
    touch(tmp_path, "a.png")
    with pytest.raises(NotADirectoryError, match=r"a\.png is not a folder"):
        found(tmp_path / "a.png")


def test_an_unknown_layout_is_an_error_that_shows_those_there_are():
    with pytest.raises(ValueError, match=r"'rain' is unknown.*all_weather, .*photographs"):
        layout_named("rain")


def test_another_layout_than_the_first_that_fits_may_be_asked_for(tmp_path):
    make_tree("all_weather", tmp_path)
    _, listing = find_layout(tmp_path, [layout_named("paired_folder")])
    assert {pair.weather for pair in listing.splits["train"]} == {"unknown"}


@pytest.fixture
def closed(monkeypatch):
    """closed(name): folders of that name cannot be listed from then on, whoever asks."""
    scandir = os.scandir

    def close(name):
        def guarded(path):
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", guarded)

    return close


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ("paired_folder", "street 2.5"),
        ("paired_folder", "gt"),
        ("photographs", "alps"),
        ("snow100k", "Snow100K-M"),
        ("foggy_cityscapes", "aachen"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_named(tmp_path, closed, tree, name):
    make_tree(tree, tmp_path)
    closed(name)
    with pytest.raises(PermissionError, match=name):
        found(tmp_path)
    _, listing = find_layout(tmp_path, LAYOUTS, tolerant=True)
    assert listing.splits or listing.lost


def test_a_root_that_cannot_be_listed_is_named_to_the_tolerant_too(tmp_path, closed):
    make_tree("paired_folder", tmp_path / "root")
    closed("root")
    with pytest.raises(PermissionError, match="root"):
        find_layout(tmp_path / "root", LAYOUTS, tolerant=True)


@pytest.mark.parametrize("name", ["lost+found", ".Trash-0"])
def test_what_is_not_the_users_may_be_closed(tmp_path, closed, name):
    make_tree("photographs", tmp_path)
    (tmp_path / name).mkdir()
    closed(name)
    assert found(tmp_path)[0] == "photographs"


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path, "photos/a.png")
    assert found(Path("~/photos"))[1].root == tmp_path / "photos"


# names


@pytest.mark.parametrize(
    ("input_name", "target_name"),
    [
        ("étoile 雪.png", "étoile 雪.png"),
        ("two words.PNG", "two words.jpg"),
        ("a(1)[2]+$^.*?.png", "a(1)[2]+$^.*?.png"),
        ("v1.2.3_0.05.png", "v1.2.3_0.05.bmp"),
        ("heavy_rain.png", "heavy_clean.png"),
        ("heavy_rain.png", "heavy_rain.png"),
        ("_rain.png", "_clean.png"),
        ("rain-001.png", "norain-001.png"),
        ("rain/rain-1.png", "rain/norain-1.png"),
        ("rain/heavy_rain.png", "rain/heavy_clean.png"),
        ("input/gt/input.png", "input/gt/input.png"),
        ("folder.png/a.png", "folder.png/a.png"),
    ],
)
def test_strange_names_find_their_targets(tmp_path, input_name, target_name):
    touch(tmp_path, f"train/input/{input_name}", f"train/gt/{target_name}")
    touch(tmp_path, "train/input/other.png", "train/gt/other.png")
    layout, listing = found(tmp_path)
    assert layout == "paired_folder"
    assert nothing_amiss(listing)
    assert (f"train/input/{input_name}", f"train/gt/{target_name}") in pairs(listing)
    assert len(listing.splits["train"]) == 2


def test_a_name_is_not_completed_nor_shortened(tmp_path):
    """What nearly has an input's name is another image."""
    touch(tmp_path, "input/a.b.png", "input/a_rain_1.png", "input/A.png", "input/rain-1x2.png")
    touch(tmp_path, "gt/a.png", "gt/a_clean_1.png", "gt/a.b.c.png", "gt/norain-1.png")
    _, listing = found(tmp_path)
    assert len(listing.lost) == len(listing.unused) == 4


def test_an_inputs_own_name_comes_before_raindrops(tmp_path):
    touch(tmp_path, "input/x_rain.png", "gt/x_rain.png", "gt/x_clean.png")
    assert pairs(found(tmp_path)[1]) == [("input/x_rain.png", "gt/x_rain.png")]


def test_one_name_in_two_folders_is_two_pairs(tmp_path):
    touch(tmp_path, *(f"{part}/{city}/1.png" for part in ("input", "gt") for city in "ab"))
    assert pairs(found(tmp_path)[1]) == [(f"input/{city}/1.png", f"gt/{city}/1.png") for city in "ab"]


@pytest.mark.parametrize(
    ("folder", "split"), [("train", "train"), ("Training", "train"), ("TRAIN", "train"), ("test_fog", "test_fog")]
)
def test_a_folder_that_is_named_as_a_split_is_one_even_alone(tmp_path, folder, split):
    touch(tmp_path, f"{folder}/input/1.png", f"{folder}/gt/1.png")
    assert list(found(tmp_path)[1].splits) == [split]


@pytest.mark.parametrize("root", ["", "download/"])
def test_sets_in_splits_and_splits_in_sets_are_the_same(tmp_path, root):
    for place in ("train/fog", "test/fog", "dew/train", "dew/test"):
        touch(tmp_path, f"{root}{place}/input/1.png", f"{root}{place}/gt/1.png")
    _, listing = found(tmp_path)
    assert {split: [Path(i).parts[:2] for i, _ in pairs(listing, split)] for split in listing.splits} == {
        "train": [("dew", "train"), ("train", "fog")],
        "test": [("dew", "test"), ("test", "fog")],
    }


def test_photographs_beside_a_folder_of_photographs_are_read(tmp_path):
    touch(tmp_path, "a.png", "alps/b.png")
    assert pairs(found(tmp_path)[1]) == [("", "a.png"), ("", "alps/b.png")]


def test_a_folder_of_one_weathers_name_may_hold_photographs(tmp_path):
    touch(tmp_path, "snow/a.png", "sun/b.png")
    assert found(tmp_path)[0] == "photographs"


def test_parts_of_a_set_are_still_that_set(tmp_path):
    """Who has one archive of several has the set."""
    for tree, part in [
        ("snow100k", "test"),
        ("snow100k/archives", "media"),
        ("raindrop", "test_b"),
        ("raindrop/deeper", "train"),
        ("all_weather", "test_snow"),
        ("rain13k", "Test100"),
        ("outdoor_rain/divided", "test1"),
    ]:
        root = tmp_path / tree
        expected = make_tree(tree, root / "whole")
        (root / "part").mkdir()
        os.rename(root / "whole" / part, root / "part" / part)
        layout, listing = found(root / "part")
        assert layout == expected.layout, tree
        assert {split: expected.splits[split] for split in listing.splits}.keys() < expected.splits.keys(), tree
        for split, examples in listing.splits.items():
            assert len(examples) == len(expected.splits[split]), tree
        assert nothing_amiss(listing), tree


def test_a_wrapper_beside_other_folders_is_not_taken_for_the_set(tmp_path):
    make_tree("raindrop", tmp_path, wrapped=True)
    touch(tmp_path, "other/readme.txt")
    layout, listing = found(tmp_path)
    assert layout == "paired_folder"  # of which the splits are told by their names
    assert set(listing.splits) == {"train", "test_a", "test_b"}
    assert (tmp_path / WRAPPER / "train/data/0_rain.png") in [pair.input for pair in listing.splits["train"]]


def test_images_are_listed_sorted_to_the_bottom_and_through_links(tmp_path):
    place = touch(tmp_path / "here", "b.png", "a/1.JPG", "a.png", "notes.txt", ".hidden/c.png", "._a.png", "a/.d.png")
    touch(tmp_path / "elsewhere", "e.webp")
    (place / "link").symlink_to(tmp_path / "elsewhere")
    listed = [path.relative_to(place).as_posix() for path in image_files(place)]
    assert listed == ["a/1.JPG", "a.png", "b.png", "link/e.webp"]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_published_counts_are_of_splits_that_are_read(tmp_path, layout):
    make_tree(layout.name, tmp_path)
    _, listing = find_layout(tmp_path, [layout])
    assert set(layout.published) <= set(listing.splits)


def test_links_are_followed_but_not_in_circles(tmp_path):
    expected = make_tree("paired_folder", tmp_path / "set")
    inputs = expected.place / "train" / "input"
    (inputs / "again").symlink_to(expected.place, target_is_directory=True)
    (inputs / "itself").symlink_to(inputs, target_is_directory=True)
    real = tmp_path / "elsewhere"
    (expected.place / "test").rename(real)
    (expected.place / "test").symlink_to(real, target_is_directory=True)
    _, listing = find_layout(tmp_path / "set", LAYOUTS)
    found = {split: [listing.name(pair.input) for pair in pairs] for split, pairs in listing.splits.items()}
    assert found == {split: [example.input for example in pairs] for split, pairs in expected.splits.items()}


def test_a_stray_file_does_not_hide_an_outdoor_rain_set(tmp_path):
    expected = make_tree("outdoor_rain/divided", tmp_path, scenes=8)
    first = expected.place / expected.splits["train"][0].input
    stray = first.with_name("holiday.png")
    stray.write_bytes(first.read_bytes())
    layout, listing = find_layout(tmp_path, LAYOUTS)
    assert layout.name == "outdoor_rain"
    assert listing.lost == [stray]


@pytest.mark.parametrize(
    ("write", "message"), [(os.mkfifo, "no regular file"), (lambda p: p.write_bytes(b"\xff\xfe"), "UTF-8")]
)
def test_a_list_that_is_no_text_is_named(tmp_path, write, message):
    write(tmp_path / "allweather.txt")
    with pytest.raises(ValueError, match=rf"allweather\.txt .*{message}"):
        find_layout(tmp_path, LAYOUTS)
