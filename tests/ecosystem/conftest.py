"""A model that encodes clips as long as they are, and a question about a short one."""

import pytest

from tiny_salmonn import ask, noise, question, tiny_config, tiny_processor


@pytest.fixture(scope="module")
def config():
    return tiny_config(fixed_length=False)


@pytest.fixture(scope="module")
def inputs(config):
    return ask(tiny_processor(config), question(noise(0.6)))
