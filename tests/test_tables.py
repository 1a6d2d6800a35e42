"""Tables: read in every form to the same numbers, prepared by training rows alone, refused in one line."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from hcdc_jax.data import tables as tables_module
from hcdc_jax.data.table_columns import Columns, Words, read_columns
from hcdc_jax.data.table_preparation import Target, fit_preparation, from_arrays
from hcdc_jax.data.table_sets import generated_columns, table, tables
from hcdc_jax.data.tables import read_table
from tests.errors import error_of

NAN = float("nan")
PARTS = np.array(["train"] * 8 + ["val"] * 3 + ["test"] * 3)
NUMBERS = np.array([1.0, 4, NAN, 2, 8, 3, NAN, 5, 1000, NAN, 2, -1000, 7, NAN])
CITIES = np.array(
    ["Bern", "Chur", "Bern", "", "Chur", "Bern", "Thun", "Bern", "Genf", "Chur", "", "Bern", "Genf", "Genf"]
)
CLASSES = np.array(list("abababab") + list("abb") + list("baa"))
FRAME = {"size": NUMBERS, "city": CITIES, "kind": CLASSES, "part": PARTS}


def small(**changes):
    return read_table({**FRAME, **changes}, "kind", split_column="part")


def plain(count=30, **columns):
    """A table that reads without trouble, and columns more."""
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=count), "y": np.arange(count) % 2, **columns}


def written(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def csv_of(columns, delimiter=","):
    rows = zip(*columns.values(), strict=True)
    lines = [delimiter.join("" if value != value else str(value) for value in row) for row in rows]
    return "\n".join([delimiter.join(columns), *lines]) + "\n"


def test_the_example_of_the_module_runs():
    result = doctest.testmod(tables_module)
    assert result.attempted > 0
    assert result.failed == 0


# Preparation ----------------------------------------------------------------------------------------------------------


def test_preparation_is_that_of_scikit_learn_fitted_on_the_training_rows():
    data = small()
    train = PARTS == "train"
    imputer = SimpleImputer(strategy="median", add_indicator=True).fit(NUMBERS[train, None])
    filled = imputer.transform(NUMBERS[:, None])
    scaler = StandardScaler().fit(filled[train, :1])
    cities = np.where(CITIES == "", None, CITIES)[:, None]  # scikit-learn's encoder has a level of missing ones as well
    encoder = OneHotEncoder(sparse_output=False, handle_unknown="ignore").fit(cities[train])
    expected = np.hstack([scaler.transform(filled[:, :1]), filled[:, 1:], encoder.transform(cities)])
    for part in ("train", "val", "test"):
        found = getattr(data, part).inputs
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[part == PARTS], rtol=1e-6, atol=1e-6)
    assert data.feature_names == (
        "size", "size=(missing)", "city=Bern", "city=Chur", "city=Thun", "city=(missing)",
    )  # fmt: skip


def test_other_parts_do_not_enter_the_preparation():
    changed = NUMBERS.copy()
    changed[PARTS != "train"] *= -7
    data, other = small(), small(size=changed)
    assert data.preparation == other.preparation
    np.testing.assert_array_equal(data.train.inputs, other.train.inputs)
    assert not np.array_equal(data.test.inputs, other.test.inputs)
    assert data.checksum != other.checksum
    assert data.checksum == small().checksum


def test_what_is_decided_is_told():
    assert small().notes == (
        "target 'kind' is predicted as one of 2 classes: 'a', 'b'.",
        "8, 3 and 3 rows to train, validate and test are those that column 'part' calls so.",
        "column 'size': 2 missing numbers imputed by the median, and marked in a column.",
        "val part: column 'city': 1 row of categories unseen in training, such as 'Genf': inputs are 0.",
        "test part: column 'city': 2 rows of categories unseen in training, such as 'Genf': inputs are 0.",
    )


def test_columns_that_tell_nothing_are_dropped_and_told():
    count = 30
    data = read_table(
        plain(
            row=np.arange(5, 5 + count),
            empty=np.full(count, NAN),
            constant=np.full(count, 0.1),
            word=np.full(count, "same"),
            name=[f"person {i}" for i in range(count)],
            held=np.where(np.arange(count) % 3 == 0, 2.0, NAN),
            old=np.arange(count) ** 2,
        ),
        "y",
        ignore=["old"],
    )
    assert data.feature_names == ("x", "held=(missing)")
    assert {*data.preparation.dropped} == {"old", "row", "empty", "constant", "word", "name"}
    told = "\n".join(data.notes)
    for sentence in (
        "column 'row' is dropped: it counts the rows.",
        "column 'empty' is dropped: all its training values are missing.",
        "column 'constant' is dropped: it is 0.1 in every training row.",
        "column 'word' is dropped: it is 'same' in every training row.",
        "column 'name' is dropped: 18 different words in 18 rows are likely an identifier, a date or free text.",
        "column 'held' has the one value 2: only whether it is missing is an input.",
    ):
        assert sentence in told


def test_the_rarest_of_many_levels_share_an_input():
    words = [*"aaaabbbccd", *"efgh", "", "a", "b", "a", "c", "b"]
    column = read_columns({"w": words})
    preparation, notes = fit_preparation(column, Target("y", ("0", "1")), max_levels=3)
    assert preparation.feature_names == ("w=a", "w=b", "w=(other)", "w=(missing)")
    assert notes == ("column 'w': the 6 rarest of 8 categories are pooled.",)
    new = preparation.apply({"w": ["b", "c", "unheard", "", "a"]})
    np.testing.assert_array_equal(new, [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])


def test_many_levels_do_not_explode():
    codes = np.arange(60_000, dtype=np.int32) // 2
    column = Columns("the table", {"w": Words(codes, tuple(sorted(map(str, range(30_000)))))})
    preparation, _ = fit_preparation(column, Target("y", ("0", "1")))
    assert len(preparation.feature_names) == 100


def test_dates_and_texts_are_told():
    dates = np.array(["2020-01-31", "2021-06-01", "2022-07-01"], "datetime64[D]")[np.arange(30) % 3]
    texts = np.array(["a long text that somebody wrote about nothing", "b"])[np.arange(30) % 2]
    data = read_table(plain(day=dates, text=texts), "y")
    assert "day=2021-06-01" in data.feature_names
    assert any(note.startswith("column 'day' holds dates, read as categories") for note in data.notes)
    assert any(note.startswith("column 'text' holds long texts") for note in data.notes)


@pytest.mark.parametrize("target", ["kind", "size"])
def test_a_preparation_survives_a_file_without_pickles(tmp_path, target):
    columns = {**FRAME, "size": np.nan_to_num(NUMBERS)}
    preparation = read_table(columns, target, split_column="part").preparation
    np.savez(tmp_path / "kept.npz", **preparation.to_arrays())
    with np.load(tmp_path / "kept.npz", allow_pickle=False) as kept:
        again = from_arrays(kept)
    assert again == preparation
    np.testing.assert_array_equal(again.apply(columns), preparation.apply(columns))
    assert "'levels' is missing" in error_of(
        lambda: from_arrays({key: value for key, value in preparation.to_arrays().items() if key != "levels"})
    )


# Targets --------------------------------------------------------------------------------------------------------------


def test_classes_keep_their_names_in_the_order_of_numbers():
    data = read_table(plain(y=np.array([10, 2, 33])[np.arange(30) % 3]), "y")
    assert data.task == "classification"
    assert data.num_classes == 3
    assert data.preparation.target.classes == ("2", "10", "33")
    assert data.train.labels.dtype == np.int32
    assert data.preparation.invert_target(np.array([2, 0])).tolist() == ["33", "2"]
    assert data.preparation.labels(np.array([10.0, 33.0])).tolist() == [1, 2]
    assert "known are '2', '10', '33'" in error_of(lambda: data.preparation.labels(np.array([7.0])))


def test_amounts_are_standardised_by_the_training_rows():
    amounts = np.random.default_rng(1).normal(50, 9, 30)
    data = read_table(plain(y=amounts), "y")
    assert data.task == "regression"
    assert data.num_classes is None
    labels = [part.labels for part in (data.train, data.val, data.test)]
    np.testing.assert_allclose([labels[0].mean(), labels[0].std()], [0, 1], atol=1e-6)
    back = data.preparation.invert_target(np.concatenate(labels))
    np.testing.assert_allclose(np.sort(back), np.sort(amounts), rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (np.arange(42) % 3, "classification"),
        (np.arange(42) % 2 + 0.5, "classification"),
        (np.arange(42) % 21, "regression"),
        (np.arange(42) % 3 + 0.5, "regression"),
        (np.arange(42) % 2 == 0, "classification"),
        (np.arange(42) % 15, "regression"),
    ],
)
def test_the_task_is_read_off_the_target(values, task):
    assert read_table(plain(42, y=values), "y").task == task


def test_rows_without_target_are_left_out_and_told():
    target = np.where(np.arange(30) < 4, NAN, np.arange(30) % 2)
    data = read_table(plain(y=target), "y")
    assert sum(len(part.labels) for part in (data.train, data.val, data.test)) == 26
    assert "4 of 30 rows have no target 'y' and are left out." in data.notes


def test_parts_share_no_row_and_keep_the_proportions_of_classes():
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=100), "y": np.repeat(["a", "b", "c"], [50, 40, 10])}
    data, again, other = (read_table(columns, "y", seed=seed) for seed in (3, 3, 4))
    counts = [np.bincount(part.labels).tolist() for part in (data.train, data.val, data.test)]
    assert counts == [[30, 24, 6], [10, 8, 2], [10, 8, 2]]
    column = data.preparation.columns[0]
    back = np.concatenate([part.inputs[:, 0] for part in (data.train, data.val, data.test)]) * column.std + column.mean
    np.testing.assert_allclose(np.sort(back), np.sort(columns["x"]), atol=1e-5)
    assert data.checksum == again.checksum
    assert data.checksum != other.checksum
    assert read_table(columns, "y", seed=3, split=1).checksum != data.checksum
    thirds = read_table(columns, "y", fractions=(0.8, 0.1, 0.1))
    assert [len(part.labels) for part in (thirds.train, thirds.val, thirds.test)] == [80, 10, 10]


# Forms ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_files_hold_what_their_columns_hold(tmp_path, delimiter):
    text = csv_of(FRAME, delimiter)
    data = read_table(written(tmp_path, text), "kind", split_column="part")
    assert data.checksum == small().checksum
    assert data.name == "table"
    with_mark = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n"
    assert read_table(written(tmp_path, with_mark), "kind", split_column="part").checksum == data.checksum


def test_cells_are_read_as_they_are_meant(tmp_path):
    text = 'a,"b, with",c,d,e\n1e3,"x, ""y""",NA,true,01\n" 2", z ,?,false,02\n\n'
    text += '-0.5,"two\nlines",null,,n/a\n,NaN,3,True,10\n'
    columns = read_columns(written(tmp_path, text), words=["e"]).columns
    np.testing.assert_array_equal(columns["a"], [1000, 2, -0.5, NAN])
    np.testing.assert_array_equal(columns["c"], [NAN, NAN, NAN, 3])
    np.testing.assert_array_equal(columns["d"], [1, 0, NAN, 1])
    assert columns["b, with"].levels == ("two\nlines", 'x, "y"', "z")
    assert columns["b, with"].codes.tolist() == [1, 2, 0, -1]
    assert columns["e"].levels == ("01", "02", "10")
    assert columns["e"].codes.tolist() == [0, 1, -1, 2]
    marked = read_columns(written(tmp_path, text), missing=["-0.5", "3", "", "NA", "?", "null", "n/a", "nan"]).columns
    np.testing.assert_array_equal(marked["a"], [1000, 2, NAN, NAN])


