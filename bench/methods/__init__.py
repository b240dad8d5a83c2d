"""Every method on the tasks that ship, side by side; `python -m bench.methods` from the repository.

    python -m bench.methods                                       # what is not done yet
    python -m bench.methods --methods svm model_tuning --tasks banking77 sms_spam
    python -m bench.methods --render                              # the page alone, from the results

A cell is a method on a task. What is done is in bench/results/methods.json and is not done again;
the same command goes on where it stopped. The page is docs/methods.md. Runs are kept in
runs/bench_methods, because some methods begin from others' prompts.

    tasks       the tasks, their lengths, and what all cells share
    results     cells, and the file they are kept in
    baselines   majority and a linear SVM
    prompts     methods with prompts: a grid chosen on validation, then every seed
    models      model tuning, of one task and after a mixture
    others      P-Tuning, prefixes, intrinsic subspaces, Y-Tuning: what of each is tried
    ways        the methods by name
    summary     means, shares and intervals over cells
    page        the page
"""
