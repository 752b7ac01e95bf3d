"""Metrics on stored rewards: pure functions of tables; every number has an n and an interval."""
