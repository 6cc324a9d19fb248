"""Every manifest follows the published schema."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError
from test_export import PAIRS

from genedge.runtime.schedulers import SCHEDULERS

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "manifest.schema.json").read_text())


@pytest.mark.parametrize(("target", "precision"), PAIRS)
def test_a_manifest_follows_the_schema(artifacts, target, precision):
    row = json.loads((artifacts[target, precision] / "manifest.json").read_text())
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(row)
    del row["components"][0]["files"][0]["sha256"]
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMA).validate(row)


def test_every_scheduler_that_pipelines_take_is_in_the_schema():
    config = SCHEMA["properties"]["sampler"]["properties"]["config"]["properties"]["_class_name"]
    assert set(config["enum"]) == set(SCHEDULERS)
