"""A study for a Slurm cluster: plan it here, then write its sbatch scripts without queueing them."""

import sys
import tempfile
from pathlib import Path

import expunge

STUDY = """
# @package _global_
defaults:
  - override /model: llama-64k
name: two_methods
benchmark: world
data:
  world: {authors: 6, questions_per_author: 4, forget_fraction: 0.34, facts: 6, holdout_authors: 2}
methods:
  - {trainer: NPO}
  - {trainer: SimNPO}
seeds: {unlearn: [0, 1]}
"""

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
file = folder / "two_methods.yaml"
file.write_text(STUDY)
study = expunge.Study.from_yaml(file, f"paths.store={folder / 'store'}", f"paths.output_dir={folder / 'report'}")
print(study)
print(study.plan().groupby("kind").size())
for script in study.export_slurm(folder / "slurm"):
    print(script.name)