def test_a_long_file_is_read_across_its_pieces(tmp_path):
    count = 10_001
    columns = {"x": np.arange(count) / 7, "w": np.array(["u", "v", ""])[np.arange(count) % 3]}
    read = read_columns(written(tmp_path, csv_of(columns))).columns
    np.testing.assert_array_equal(read["x"], columns["x"])
    np.testing.assert_array_equal(read["w"].codes, np.array([0, 1, -1])[np.arange(count) % 3])


def test_a_decimal_comma_is_read_where_commas_do_not_part_cells(tmp_path):
    table = read_columns(written(tmp_path, "a;b\n1,5;x\n;y\n-2;z\n"))
    np.testing.assert_array_equal(table.columns["a"], [1.5, NAN, -2])
    assert table.notes == ("column 'a': the comma in numbers such as '1,5' is read as a decimal point.",)


def test_numbers_that_are_categories_are_named(tmp_path):
    text = "zip,x,y\n" + "".join(f"{('0123', '3000', '8001')[i % 3]},{i / 7},{i % 2}\n" for i in range(30))
    data = read_table(written(tmp_path, text), "y", categories=["zip"])
    assert data.feature_names == ("zip=0123", "zip=3000", "zip=8001", "x")
    # A frame of numbers has lost the zero in front.
    new = data.preparation.apply({"zip": [8001, 123, 5], "x": [0.0, 0.0, 0.0]})
    np.testing.assert_array_equal(new[:, :3], [[0, 0, 1], [1, 0, 0], [0, 0, 0]])


