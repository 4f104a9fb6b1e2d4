"""The alignment tax in one picture (paper Figs. 28, 29 and 33 to 36): the three seeds of the lab's study and the sweeps as kept in
docs/results.

    python -m instruct_jax.main --config configs/evaluate/tax.py --workdir runs/tax

`runs` takes run folders and files: the lab's recipe, its summary.json, and the summary.json of an automatic evaluation; runs of one size
are pooled. `sweeps` takes the reports of configs/sweeps/lab_ptx.py (Fig. 33), lab_kl.py (Figs. 34 and 36) and lab_episodes.py (Fig. 35),
such as runs/sweeps/lab_ptx, or of any other sweep.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            stage="tax",
            name="tax",
            seed=0,
            base="base",
            runs=dict(
                seed_0=dict(path="docs/results/lab/seed_0.json", size=0.9e6),
                seed_1=dict(path="docs/results/lab/seed_1.json", size=0.9e6),
                seed_2=dict(path="docs/results/lab/seed_2.json", size=0.9e6),
            ),
            sweeps=dict(
                pretraining=dict(
                    path="docs/results/sweeps/lab_ptx",
                    title="Pretraining coefficient (Fig. 33)",
                    metrics=(
                        "tasks/recall",
                        "tasks/language_modelling",
                        "judged/rm_score",
                        "judged/preferred",
                    ),
                ),
                kl=dict(
                    path="docs/results/sweeps/lab_kl",
                    title="KL coefficient (Figs. 34 and 36)",
                    metrics=(
                        "tasks/recall",
                        "tasks/language_modelling",
                        "judged/rm_score",
                        "judged/preferred",
                    ),
                ),
                episodes=dict(
                    path="docs/results/sweeps/lab_episodes",
                    title="Episodes without pretraining gradients (Fig. 35)",
                    metrics=("tasks/recall", "tasks/language_modelling", "judged/preferred"),
                ),
            ),
        )
    ).lock()
