"""A record kind and a metric of your own: the norm of the last hidden state at the tokens of the answer.

Try: expunge eval --plugin hidden_norm.py model=llama-64k benchmark=world task_name=norms eval.metrics=hidden_norm
"""

import pyarrow as pa
import torch

from expunge.evaluation.kinds import ScoringInputs, record_kind
from expunge.metrics import MetricInputs, MetricResult, family
from expunge.metrics.aggregate import mean_over_rows

SCHEMA = pa.schema([("row_id", pa.int32()), ("variant", pa.string()), ("norm", pa.float64())])


@record_kind("hidden_norm", schema=SCHEMA)
def score_hidden_norm(inputs: ScoringInputs) -> pa.Table:
    """Read each answer once; one line per answer, with the mean norm over its tokens."""
    wanted = [(row, name) for row in inputs.examples for name in inputs.names if name in row.answers]
    lines = []
    for (row, name), encoded in zip(wanted, inputs.encoder.rows(inputs.examples, wanted), strict=True):
        ids = torch.tensor([encoded.ids], device=inputs.model.device)
        with torch.no_grad():
            hidden_TD = inputs.model(ids, output_hidden_states=True).hidden_states[-1][0, encoded.n_prompt :]
        norm = float(hidden_TD.double().norm(dim=-1).mean())
        lines.append({"row_id": row.row_id, "variant": name, "norm": norm})
    return pa.Table.from_pylist(lines, schema=SCHEMA)


@family("hidden_norm", higher_is="a longer hidden state", range="[0, inf)", reads={"hidden_norm": "answer"})
def hidden_norm(inputs: MetricInputs) -> MetricResult:
    """The mean over examples of the norm of the answer's last hidden states."""
    norms = inputs.numbers("hidden_norm")
    values = norms.columns["norm"]
    return mean_over_rows(norms.row_ids, values, {"norm": values.tolist()})