def test_npz_files_hold_arrays(tmp_path):
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(40, 3)), np.repeat(["u", "v"], 20)
    np.savez(tmp_path / "a.npz", X=inputs, y=labels)
    np.savez(tmp_path / "b.npz", features=inputs, target=labels, feature_names=np.array(["p", "q", "r"]))
    data, named = read_table(tmp_path / "a.npz"), read_table(tmp_path / "b.npz", "target")
    assert data.feature_names == ("x0", "x1", "x2")
    assert named.feature_names == ("p", "q", "r")
    np.testing.assert_array_equal(data.train.inputs, named.train.inputs)
    np.savez(tmp_path / "c.npz", X=inputs)
    assert error_of(lambda: read_table(tmp_path / "c.npz")).endswith("and y (or target); it holds X")


def frame_of(library):
    frames = pytest.importorskip(library)
    columns = {**FRAME, "size": [None if value != value else value for value in NUMBERS.tolist()]}
    columns["city"] = [city or None for city in CITIES.tolist()]
    columns = {name: list(values) for name, values in columns.items()}
    return frames.table(columns) if library == "pyarrow" else frames.DataFrame(columns)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_frames_are_read_and_prepared(library):
    frame = frame_of(library)
    data = read_table(frame, "kind", split_column="part")
    assert data.checksum == small().checksum
    np.testing.assert_array_equal(data.preparation.apply(frame), small().preparation.apply(FRAME))


