"""What to try next: the search space and its Optuna studies."""
