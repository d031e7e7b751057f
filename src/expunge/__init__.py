"""Expunge makes a language model forget chosen data, and measures whether it did.

    import expunge

    result = expunge.unlearn(model, forget, retain=retain, tokenizer=tokenizer, method="NPO", learning_rate=1e-5)
    print(expunge.evaluate(model, tokenizer, forget=forget, retain=retain))

`dir(expunge)` lists the public names. Each is loaded when it is first used, so `import expunge` is fast.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time `__getattr__` loads the same names
    from expunge.audits.api import audit_registry
    from expunge.audits.run import AuditReport, audit
    from expunge.audits.write_probes import write_probes
    from expunge.benchmarks.api import Benchmark, benchmark
    from expunge.benchmarks.api import benchmarks as benchmark_registry
    from expunge.core.errors import ConfigError, DataError, ExpungeError, JobError
    from expunge.data.examples import Example, ExampleSet
    from expunge.data.in_memory import examples_from
    from expunge.data.template import Template
    from expunge.evaluation.compare import Comparison, compare
    from expunge.evaluation.config import Generation
    from expunge.evaluation.result import EvalResult
    from expunge.evaluation.wrapping import wrap
    from expunge.interpretability.layer_report import LayerReport
    from expunge.judges.api import Judge, JudgementTable
    from expunge.judges.rules import RuleJudge
    from expunge.methods.api import LossInputs, Quantity, Requirements, SideOutputs, method
    from expunge.methods.api import registry as method_registry
    from expunge.methods.custom_loss import CustomLoss, unlearning_loss
    from expunge.metrics.api import Metric
    from expunge.metrics.equivalence import AuditFinding
    from expunge.metrics.verdict import Verdict, VerdictAnswer
    from expunge.models.wrapped import WrappedModel
    from expunge.pipelines.study.api import Study
    from expunge.pipelines.study.demo import DemoWorld, demo_world
    from expunge.pipelines.study.handle import load_study
    from expunge.pipelines.study.inspection import inspect
    from expunge.pipelines.study.job_handle import load_job
    from expunge.pipelines.study.library import evaluate, load_benchmark
    from expunge.pipelines.study_jobs.judging import judge
    from expunge.training.in_memory.method_configs import (
        AltPOConfig,
        CEUConfig,
        CIRConfig,
        DPOConfig,
        FinetuneConfig,
        FLATConfig,
        GradAscentConfig,
        GradDiffConfig,
        IdkNLLConfig,
        IHLConfig,
        JensUnConfig,
        KLConfig,
        MEConfig,
        NPOConfig,
        PDUConfig,
        PURGEConfig,
        R2MUConfig,
        RepNoiseConfig,
        RMUConfig,
        RRConfig,
        RULEConfig,
        SatImpConfig,
        SemEvalGAConfig,
        SimNPOConfig,
        TPOConfig,
        UNDIALConfig,
        UNDOConfig,
        UnilogitConfig,
        WGAConfig,
        WHPConfig,
    )
    from expunge.training.in_memory.unlearn import UnlearnResult, unlearn
    from expunge.training.in_memory.unlearn_config import UnlearnConfig
    from expunge.training.in_memory.unlearn_trainer import UnlearnTrainer
    from expunge.training.lora import LoraArgs
    from expunge.training.schedule import Schedule

__version__ = "0.2.0"

__all__ = [
    # Unlearning
    "unlearn",
    "UnlearnResult",
    "UnlearnTrainer",
    "UnlearnConfig",
    "LoraArgs",
    "Schedule",
    "AltPOConfig",
    "CEUConfig",
    "CIRConfig",
    "DPOConfig",
    "FinetuneConfig",
    "FLATConfig",
    "GradAscentConfig",
    "GradDiffConfig",
    "IdkNLLConfig",
    "IHLConfig",
    "JensUnConfig",
    "KLConfig",
    "MEConfig",
    "NPOConfig",
    "PDUConfig",
    "PURGEConfig",
    "R2MUConfig",
    "RepNoiseConfig",
    "RMUConfig",
    "RRConfig",
    "RULEConfig",
    "SatImpConfig",
    "SemEvalGAConfig",
    "SimNPOConfig",
    "TPOConfig",
    "UNDIALConfig",
    "UNDOConfig",
    "UnilogitConfig",
    "WGAConfig",
    "WHPConfig",
    # Losses and methods of your own
    "unlearning_loss",
    "CustomLoss",
    "LossInputs",
    "SideOutputs",
    "Requirements",
    "Quantity",
    "method",
    "method_registry",
    # Evaluation
    "evaluate",
    "wrap",
    "WrappedModel",
    "EvalResult",
    "compare",
    "Comparison",
    "Verdict",
    "VerdictAnswer",
    "Generation",
    "Metric",
    # Data and benchmarks
    "load_benchmark",
    "demo_world",
    "DemoWorld",
    "Benchmark",
    "benchmark",
    "benchmark_registry",
    "examples_from",
    "Example",
    "ExampleSet",
    "Template",
    # Audits, inspection and judges
    "audit",
    "AuditReport",
    "AuditFinding",
    "write_probes",
    "audit_registry",
    "inspect",
    "LayerReport",
    "judge",
    "Judge",
    "JudgementTable",
    "RuleJudge",
    # Studies
    "Study",
    "load_study",
    "load_job",
    # Errors
    "ExpungeError",
    "ConfigError",
    "DataError",
    "JobError",
]

# The modules that define the public names.
_HOMES: dict[str, tuple[str, ...]] = {
    "training.in_memory.unlearn": ("unlearn", "UnlearnResult"),
    "training.in_memory.unlearn_trainer": ("UnlearnTrainer",),
    "training.in_memory.unlearn_config": ("UnlearnConfig",),
    "training.lora": ("LoraArgs",),
    "training.schedule": ("Schedule",),
    "training.in_memory.method_configs": tuple(
        name for name in __all__ if name.endswith("Config") and name != "UnlearnConfig"
    ),
    "methods.custom_loss": ("unlearning_loss", "CustomLoss"),
    "methods.api": ("LossInputs", "SideOutputs", "Requirements", "Quantity", "method", "method_registry"),
    "evaluation.wrapping": ("wrap",),
    "models.wrapped": ("WrappedModel",),
    "pipelines.study.demo": ("demo_world", "DemoWorld"),
    "pipelines.study.library": ("evaluate", "load_benchmark"),
    "evaluation.result": ("EvalResult",),
    "evaluation.compare": ("compare", "Comparison"),
    "evaluation.config": ("Generation",),
    "metrics.api": ("Metric",),
    "metrics.equivalence": ("AuditFinding",),
    "metrics.verdict": ("Verdict", "VerdictAnswer"),
    "benchmarks.api": ("Benchmark", "benchmark", "benchmark_registry"),
    "data.in_memory": ("examples_from",),
    "data.examples": ("Example", "ExampleSet"),
    "data.template": ("Template",),
    "audits.run": ("audit", "AuditReport"),
    "audits.write_probes": ("write_probes",),
    "audits.api": ("audit_registry",),
    "pipelines.study.inspection": ("inspect",),
    "interpretability.layer_report": ("LayerReport",),
    "pipelines.study_jobs.judging": ("judge",),
    "judges.api": ("Judge", "JudgementTable"),
    "judges.rules": ("RuleJudge",),
    "pipelines.study.api": ("Study",),
    "pipelines.study.handle": ("load_study",),
    "pipelines.study.job_handle": ("load_job",),
    "core.errors": ("ExpungeError", "ConfigError", "DataError", "JobError"),
}
_INNER = {"method_registry": "registry", "benchmark_registry": "benchmarks"}  # other names in their modules
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

# peft imports bitsandbytes where it is installed, which on a CPU reports a missing kernel that it does not need
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "from kernels-community" not in str(record.msg)
)


if not TYPE_CHECKING:  # a type checker would take any name

    def __getattr__(name: str) -> Any:
        """Load a public name when it is first used."""
        if name not in _MODULES:
            raise AttributeError(f"module 'expunge' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"expunge.{_MODULES[name]}"), _INNER.get(name, name))
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
