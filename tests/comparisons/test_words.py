"""What differs between variants, in a line or two of a terminal."""

from rewardft.comparisons.words import MOST_GROUPS, WIDEST, differing, listed, shown


def test_each_option_is_said_where_it_differs_from_what_most_have():
    same = {"use": "blobs", "size": 80, "box": [0.7, 0.7], "grow": None, "mode": "dropped"}
    sections = {
        "a": same,
        "small": same | {"size": 20},
        "growing": same | {"grow": {"every": 20, "above": 1.0}},
        "told": same | {"mode": "given"},
        "told_too": same | {"mode": "given", "size": 40},
        "b": same,
    }
    assert differing(sections) == (
        "small: size 20 (others 80); told_too: size 40 (others 80); "
        "growing: grow {every: 20, above: 1.0} (others none); told, told_too: mode given (others dropped)"
    )
    assert differing({"a": same, "b": dict(same)}) == ""


def test_where_no_value_is_that_of_most_all_are_said():
    assert differing({"a": {"x": 1}, "b": {"x": 2}}) == "a: x 1; b: x 2"
    assert differing({"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 1}, "d": {"x": 2}}) == (
        "a, c: x 1; b, d: x 2"
    )


def test_options_of_another_component_are_not_missing_from_the_others():
    sections = {
        "a": {"use": "blobs", "size": 80},
        "b": {"use": "blobs", "size": 80},
        "c": {"use": "cubes", "grid": 12},
    }
    assert differing(sections) == "c: cubes (others blobs)"
    # One of the same component that leaves an option to its default is not silent about it.
    assert differing({"a": {"use": "blobs", "box": [1]}, "b": {"use": "blobs"}}) == (
        "a: box [1]; b: box its default"
    )


def test_options_of_a_component_inside():
    inner = {"use": "net", "width": 8, "depth": 2}
    sections = {"a": {"prior": inner}, "b": {"prior": inner | {"width": 16}}}
    assert differing(sections) == "a: prior.width 8; b: prior.width 16"
    assert differing({"a": {"prior": inner}, "b": {"prior": {"use": "other"}}}) == (
        "a: prior net; b: prior other"
    )


def test_a_hundred_variants_are_a_line_too():
    sections = {f"variant_{i}": {"x": "flow" if i > 39 else "epsilon"} for i in range(100)}
    assert differing(sections) == (
        "variant_0, variant_1, variant_2, variant_3 and 36 more: x epsilon (others flow)"
    )
    each = differing({f"v{i}": {"x": i} for i in range(100)})
    assert each.startswith("v0: x 0; v1: x 1; ") and each.endswith(
        f"; and {100 - MOST_GROUPS} more"
    )


def test_names_and_values_are_cut():
    assert listed(["a", "b", "c"], 2) == "a, b, c"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert shown(None) == "none" and shown(True) == "true" and shown("a") == "a"
    long = shown({"key": "x" * 100})
    assert len(long) == WIDEST and long.startswith("{key: xxx") and long.endswith("…")
