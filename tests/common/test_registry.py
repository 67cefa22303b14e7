"""Names and what they stand for."""

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
    with pytest.raises(ModuleNotFoundError):
        shapes.load("nowhere")


@pytest.mark.parametrize("ask", [Registry.check, Registry.load])
def test_an_unknown_name_is_one_line_with_a_suggestion(ask):
    with pytest.raises(ConfigError) as error:
        ask(Registry("shape", {"root": "math:sqrt", "power": "math:pow"}), "rout")
    assert str(error.value) == "unknown shape 'rout'; allowed: root, power; did you mean root?"


def test_what_else_is_allowed_is_said_too():
    with pytest.raises(ConfigError, match=r"^unknown shape 'x'; allowed: root, PATH$"):
        Registry("shape", {"root": "math:sqrt"}).check("x", also="PATH")
