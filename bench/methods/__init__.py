"""Every method on the tasks that ship, side by side; `python -m bench.methods` from the repository.

    python -m bench.methods                                       # what is not done yet
    python -m bench.methods --methods svm model_tuning --tasks banking77 sms_spam
    python -m bench.methods --seeds 0 --steps 20 --test 100 --directory runs/quick --output q.json
    python -m bench.methods --render                              # the page alone, from the results

It is a study like any other (`spot_jax.studies.engine`): a job is a method on a task, what is done
is in runs/bench_methods and is not done again, and the same command twice shares the work. Results
go to bench/results/methods.json, the page to docs/methods.md.

    tasks       the tasks, their lengths, and what all cells share
    results     cells, and the file they are kept in
    study       the jobs
    baselines   the commonest label, no prompt, and a linear SVM
    prompts     methods with prompts: a grid chosen on validation, then every seed
    models      model tuning, of one task and after a mixture
    others      P-Tuning, prefixes, intrinsic subspaces, Y-Tuning: what of each is tried
    ways        the methods by name
    ablations   Y-Tuning's ablations, a table a command
    summary     means, shares and intervals over cells
    page        the page
"""
