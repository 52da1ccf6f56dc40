"""The Parquet tables that stages hand each other: their columns, units and versions, in one place.

Labels have one polarity everywhere: 1 = forged, 0 = genuine.
"""

import pyarrow as pa

from fakesound.core.errors import IntegrityError

REGIONS = pa.list_(pa.struct([pa.field("onset_s", pa.float64()), pa.field("offset_s", pa.float64())]))

GENUINE = "genuine"  # `family` and `mechanism` of clips nobody forged

PARTITIONS = ("train", "validation", "validation_unseen", "test")


def _versioned(name: str, version: int, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={"table": name, "schema_version": str(version)})


def _column(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={"meaning": meaning})


MANIFEST = _versioned(
    "manifest",
    1,
    [
        _column("clip_id", pa.string(), "unique in the corpus"),
        _column("path", pa.string(), "audio file, relative to the corpus; absolute in an imported manifest"),
        _column(
            "source_ids",
            pa.list_(pa.string()),
            "every recording heard, those of its scene and donors included",
        ),
        _column(
            "source_component",
            pa.string(),
            "connected component of sources, or a scene's block: the unit of resampling",
        ),
        _column("group", pa.string(), "speaker, session, file, or a scene's block: never crosses partitions"),
        _column("partition", pa.string(), "train | validation | validation_unseen | test"),
        _column("family", pa.string(), "attack family, or 'genuine'"),
        _column("mechanism", pa.string(), "cousin families share one, or 'genuine'"),
        _column("label", pa.int8(), "1 = forged, 0 = genuine"),
        _column("length_regime", pa.string(), "distribution of region lengths: 'train' or 'wide'"),
        _column("mask_id", pa.string(), "clips with equal mask_id share source stretch and regions"),
        _column("regions", REGIONS, "forged stretches, s from clip start, borders at crossfade midpoints"),
        _column("control_regions", REGIONS, "genuine splices of the same recording, s from clip start"),
        _column("duration_s", pa.float64(), "s"),
        _column("sample_rate_hz", pa.int32(), "of the audio file, Hz"),
        _column(
            "native_sample_rate_hz",
            pa.int32(),
            "of the original; of a scene: the highest that anything in it fills, Hz",
        ),
        _column(
            "native_bandwidth_hz", pa.float64(), "highest frequency with content in the original or scene, Hz"
        ),
        _column("content_sha256", pa.string(), "of the audio file's bytes"),
        _column("seed", pa.int64(), "drew everything random about this clip"),
    ],
)

REJECTS = _versioned(
    "rejects",
    1,
    [
        _column("path", pa.string(), "recording, relative to the scanned folder, or scene"),
        _column("reason", pa.string(), "why it cannot be used, and what to do"),
    ],
)


def features_schema(num_mels: int, metadata: dict[str, str]) -> pa.Schema:
    """One row a clip: every manifest column, then the features.

    Args:
        num_mels: width of one frame.
        metadata: written into the schema (front-end config, digests, units).
    """
    frame = pa.field("element", pa.binary(2 * num_mels), nullable=False)
    fields = [
        *MANIFEST,
        _column("hop_s", pa.float64(), "s from frame to frame"),
        _column("features", pa.list_(frame), "(frames,) of (mels,) in half precision, little-endian"),
        _column("frame_labels", pa.list_(pa.uint8()), "(frames,), 1 = forged"),
    ]
    schema = _versioned("features", 2, fields)
    return schema.with_metadata({**(schema.metadata or {}), **metadata})


PREDICTIONS = _versioned(
    "predictions",
    1,
    [
        _column("clip_id", pa.string(), "a clip may appear in several splits"),
        _column("label", pa.int8(), "1 = forged, 0 = genuine"),
        _column("score", pa.float64(), "probability that the clip is forged"),
        _column("hop_s", pa.float64(), "s from frame to frame"),
        _column("frame_labels", pa.list_(pa.uint8()), "(frames,), 1 = forged"),
        _column("frame_scores", pa.list_(pa.float32()), "(frames,), probability that the frame is forged"),
        _column("split", pa.string(), "view of the corpus: validation, easy, hard, zeroshot, …"),
        _column("family", pa.string(), "attack family, or 'genuine'"),
        _column("source", pa.string(), "connected component of sources: the unit of resampling"),
    ],
)


def check_schema(found: pa.Schema, expected: pa.Schema, where: str) -> None:
    """Refuse a table of another name, version or columns.

    Raises:
        IntegrityError: says what differs.
    """
    wanted = expected.metadata or {}
    have = found.metadata or {}
    for key in (b"table", b"schema_version"):
        if have.get(key) != wanted.get(key):
            raise IntegrityError(
                f"{where}: {key.decode()} is {have.get(key)!r}, expected {wanted.get(key)!r}; rebuild it"
            )
    if not found.equals(expected, check_metadata=False):
        raise IntegrityError(f"{where}: columns differ from schema {wanted[b'table'].decode()}; rebuild it")