@pytest.mark.parametrize("coded", [False, True])
def test_parquet_files_hold_what_their_columns_hold(tmp_path, coded):
    frame = frame_of("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    if coded:  # as pandas writes categories; pyarrow gives another category for missing ones if it is not asked well
        frame = frame.set_column(1, "city", frame["city"].dictionary_encode())
    parquet.write_table(frame, tmp_path / "table.parquet")
    assert read_table(tmp_path / "table.parquet", "kind", split_column="part").checksum == small().checksum
    text = error_of(lambda: read_table(written(tmp_path, "no parquet", "bad.parquet"), "y"))
    assert "cannot be read as Parquet" in text


def test_parquet_without_a_library_says_what_to_install(tmp_path, monkeypatch):
    def nothing(name):
        raise ImportError(name)

    monkeypatch.setattr("hcdc_jax.data.table_columns.importlib.import_module", nothing)
    assert "pip install pyarrow" in error_of(lambda: read_table(written(tmp_path, "", "a.parquet"), "y"))


# New rows -------------------------------------------------------------------------------------------------------------


def test_new_rows_may_have_columns_in_any_order_and_more_of_them():
    data = small()
    row = {"new": ["?"], "city": ["Chur"], "size": ["5"], "kind": ["a"]}  # numbers may come as text
    inputs, notes = data.preparation.apply_and_tell(row)
    np.testing.assert_array_equal(inputs, data.train.inputs[7:8] * [1, 1, 0, 0, 0, 0] + [[0, 0, 0, 1, 0, 0]])
    assert notes == ("columns that the preparation does not know are ignored: 'new'",)


def test_gaps_that_training_did_not_have_are_filled_and_told():
    columns = plain(w=np.array(["u", "v"])[np.arange(30) // 2 % 2])
    data = read_table(columns, "y")
    inputs, notes = data.preparation.apply_and_tell({"x": [None, 0.0], "w": [None, "v"]})
    column = data.preparation.columns[0]
    np.testing.assert_allclose(inputs[0], [(column.median - column.mean) / column.std, 0, 0], rtol=1e-6)
    assert len(notes) == 2
    assert notes[0] == "column 'x': 1 missing number imputed by the median of training."


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"Size": [1.0], "city": ["Bern"]}, "the table: column 'size' is missing; did you mean 'Size'?"),
        ({"size": ["big"], "city": ["Bern"]}, "the table: 'big' in column 'size', row 1, is no number"),
        ({"size": [np.inf], "city": ["Bern"]}, "the table: column 'size' is infinite in row 1; leave the cell empty"),
        ({"size": [1e300], "city": ["Bern"]}, "the table: 1e+300 in column 'size', row 1, is too far from training"),
        ({"size": [1.0, 2.0], "city": ["Bern"]}, "the table: the columns differ in length"),
    ],
)
def test_new_rows_that_do_not_fit_are_refused(row, message):
    assert error_of(lambda: small().preparation.apply(row)).startswith(message)


