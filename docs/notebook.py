"""From arrays to the winner as a model: the cells of a notebook as one script, which a test runs."""

# %% Data as arrays: three classes of a long tail. Held-out samples are drawn from each class.
import numpy as np
import torch

from orchestrator import Sweep, open_sweep

draw = np.random.default_rng(0)
labels = np.repeat([0, 1, 2], [300, 200, 150])
features = (1.5 * np.eye(3, 8)[labels] + draw.normal(size=(len(labels), 8))).astype("float32")

# %% The question, in the keys of a sweep file.
question = {
    "name": "from_arrays",
    "objectives": ["min_recall"],
    "model": {"name": "linear_head"},
    "pretrain": {"epochs": 5},
    "parameters": {"lr": {"min": 0.003, "max": 0.1}, "steps": {"value": 40}},
    "search": {"num_trials": 3},
    "selection": {"replicates": 2, "finalists": 1},
}
names = ["common", "seldom", "rare"]
sweep = Sweep.from_arrays(question, features, labels, class_names=names, feedback=20, select=48, test=50)
sweep.validate()

# %% Run it in this process; without in_process it runs on Ray.
done = sweep.launch(in_process=True)
print(done.show())

# %% Later, or elsewhere: the trials as a data frame, the winner, and its verdict.
done = open_sweep("from_arrays")
trials = done.trials(as_frame=True)
print(trials[["trial_id", "state", "score", "config.lr", "select.min_recall"]])
print(done.winner.approach, done.verdict.outcome)

# %% The winner as a model.
model = done.load()
predicted, probabilities = model.predict(torch.from_numpy(features[:5]))
