"""Sizes of the variants."""

import pytest
from mmcore.errors import RecipeError
from mmcore_glamm.config import VARIANTS


def test_an_unknown_setting_is_refused_with_the_nearest_name():
    with pytest.raises(RecipeError, match="towr"):
        VARIANTS["tiny"].replace(towr={})
