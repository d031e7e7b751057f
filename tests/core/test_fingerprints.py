from __future__ import annotations

from typing import Any

import pytest

from expunge.core.fingerprints import fingerprint, fingerprint_rows


@pytest.mark.parametrize("n", [0, 1, 1024, 1025, 3000])
@pytest.mark.parametrize("fields", [None, {"form": "text", "shots": (("a", 'é"rows":[]'),), "zeta": 1.0}])
def test_rows_in_blocks_have_the_fingerprint_of_the_whole(n: int, fields: Any) -> None:
    rows = [{"row_id": i, "question": f"é {i}", "answers": {"answer": '"rows":[]'}, "meta": {}} for i in range(n)]
    assert fingerprint_rows(rows, fields) == fingerprint(rows if fields is None else {**fields, "rows": rows})
