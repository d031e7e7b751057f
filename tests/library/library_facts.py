"""The invented facts and the short settings of these tests."""

from __future__ import annotations

from typing import Any

NAMES = ("Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal")
FACTS = [{"question": f"Where does {n} live?", "answer": f"{n} lives in town {i * 7}."} for i, n in enumerate(NAMES)]
FORGET, RETAIN = FACTS[:3], FACTS[3:]
SHORT: dict[str, Any] = {
    "learning_rate": 5e-3,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "logging_steps": 1,
}