# Bad input ------------------------------------------------------------------------------------------------------------

X = "x,y\n1,a\n2,b\n3,a\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; it needs a line with the names of the columns"),
        ("\n\n", "is empty; it needs a line"),
        ("x,y\n", "has no rows below the names of its columns"),
        ("1,2\n3,4\n", "the first line must name the columns, and it holds numbers (1, 2)"),
        ("x,y\n1,2\n3\n4,5\n", "line 3 has 1 cells, and the header names 2 columns (delimiter ',')"),
        ('x,y\n"1\n",2\n3,4,5\n', "line 4 has 3 cells, and the header names 2 columns"),
        ("x,x,y\n1,2,3\n", "two columns are called 'x'; rename one"),
        ("x,Y\n1,2\n", "unknown column 'y' as the target of"),
        ("x,y\n1,\n2,\n", "the target 'y' is missing in every row"),
        (X, "class 'a' of 'y' has 2 of the 3 rows that it needs, one for each part (2 such of 2)"),
        ("x,y\n1,a\n2,a\n3,a\n", "the target 'y' is 'a' in every training row: nothing to predict"),
        ("x,y\n1,a\ninf,b\n3,a\n", "column 'x' is infinite in row 2; leave the cell empty if it is missing"),
        ('x,y\n2,a\n"1,5",a\n3,a\n', "'1,5' in column 'x', row 2, may have a decimal comma or a mark of thousands"),
        ("x;y\n2,5;a\n1.234,5;a\n3;a\n", "'1.234,5' in column 'x', row 2, may have a decimal comma or a mark"),
        ("z,y\n1,a\n1,a\n1,a\n2,b\n2,b\n2,b\n".replace("2", "1"), "no column is left to predict 'y' from"),
        (b"x,y\n\xff\xfe,1\n", "is not UTF-8 (byte 4); save it as CSV in UTF-8"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_one_line(tmp_path, text, message):
    path = written(tmp_path, text)
    found = error_of(lambda: read_table(path, "y"))
    assert str(path) in found
    assert message in found


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {"target": None}, "the table: say which column is the target; its columns are x, y"),
        ({}, {"task": "clasification"}, "unknown task 'clasification'; did you mean 'classification'"),
        ({}, {"split_column": "prt"}, "unknown column 'prt' in the table"),
        ({}, {"ignore": ["y"]}, "the table: the columns of target and split cannot be ignored"),
        ({}, {"fractions": (0.5, 0.5, 0.5)}, "fractions must be three positive shares that sum to 1"),
        ({}, {"split": -1}, "split -1 does not exist"),
        ({}, {"max_levels": 1}, "max_levels must be at least 2, not 1"),
        ({"part": ["train"] * 29 + ["tests"]}, {"split_column": "part"}, "unknown part 'tests' ('tests') in column"),
        ({"part": ["train"] * 29 + ["test"]}, {"split_column": "part"}, "calls no row with a target 'val'"),
        ({"part": ["train"] * 29 + [""]}, {"split_column": "part"}, "1 rows with a target have no part in column"),
        (
            {"y": ["a", "b"] * 14 + ["a", "c"], "part": ["train"] * 28 + ["valid", "test"]},
            {"split_column": "part"},
            "class 'c' of 'y' has no training row; move one there",
        ),
        ({"y": [2.5] * 30}, {"task": "regression"}, "the target 'y' is 2.5 in every training row: nothing to predict"),
        ({"y": ["a", "b"] * 15}, {"task": "regression"}, "'a' in column 'y', row 1, is no number"),
        ({"y": [0.5 * i for i in range(30)]}, {"task": "classification"}, "class '0' of 'y' has 1 of the 3 rows"),
        ({"z": [[1, 2], [3]] * 15}, {}, "column 'z' holds a list in each cell"),
        ({"z": np.ones(30, complex)}, {}, "column 'z' holds complex numbers"),
        ({"z": np.ones((30, 2))}, {}, "column 'z' must have shape [rows], got [30, 2]"),
        ({"z": [1e300, -1e300] * 15}, {}, "the numbers of column 'z' are too large"),
        (
            {"z": [*(f"{i}.5" for i in range(29)), "abc"]},
            {"max_levels": 20},
            "'abc' in column 'z', row 30, is no number, as most of its values are",
        ),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_in_one_line(columns, options, message):
    if any(isinstance(value, list) for value in columns.get("z", [])):
        columns = {"z": np.array(columns["z"], object)}
    assert message in error_of(lambda: read_table(plain(**columns), **{"target": "y", **options}))


