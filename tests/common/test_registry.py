"""Names and what they stand for."""

import math

import pytest

from common.errors import ConfigError
from common.registry import Registry


def test_a_name_is_loaded_from_its_place_when_it_is_used():
    shapes = Registry("shape", {"root": "math:sqrt", "nowhere": "no_such_module:nothing"})
    assert shapes.load("root")(9) == 3
    shapes["power"] = "math:pow"
    assert shapes.load("power")(2, 3) == 8
    assert tuple(shapes) == ("root", "nowhere", "power")
    shapes.check("nowhere")  # a known name, of which nothing has been loaded
    said = "shape 'nowhere': 'no_such_module:nothing' cannot be loaded: No module named 'no_such_module'"
    with pytest.raises(ConfigError, match=f"^{said}$"):
        shapes.load("nowhere")
    shapes["typo"] = "math:sqr"
    with pytest.raises(
        ConfigError, match=r"^shape 'typo': 'math:sqr' cannot be loaded: module 'math' has no attribute"
    ):
        shapes.load("typo")


def test_what_is_of_another_class_is_one_line():
    numbers = Registry("number", {"pi": "math:pi", "root": "math:sqrt"}, of="builtins:float")
    assert numbers.load("pi") == math.pi
    with pytest.raises(ConfigError) as error:
        numbers.load("root")
    assert str(error.value) == "number 'root': math:sqrt is a builtin_function_or_method; it must be a float"


@pytest.mark.parametrize("ask", [Registry.check, Registry.load])
def test_an_unknown_name_is_one_line_with_a_suggestion(ask):
    with pytest.raises(ConfigError) as error:
        ask(Registry("shape", {"root": "math:sqrt", "power": "math:pow"}), "rout")
    assert str(error.value) == "unknown shape 'rout'; allowed: root, power; did you mean root?"


def test_what_else_is_allowed_is_said_too():
    with pytest.raises(ConfigError, match=r"^unknown shape 'x'; allowed: root, PATH$"):
        Registry("shape", {"root": "math:sqrt"}).check("x", also="PATH")
