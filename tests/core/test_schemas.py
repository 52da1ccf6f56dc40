import pyarrow as pa
import pytest

from fakesound.core import schemas
from fakesound.core.errors import IntegrityError


def test_a_table_of_its_own_schema_passes():
    schemas.check_schema(schemas.MANIFEST, schemas.MANIFEST, "here")


def test_another_version_is_refused():
    older = schemas.MANIFEST.with_metadata({"table": "manifest", "schema_version": "0"})
    with pytest.raises(IntegrityError, match="schema_version"):
        schemas.check_schema(older, schemas.MANIFEST, "here")


def test_missing_columns_are_refused():
    narrow = pa.schema(list(schemas.MANIFEST)[:3], metadata=schemas.MANIFEST.metadata)
    with pytest.raises(IntegrityError, match="columns differ"):
        schemas.check_schema(narrow, schemas.MANIFEST, "here")


def test_features_hold_every_manifest_column_and_the_metadata_given():
    schema = schemas.features_schema(64, {"units": "log power"})
    assert schema.names[: len(schemas.MANIFEST)] == schemas.MANIFEST.names
    assert schema.metadata is not None and schema.metadata[b"units"] == b"log power"