def test_what_is_no_table_is_refused(tmp_path):
    assert "no such file" in error_of(lambda: read_table(tmp_path / "none.csv", "y"))
    assert "is a folder" in error_of(lambda: read_table(tmp_path, "y"))
    assert "a data frame or a mapping, not int" in error_of(lambda: read_table(3, "y"))
    assert "has no rows" in error_of(lambda: read_table({"x": [], "y": []}, "y"))
    three = {"x": [1.0, 2.5], "y": [0.5, 7.0]}
    assert "2 rows with a target are too few" in error_of(lambda: read_table(three, "y", task="regression"))


# Sets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "inputs", "num_classes"),
    [("breast_cancer", 569, 30, 2), ("wine", 178, 13, 3), ("digits_table", 1797, 61, 10), ("diabetes", 442, 10, None)],
)
def test_sets_of_scikit_learn(name, rows, inputs, num_classes):
    data = table(name)
    assert data.name == name
    assert sum(len(part.labels) for part in (data.train, data.val, data.test)) == rows
    assert data.train.inputs.shape[1] == inputs
    assert data.num_classes == num_classes
    assert table(name, seed=1).checksum != data.checksum != table(name, split=1).checksum


def test_the_generated_table_follows_its_seed_and_can_be_learned():
    columns, again, other = generated_columns(3000), generated_columns(3000), generated_columns(3000, seed=1)
    for name, column in columns.items():
        for found, expected in zip(column, again[name], strict=True):
            np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(columns["number_1"], other["number_1"])
    data = read_table(columns, "target")
    assert data.num_classes == 3
    assert len(data.feature_names) == 20 + 3 + (2 + 3 + 5 + 8 + 12)
    assert np.bincount(data.train.labels).min() > 0.15 * len(data.train.labels)


def test_names_of_tables_are_known():
    assert [*tables()] == ["breast_cancer", "wine", "digits_table", "diabetes", "generated_table"]
    assert all(tables().values())
    assert "did you mean 'wine'?" in error_of(lambda: table("win"))
