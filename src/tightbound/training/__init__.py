"""Training: the plan, the compiled loop and the state that a run can be resumed from."""
