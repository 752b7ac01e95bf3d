"""Metrics on stored rewards: pure functions of tables, with an n and an interval to every number."""
