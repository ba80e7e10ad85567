from __future__ import annotations

from pathlib import Path

import pytest

from model.errors import DataError
from tests.training.photos import CLASSES, write_data, write_photo, write_table
from training.features.own_photos import read_own_photos


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def problems_of(root: Path) -> dict[str, list[str]]:
    with pytest.raises(DataError) as caught:
        read_own_photos(root)
    found: dict[str, list[str]] = {}
    for problem in caught.value.problems:
        found.setdefault(problem.pointer, []).append(problem.detail)
    return found


def write_lines(root: Path, *lines: str) -> None:
    (root / "classes.csv").write_text("\n".join(lines) + "\n")


def test_reads_a_sound_folder(root: Path) -> None:
    (root / "images" / "ape" / ".hidden").write_text("x")
    (root / "images" / "ape" / "Thumbs.db").write_text("x")
    (root / "images" / ".cache").mkdir()
    data = read_own_photos(root)
    assert [(c.id, c.name, c.kind, c.attributes) for c in data.classes] == [
        ("ape", "ape", "seen", (1.0, 0.0)),
        ("blue-whale", "Blue Whale", "seen", (0.0, 1.0)),
        ("fox", "fox", "unseen", (0.5, 0.25)),
    ]
    assert data.attribute_names == ("furry", "wet")
    assert data.warnings == ()
    expected = [
        (f"images/{name}/{i:02d}.{'jpg' if i % 2 else 'png'}", c) for c, name in enumerate(CLASSES) for i in range(4)
    ]
    assert list(data.images) == expected


