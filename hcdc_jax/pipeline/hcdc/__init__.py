"""What HCDC needs of a run: candidates to match, their full trainings, networks on S_train, refinements."""
