"""Diagnosis: what is wrong with a trained model, as findings with stable codes TB001, TB002, …, and what to do about it."""
