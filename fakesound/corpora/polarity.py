"""Whether labels and regions agree: datasets disagree on which of 0 and 1 means forged.

Clips labelled genuine are the witnesses: whatever polarity the frame labels have, nothing of a genuine clip
is forged.
"""

import pyarrow as pa

from fakesound.core.errors import UserError


def check_polarity(table: pa.Table) -> None:
    """Check a table with the manifest's columns.

    Raises:
        UserError: genuine clips hold forged stretches, or forged clips hold none; names how many and one.
    """
    rows = table.select(["clip_id", "label", "regions"]).to_pylist()
    genuine = [row for row in rows if row["label"] == 0]
    wrong = [row["clip_id"] for row in genuine if row["regions"]]
    empty = [row["clip_id"] for row in rows if row["label"] == 1 and not row["regions"]]
    if wrong:
        reversed_ = ": the polarity of the frame labels is reversed" if 2 * len(wrong) > len(genuine) else ""
        found = f"{len(wrong)} of {len(genuine)} genuine clips hold forged stretches, such as {wrong[0]}"
        raise UserError(found + reversed_)
    if empty:
        raise UserError(f"{len(empty)} forged clips hold no forged stretch, such as {empty[0]}")
