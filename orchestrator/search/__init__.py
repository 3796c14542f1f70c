"""The choice of the next run: the search space, its Optuna studies, and lists of known runs."""