def test_byte_order_mark_spaces_blank_lines_and_column_order(root: Path) -> None:
    text = "wet, split ,class,furry\r\n\r\n0,seen,ape,1\r\n 1 , seen,Blue Whale,0\r\n,,,\r\n0.25,unseen,fox,5e-1\r\n"
    (root / "classes.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    data = read_own_photos(root)
    assert data.attribute_names == ("wet", "furry")
    assert [c.attributes for c in data.classes] == [(0, 1), (1, 0), (0.25, 0.5)]


def test_what_a_bundle_would_not_take_is_named_where_it_stands(root: Path) -> None:
    write_lines(root, "class,split,furry,wet", f"{201 * 'a'},unseen,1,2", "wolf,seen,1e13,nan")
    found = problems_of(root)
    assert found["classes.csv line 2, column 'class'"] == ["expected 1 to 200 characters, got 201"]
    assert found["classes.csv line 3, column 'furry'"] == ["expected a number of at most 1e+12 in size, found 1e13"]
    assert "classes.csv line 3, column 'wet'" in found


def test_names_every_problem_at_once(root: Path) -> None:
    write_lines(
        root,
        "class,split,furry,wet",
        "ape,seen,1,",
        "Blue Whale,train,x,nan",
        "ape,seen,1,0",
        "wolf,seen,1,1",
        "fox,unseen,0.5",
        ",seen,1,1",
    )
    (root / "images" / "cat").mkdir()
    write_photo(root / "images" / "stray.png", 1)
    (root / "images" / "ape" / "more").mkdir()
    assert problems_of(root) == {
        "classes.csv line 2, column 'wet'": ["expected a finite number of class 'ape', found an empty cell"],
        "classes.csv line 3": ["expected split 'seen' or 'unseen', found 'train'"],
        "classes.csv line 3, column 'furry'": ["expected a finite number of class 'Blue Whale', found 'x'"],
        "classes.csv line 3, column 'wet'": ["expected a finite number of class 'Blue Whale', found 'nan'"],
        "classes.csv line 4": ["expected every class once, 'ape' is also in line 2"],
        "classes.csv line 5": ["expected images of the seen class 'wolf' in images/wolf, found none"],
        "classes.csv line 6": ["expected 4 cells as in line 1, found 3"],
        "classes.csv line 7": ["expected a class name, found an empty cell"],
        "images/ape/more": ["expected an image here, found a folder"],
        "images/cat": ["expected a row for this class in classes.csv, found none (0 images)"],
        "images/stray.png": ["expected a folder per class here, found a file"],
    }


@pytest.mark.parametrize(
    ("header", "pointer", "detail"),
    [
        ("name,split,furry", "classes.csv line 1", "expected a column 'class', found none"),
        ("class,kind,furry", "classes.csv line 1", "expected a column 'split', found none"),
        ("class,split", "classes.csv line 1", "expected at least one attribute column, found none"),
        ("class", "classes.csv line 1", "expected a column 'split', found none"),
        ("class,split,wet,wet", "classes.csv line 1", "expected every column once, found 'wet' 2 times"),
        ("class,split,,wet", "classes.csv line 1", "expected a name for every column, found none for column 3"),
        ("class;split;wet", "classes.csv line 1", "expected columns separated by commas"),
        ("", "classes.csv", "expected a header and one row per class, the file is empty"),
        ("class,split,furry", "classes.csv", "expected at least 2 classes with split 'seen', found 0"),
    ],
)
def test_faulty_header(root: Path, header: str, pointer: str, detail: str) -> None:
    write_lines(root, header)
    assert detail in problems_of(root)[pointer]


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e39", "1_0", "1;5", "two", "0x10"])
def test_values_that_are_no_finite_numbers(root: Path, cell: str) -> None:
    write_lines(root, "class,split,furry,wet", f"ape,seen,{cell},1", "Blue Whale,seen,0,1", "fox,unseen,1,0")
    assert list(problems_of(root)) == ["classes.csv line 2, column 'furry'"]


def test_table_that_is_no_text(root: Path) -> None:
    (root / "classes.csv").write_bytes(b"class,split,furry\nb\xe9ar,seen,1\n")
    assert problems_of(root) == {"classes.csv": ["expected UTF-8 text, byte 19 is something else"]}


def test_unclosed_quote(root: Path) -> None:
    write_lines(root, "class,split,furry", 'ape,seen,"1')
    (pointer,) = problems_of(root)
    assert pointer.startswith("classes.csv line ")


def test_names_that_give_the_same_id_get_a_suffix(root: Path) -> None:
    write_table(root, {**CLASSES, "blue-whale": ("seen", (1, 1))})
    write_photo(root / "images" / "blue-whale" / "a.png", 1)
    data = read_own_photos(root)
    assert [(c.id, c.name) for c in data.classes if "whale" in c.id] == [
        ("blue-whale", "Blue Whale"),
        ("blue-whale-2", "blue-whale"),
    ]
    assert {path.split("/")[1] for path, index in data.images if data.classes[index].id == "blue-whale-2"} == {
        "blue-whale"
    }
    assert "the class 'blue-whale' gets the id 'blue-whale-2', as another one has 'blue-whale'" in data.warnings


def test_two_folders_of_one_class(root: Path) -> None:
    write_photo(root / "images" / "blue-whale" / "a.png", 1)
    assert problems_of(root) == {
        "images/blue-whale": ["this folder and images/Blue Whale both belong to the class 'Blue Whale'"]
    }


def test_names_of_every_script_train(root: Path) -> None:
    names = ("猫 1", "犬 1", "گربه\u200cسان", "Cafe\u0301")
    write_table(root, {**CLASSES, **dict.fromkeys(names, ("unseen", (1, 1)))})
    write_photo(root / "images" / "Caf\u00e9" / "a.png", 1)
    data = read_own_photos(root)
    made = {c.name: c.id for c in data.classes[3:]}
    assert list(made) == ["猫 1", "犬 1", "گربه\u200cسان", "Café"]
    assert len(set(made.values())) == 4
    assert made["Café"] == "cafe"
    assert any(data.classes[index].name == "Café" for _, index in data.images)


def test_ids_and_descriptions_of_the_table(root: Path) -> None:
    write_lines(
        root,
        "class,split,furry,wet,id,description",
        "ape,seen,1,0,the-ape,Hairy.",
        "Blue Whale,seen,0,1",
        "fox,unseen,1,1,blue-whale,",
    )
    assert [(c.id, c.description) for c in read_own_photos(root).classes] == [
        ("the-ape", "Hairy."),
        ("blue-whale-2", ""),
        ("blue-whale", ""),
    ]
    write_lines(root, "class,split,furry,wet,id", "ape,seen,1,0,x", "Blue Whale,seen,0,1,x", "fox,unseen,1,1,A b")
    found = problems_of(root)
    assert found["classes.csv line 3"] == ["expected an id of its own, 'x' is also in line 2"]
    assert "found 'A b'" in found["classes.csv line 4, column 'id'"][0]


def test_a_table_as_spreadsheets_write_it(root: Path) -> None:
    plain = read_own_photos(root)
    text = (root / "classes.csv").read_text()
    (root / "classes.csv").write_text("".join(f"{line},,\n" for line in text.splitlines()) + ",,,,,\n\n,\n")
    assert read_own_photos(root) == plain
    write_lines(
        root, "class,split,furry,wet,,", *(f"{line},," for line in text.splitlines()[1:-1]), "fox,unseen,1,1,,x"
    )
    assert problems_of(root)["classes.csv line 1"] == ["expected a name for every column, found none for column 5, 6"]


def test_a_line_break_in_a_name_is_named(root: Path) -> None:
    write_lines(root, "class,split,furry,wet", "ape,seen,1,0", "Blue Whale,seen,0,1", '"fox\nhound",unseen,1,1')
    assert "U+000A" in problems_of(root)["classes.csv line 5, column 'class'"][0]


def test_what_desktops_leave_behind_is_no_image(root: Path) -> None:
    plain = read_own_photos(root)
    for folder in (root / "images", root / "images" / "ape"):
        for name in ("desktop.ini", "Thumbs.db", "ehthumbs.db", ".DS_Store"):
            (folder / name).write_text("x")
        for name in ("@eaDir", "__MACOSX"):
            (folder / name).mkdir()
            (folder / name / "a.png").write_text("x")
    assert read_own_photos(root) == plain


def test_the_same_photo_in_two_classes_is_a_warning(root: Path) -> None:
    photo = root / "images" / "ape" / "00.png"
    (root / "images" / "fox" / "copy.png").write_bytes(photo.read_bytes())
    (root / "images" / "ape" / "again.png").write_bytes(photo.read_bytes())
    (root / "images" / "ape" / "broken.png").symlink_to(root / "nowhere")
    assert read_own_photos(root).warnings == (
        "the same photo is in the classes 'ape', 'fox': images/ape/00.png, images/ape/again.png, images/fox/copy.png",
    )


def test_folder_is_found_by_the_id_of_its_name(root: Path) -> None:
    (root / "images" / "Blue Whale").rename(root / "images" / "blue_whale+")
    assert "images/blue_whale+" in problems_of(root)
    (root / "images" / "blue_whale+").rename(root / "images" / "blue-whale")
    assert sum(c == 1 for _, c in read_own_photos(root).images) == 4


def test_unseen_class_without_images_is_a_warning(root: Path) -> None:
    write_table(root, {**CLASSES, "wolf": ("unseen", (1, 1))})
    data = read_own_photos(root)
    assert data.warnings == ("the unseen class 'wolf' has no images, so it cannot be tested",)
    assert len(data.classes) == 4


def test_unlisted_folders_can_be_ignored(root: Path) -> None:
    write_table(root, {name: row for name, row in CLASSES.items() if name != "fox"})
    assert list(problems_of(root)) == ["images/fox"]
    data = read_own_photos(root, ignore_unlisted=True)
    assert not any("fox" in path for path, _ in data.images)
    assert data.warnings[0] == "images/fox is left out: classes.csv has no such class (4 images)"


def test_warns_of_attributes_that_tell_nothing(root: Path) -> None:
    write_table(root, {"ape": ("seen", (1, 0)), "Blue Whale": ("seen", (1, 1)), "fox": ("seen", (1, 1))})
    assert read_own_photos(root).warnings == (
        "no class is unseen, so nothing unseen can be tested",
        "the same value for every class, so of no use: furry",
        "'fox' has the very attributes of 'Blue Whale'; nothing can tell them apart by description",
    )


def test_folder_without_table_and_images(tmp_path: Path) -> None:
    assert set(problems_of(tmp_path)) == {str(tmp_path / "classes.csv"), str(tmp_path / "images")}


def test_odd_file_names_are_shown_escaped(root: Path) -> None:
    (root / "images" / "ev\x1b[31mil").mkdir()
    assert "images/ev\\x1b[31mil" in problems_of(root)
