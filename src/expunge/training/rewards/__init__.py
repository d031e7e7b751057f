"""Rewards: a number for each text that a model samples during training. A new file of this folder registers itself."""

from __future__ import annotations

from expunge.training.rewards.api import RewardSpec, Rollout, find_reward, reward, rewards

__all__ = ["RewardSpec", "Rollout", "find_reward", "reward", "rewards"]
