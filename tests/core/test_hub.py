"""A hub that cannot be reached: the local cache is read, and nobody waits for minutes."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from expunge.core import hub
from expunge.models.identity import hub_file, small_files

NO_CONNECTION = HfHubHTTPError.__mro__[1]  # the base of the HTTP library's errors


@pytest.fixture
def hub_answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The answers of the hub that come next: True for an answer, False for a connection that fails."""
    answers: list[bool] = []

    def head(address: str, timeout: float) -> None:
        if not answers.pop(0):
            raise NO_CONNECTION("Name or service not known")

    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: types.SimpleNamespace(head=head))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_answered", None)
    return answers


def test_without_an_answer_the_cache_is_read_in_the_context_alone(hub_answers: list[bool]) -> None:
    hub_answers += [False]
    for _ in range(2):  # the second time, nobody asks
        with hub.cache_if_unreachable():
            assert constants.HF_HUB_OFFLINE
            with hub.cache_if_unreachable():
                assert constants.HF_HUB_OFFLINE
        assert not constants.HF_HUB_OFFLINE
    with pytest.raises(KeyError), hub.cache_if_unreachable():
        raise KeyError
    assert not constants.HF_HUB_OFFLINE and hub_answers == []


def test_a_hub_that_answers_is_used_and_asked_again_after_a_while(
    hub_answers: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_answers += [True, False, True]
    for offline in (False, True, False):
        with hub.cache_if_unreachable():
            assert offline == constants.HF_HUB_OFFLINE
        monkeypatch.setattr(hub, "AGAIN_S", -1.0)


def test_files_in_the_cache_need_no_request(
    hub_answers: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--kept" / "snapshots" / ("d" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(snapshot / "config.json"))
    assert small_files("org/kept", "d" * 40) == snapshot
    assert hub_file("org/kept", "d" * 40, "config.json") == snapshot / "config.json"
    assert hub._answered is None  # no request: `hub_answers` has none


@pytest.mark.slow
def test_a_command_does_not_try_five_times(tmp_path: Path) -> None:
    words = ["eval", "experiment=eval/tofu/default", "model=Llama-3.2-1B-Instruct", "task_name=x"]
    hub_settings = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "expunge", *words],
        cwd=tmp_path,
        env={**os.environ, **hub_settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "hub is out of reach" in done.stderr and "Retry" not in done.stderr
